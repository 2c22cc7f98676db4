// The arguments of the LSTM layer: checks, panels, scratch memory.
#include "bindings_cpu_lstm.h"

namespace ulmfit_fast {

LstmGrid make_grid(int64_t n_panels, int64_t B, const LstmKernels& kernels) {
  const int64_t wanted = 4 * static_cast<int64_t>(torch::stable::get_num_threads());
  int64_t rows = ceil_div(B, ceil_div(B, kernels.n_chunk_rows));
  while (n_panels * ceil_div(B, rows) < wanted && rows > kernels.n_tile_rows) {
    rows = ceil_div(ceil_div(rows, 2), kernels.n_tile_rows) * kernels.n_tile_rows;
    if (rows <= kernels.n_tile_rows) break;
  }
  rows = std::min(rows, kernels.n_chunk_rows);
  return {n_panels, ceil_div(B, rows), rows};
}

Tensor make(const Tensor& like, std::vector<int64_t> sizes, ScalarType dtype) {
  return torch::stable::new_empty(like, sizes, dtype);
}

Tensor scratch_matrix(const Layer& layer, Scratch::Part part, int64_t rows, int64_t columns,
                      ScalarType dtype) {
  const std::array<int64_t, 2> sizes{rows, columns}, strides{columns, 1};
  const size_t bytes = static_cast<size_t>(rows * columns) * bytes_of(dtype);
  return torch::stable::from_blob(layer.scratch.part(part, bytes), sizes, strides, layer.x.device(),
                                  dtype);
}

Tensor zeros(const Tensor& like, std::vector<int64_t> sizes, ScalarType dtype) {
  return torch::stable::new_zeros(like, sizes, dtype);
}

Tensor copy_of(const Tensor& source, ScalarType dtype) {
  const auto sizes = source.sizes();
  Tensor copy = make(source, std::vector<int64_t>(sizes.begin(), sizes.end()), dtype);
  return torch::stable::copy_(copy, source);
}

Tensor stored(const Layer& layer, const Tensor& weight) {
  return weight.scalar_type() == layer.storage ? weight : copy_of(weight, layer.storage);
}

void check_sizes(const char* name, const Tensor& tensor, const Tensor& x,
                 std::vector<int64_t> sizes, std::optional<ScalarType> other) {
  const auto found = tensor.sizes();
  STD_TORCH_CHECK(
      found.size() == sizes.size() && std::equal(found.begin(), found.end(), sizes.begin()), name,
      ": wrong shape");
  const ScalarType dtype = tensor.scalar_type();
  STD_TORCH_CHECK(dtype == x.scalar_type() || (other.has_value() && dtype == *other), name,
                  ": wrong dtype");
  STD_TORCH_CHECK(tensor.device() == x.device(), name, ": expected on the device of x");
}

Layer check_layer(const Tensor& x, const Tensor& w_ih, const Tensor& w_hh, const Tensor& h0,
                  const Tensor& c0, const std::optional<Tensor>& lengths,
                  const std::optional<Tensor>& seed, double drop_p, bool reverse,
                  std::optional<int64_t> n_states) {
  STD_TORCH_CHECK(x.dim() == 3 && x.numel() / std::max<int64_t>(1, x.size(2)) > 0,
                  "x: expected shape [T, B, I] with T, B >= 1");
  STD_TORCH_CHECK(w_hh.dim() == 2 && w_hh.size(1) > 0, "w_hh: expected shape [4H, H]");
  const DType dtype = check_dtype("x", x);
  const int64_t B = x.size(1), I = x.size(2), H = w_hh.size(1);
  const ScalarType compute = dtype == DType::kFloat64 ? ScalarType::Double : ScalarType::Float;
  check_sizes("w_ih", w_ih, x, {4 * H, I}, compute);
  check_sizes("w_hh", w_hh, x, {4 * H, H}, compute);
  STD_TORCH_CHECK(w_ih.scalar_type() == w_hh.scalar_type(), "w_hh: wrong dtype");
  check_sizes("h0", h0, x, {n_states.value_or(B), H});
  check_sizes("c0", c0, x, {n_states.value_or(B), H}, compute);
  if (lengths.has_value()) {
    STD_TORCH_CHECK(lengths->scalar_type() == ScalarType::Long && lengths->dim() == 1 &&
                        lengths->size(0) == B && lengths->device() == x.device(),
                    "lengths: expected an int64 tensor of shape [B] on the device of x");
  }
  STD_TORCH_CHECK(drop_p == 0 || seed.has_value(), "seed: a tensor is needed where drop_p > 0");
  if (seed.has_value()) check_seed(*seed, x);
  check_drop_p(drop_p);
  const LstmKernels& kernels = lstm_kernels_cpu(dtype, H);
  const ScalarType element = kernels.pairs ? ScalarType::BFloat16 : compute;
  const auto contiguous = [](const Tensor& t) { return torch::stable::contiguous(t); };
  std::optional<Tensor> lengths_contiguous;
  if (lengths.has_value()) lengths_contiguous = contiguous(*lengths);
  return {contiguous(x),
          contiguous(w_ih),
          contiguous(w_hh),
          contiguous(h0),
          contiguous(c0),
          lengths_contiguous,
          seed,
          drop_p,
          reverse,
          x.size(0),
          B,
          I,
          H,
          x.scalar_type(),
          compute,
          element,
          kernels};
}

PackParams describe(const Tensor& matrix, const LstmKernels& kernels) {
  PackParams params{};
  params.source = matrix.const_data_ptr();
  params.n_rows = params.n_first = matrix.size(0);
  params.n_cols = matrix.size(1);
  params.element_size = static_cast<int64_t>(matrix.element_size());
  params.wide =
      matrix.scalar_type() == ScalarType::Float || matrix.scalar_type() == ScalarType::Double;
  params.depth = kernels.depth;
  return params;
}

Mask mask_of(const Layer& layer) {
  if (layer.drop_p == 0) return {};
  return {true, static_cast<uint64_t>(*layer.seed->const_data_ptr<int64_t>()),
          drop_threshold(layer.drop_p), 1.0 / (1.0 - layer.drop_p)};
}

const void* pack_gates(const Layer& layer, Scratch::Part part, const Tensor& weight, Mask mask) {
  const LstmKernels& kernels = layer.kernels;
  const int64_t n_panels = ceil_div(layer.H, kernels.n_units);
  const int64_t K = ceil_div(weight.size(1), kernels.depth) * kernels.depth;
  const size_t elements = static_cast<size_t>(n_panels * K * 4 * kernels.n_units);
  PackParams params = describe(weight, kernels);
  params.panels = layer.scratch.part(part, elements * bytes_of(layer.element));
  params.mask = mask;
  in_parallel(n_panels, K * 4 * kernels.n_units, kGrainElements,
              [&](int64_t first, int64_t last) { kernels.pack_gates(params, first, last); });
  return params.panels;
}

const void* pack_rows(const Layer& layer, Scratch::Part part, PackParams params) {
  const LstmKernels& kernels = layer.kernels;
  const int64_t K = params.padded(params.n_rows), together = kernels.pairs ? 2 : 1;
  const int64_t width = ceil_div(params.n_cols, kernels.n_columns) * kernels.n_columns;
  const size_t elements = static_cast<size_t>(K * width);
  params.panels = layer.scratch.part(part, elements * bytes_of(layer.element));
  in_parallel(K / together, params.n_cols * together, kGrainElements,
              [&](int64_t first, int64_t last) { kernels.pack_rows(params, first, last); });
  return params.panels;
}

#if defined(__SANITIZE_THREAD__)
// Tests: two threads add to one number, which the sanitizer must notice.
int64_t race() {
  int64_t sum = 0;
  fork_join(64, 1, [&](int64_t first, int64_t last) {
    for (int64_t n = first; n < last; ++n) *const_cast<volatile int64_t*>(&sum) += n;
  });
  return sum;
}
#endif

}  // namespace ulmfit_fast

STABLE_TORCH_LIBRARY_FRAGMENT(ulmfit_fast_cpu, m) {
  m.def("use_instruction_set(int n) -> int");
  m.def("fill_scratch(int byte) -> int");
  m.def("release_scratch() -> int");
#if defined(__SANITIZE_ADDRESS__)
  m.def("read_behind_scratch() -> int");
#endif
#if defined(__SANITIZE_THREAD__)
  m.def("race() -> int");
#endif
}

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast_cpu, CompositeExplicitAutograd, m) {
  m.impl("use_instruction_set", TORCH_BOX(&ulmfit_fast::use_instruction_set));
  m.impl("fill_scratch", TORCH_BOX(&ulmfit_fast::fill_scratch));
  m.impl("release_scratch", TORCH_BOX(&ulmfit_fast::release_scratch));
#if defined(__SANITIZE_ADDRESS__)
  m.impl("read_behind_scratch", TORCH_BOX(&ulmfit_fast::read_behind_scratch));
#endif
#if defined(__SANITIZE_THREAD__)
  m.impl("race", TORCH_BOX(&ulmfit_fast::race));
#endif
}
