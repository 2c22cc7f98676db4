// The LSTM layer on the CPU: checks, allocation, and the order in which the kernels run.
//
// Forward     pack W_ih; x W_ih^T + bias for all steps, into gates; pack the masked W_hh; the steps.
// Backward    pack the masked W_hh the other way; the steps, last first, which leave da; then
//             dx = da W_ih, dW_ih = da^T x, dW_hh = mask * da^T h[t-1], each for all steps at once.
//
// A step is one parallel_for over its tasks; nothing is allocated between the first and the last.
#include <algorithm>
#include <array>

#include "bindings_cpu.h"
#include "bindings_cpu_torch.h"

namespace ulmfit_fast {
namespace {

// Multiplications and additions below which a second thread costs more than it saves.
constexpr int64_t kGrainFlops = 4'000'000;
// Elements that a thread masks and moves at least.
constexpr int64_t kGrainElements = 65'536;
// Rows of the input that are projected at once where nothing is kept for a gradient.
constexpr int64_t kInferenceRows = 1024;

using Range = std::function<void(int64_t, int64_t)>;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

void in_parallel(int64_t n, int64_t work_of_each, int64_t grain_work, const Range& run) {
  const int64_t grain = std::max<int64_t>(1, grain_work / std::max<int64_t>(1, work_of_each));
  torch::stable::parallel_for(0, n, grain, run);
}

// Chunks small enough that every thread has a few tasks, and of whole tiles.
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

// A layer's arguments, contiguous, and what follows from them.
struct Layer {
  Tensor x, w_ih, w_hh, h0, c0;
  std::optional<Tensor> lengths;
  std::optional<Tensor> seed;
  double drop_p;
  bool reverse;
  int64_t T, B, I, H;
  ScalarType storage, compute, element;
  const LstmKernels& kernels;

  const int64_t* lengths_data() const {
    return lengths.has_value() ? lengths->const_data_ptr<int64_t>() : nullptr;
  }
  int64_t first_step() const { return reverse ? T - 1 : 0; }
  int64_t last_step() const { return reverse ? 0 : T - 1; }
  int64_t direction() const { return reverse ? -1 : 1; }
};

Tensor make(const Tensor& like, std::vector<int64_t> sizes, ScalarType dtype) {
  return torch::stable::new_empty(like, sizes, dtype);
}

Tensor zeros(const Tensor& like, std::vector<int64_t> sizes, ScalarType dtype) {
  return torch::stable::new_zeros(like, sizes, dtype);
}

Tensor copy_of(const Tensor& source, ScalarType dtype) {
  const auto sizes = source.sizes();
  Tensor copy = make(source, std::vector<int64_t>(sizes.begin(), sizes.end()), dtype);
  return torch::stable::copy_(copy, source);
}

void check_sizes(const char* name, const Tensor& tensor, const Tensor& x,
                 std::vector<int64_t> sizes, std::optional<ScalarType> other = std::nullopt) {
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
                  const std::optional<Tensor>& seed, double drop_p, bool reverse) {
  STD_TORCH_CHECK(x.dim() == 3 && x.numel() / std::max<int64_t>(1, x.size(2)) > 0,
                  "x: expected shape [T, B, I] with T, B >= 1");
  STD_TORCH_CHECK(w_hh.dim() == 2 && w_hh.size(1) > 0, "w_hh: expected shape [4H, H]");
  const DType dtype = check_dtype("x", x);
  const int64_t B = x.size(1), I = x.size(2), H = w_hh.size(1);
  const ScalarType compute = dtype == DType::kFloat64 ? ScalarType::Double : ScalarType::Float;
  check_sizes("w_ih", w_ih, x, {4 * H, I});
  check_sizes("w_hh", w_hh, x, {4 * H, H});
  check_sizes("h0", h0, x, {B, H});
  check_sizes("c0", c0, x, {B, H}, compute);
  if (lengths.has_value()) {
    STD_TORCH_CHECK(lengths->scalar_type() == ScalarType::Long && lengths->dim() == 1 &&
                        lengths->size(0) == B && lengths->device() == x.device(),
                    "lengths: expected an int64 tensor of shape [B] on the device of x");
  }
  STD_TORCH_CHECK(drop_p == 0 || seed.has_value(), "seed: a tensor is needed where drop_p > 0");
  if (seed.has_value()) check_seed(*seed, x);
  check_drop_p(drop_p);
  const LstmKernels& kernels = lstm_kernels_cpu(dtype);
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

PackParams pack_params(const Tensor& matrix, Tensor& panels, const LstmKernels& kernels) {
  PackParams params{};
  params.source = matrix.const_data_ptr();
  params.n_rows = params.n_first = matrix.size(0);
  params.n_cols = matrix.size(1);
  params.element_size = static_cast<int64_t>(matrix.element_size());
  params.panels = panels.mutable_data_ptr();
  params.pairs = kernels.pairs;
  return params;
}

void add_mask(PackParams& params, const Layer& layer) {
  if (layer.drop_p == 0) return;
  params.drop = true;
  params.seed = static_cast<uint64_t>(*layer.seed->const_data_ptr<int64_t>());
  params.threshold = drop_threshold(layer.drop_p);
  params.scale = 1.0 / (1.0 - layer.drop_p);
}

// Panels of a [4H, K] weight whose columns are the gates of a few units.
Tensor pack_gates(const Layer& layer, const Tensor& weight, bool masked) {
  const LstmKernels& kernels = layer.kernels;
  const int64_t n_panels = ceil_div(layer.H, kernels.n_units);
  const int64_t K = weight.size(1) + (kernels.pairs ? weight.size(1) % 2 : 0);
  Tensor panels = make(weight, {n_panels * K * 4 * kernels.n_units}, layer.element);
  PackParams params = pack_params(weight, panels, kernels);
  if (masked) add_mask(params, layer);
  in_parallel(n_panels, K * 4 * kernels.n_units, kGrainElements,
              [&](int64_t first, int64_t last) { kernels.pack_gates(params, first, last); });
  return panels;
}

// Panels of a [K, N] matrix.
Tensor pack_rows(const Layer& layer, const Tensor& matrix, bool masked) {
  const LstmKernels& kernels = layer.kernels;
  const int64_t K = matrix.size(0) + (kernels.pairs ? matrix.size(0) % 2 : 0), N = matrix.size(1);
  const int64_t width = ceil_div(N, kernels.n_columns) * kernels.n_columns;
  Tensor panels = make(matrix, {K * width}, layer.element);
  PackParams params = pack_params(matrix, panels, kernels);
  if (masked) add_mask(params, layer);
  const int64_t together = kernels.pairs ? 2 : 1;
  in_parallel(ceil_div(K, together), N * together, kGrainElements,
              [&](int64_t first, int64_t last) { kernels.pack_rows(params, first, last); });
  return panels;
}

// Whether the product of each step is torch's: h and da are then read as rows of whole pairs.
bool steps_by_torch(const Layer& layer) { return layer.kernels.steps_by_torch && layer.H % 2 == 0; }

Tensor masked_weight(const Layer& layer) {
  return layer.drop_p == 0 ? layer.w_hh : drop_connect(layer.w_hh, layer.drop_p, *layer.seed);
}

// Whether x W_ih^T is our product: pairs are read from x itself, so its rows must hold whole ones.
bool projects(const Layer& layer) {
  return layer.kernels.gates_product != nullptr && !(layer.kernels.pairs && layer.I % 2 != 0);
}

// gates [n, B, 4H] = x[t0 .. t0 + n) W_ih^T + bias.
void project_input(const Layer& layer, const Tensor& panels, const std::optional<Tensor>& bias,
                   int64_t t0, int64_t n, Tensor& gates) {
  const int64_t M = n * layer.B, N = 4 * layer.H;
  Tensor x = torch::stable::narrow(const_cast<Tensor&>(layer.x), 0, t0, n);
  if (!projects(layer)) {
    Tensor out = torch::stable::view(torch::stable::narrow(gates, 0, 0, n), {M, N});
    return torch_linear(torch::stable::view(x, {M, layer.I}), layer.w_ih, bias, out);
  }
  const ProductParams params{M,
                             N,
                             layer.I,
                             x.const_data_ptr(),
                             panels.const_data_ptr(),
                             bias.has_value() ? bias->const_data_ptr() : nullptr,
                             gates.mutable_data_ptr()};
  in_parallel(ceil_div(M, layer.kernels.n_chunk_rows), 2 * layer.kernels.n_chunk_rows * N * layer.I,
              kGrainFlops, [&](int64_t first, int64_t last) {
                layer.kernels.gates_product(params, first, last);
              });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_forward(
    const Tensor& x, const Tensor& w_ih, const Tensor& w_hh, const std::optional<Tensor>& bias,
    const Tensor& h0, const Tensor& c0, const std::optional<Tensor>& lengths,
    const std::optional<Tensor>& seed, double drop_p, bool reverse, bool save) {
  const Layer layer = check_layer(x, w_ih, w_hh, h0, c0, lengths, seed, drop_p, reverse);
  const int64_t T = layer.T, B = layer.B, H = layer.H;
  std::optional<Tensor> bias_contiguous;
  if (bias.has_value()) {
    check_sizes("bias", *bias, x, {4 * H});
    bias_contiguous = torch::stable::contiguous(*bias);
  }
  const LstmKernels& kernels = layer.kernels;
  const int64_t n_slots = save ? T : std::min(T, ceil_div(kInferenceRows, B));
  const int64_t K = H + (kernels.pairs ? H % 2 : 0);

  Tensor y = make(layer.x, {T, B, H}, layer.storage);
  Tensor gates = make(layer.x, {n_slots, B, 4 * H}, layer.storage);
  Tensor cells = save ? make(layer.x, {T, B, H}, layer.compute) : make(layer.x, {0}, layer.compute);
  Tensor c = copy_of(layer.c0, layer.compute);
  std::array<Tensor, 2> h{zeros(layer.x, {B, K}, layer.element),
                          zeros(layer.x, {B, K}, layer.element)};
  Tensor h_start = torch::stable::narrow(h[0], 1, 0, H);
  torch::stable::copy_(h_start, layer.h0);

  Tensor input_panels =
      projects(layer) ? pack_gates(layer, layer.w_ih, false) : make(layer.x, {0}, layer.element);
  if (save) {
    project_input(layer, input_panels, bias_contiguous, 0, T, gates);
    input_panels = make(layer.x, {0}, layer.element);  // gone before the next are made
  }
  const bool by_torch = steps_by_torch(layer);
  const Tensor panels =
      by_torch ? make(layer.x, {0}, layer.element) : pack_gates(layer, layer.w_hh, true);
  const Tensor packed = by_torch ? torch_pack(masked_weight(layer), B) : panels;
  Tensor product;
  const LstmForwardParams params{B,
                                 H,
                                 K,
                                 make_grid(ceil_div(H, kernels.n_units), B, kernels),
                                 panels.const_data_ptr(),
                                 {h[0].mutable_data_ptr(), h[1].mutable_data_ptr()},
                                 c.mutable_data_ptr(),
                                 gates.mutable_data_ptr(),
                                 y.mutable_data_ptr(),
                                 save ? cells.mutable_data_ptr() : nullptr,
                                 layer.lengths_data(),
                                 save};
  const int64_t flops = 2 * params.grid.chunk_rows * K * 4 * kernels.n_units;
  LstmStep step{};
  int64_t slot_base = 0, projected = save ? T : 0;
  for (int64_t ran = 0; ran < T; ++ran) {
    step.t = reverse ? T - 1 - ran : ran;
    if (ran == projected) {  // the next steps of the input, in time's order whatever the direction
      const int64_t n = std::min(n_slots, T - ran);
      slot_base = reverse ? T - ran - n : ran;
      projected += n;
      project_input(layer, input_panels, bias_contiguous, slot_base, n, gates);
    }
    step.slot = step.t - slot_base;
    step.parity = static_cast<int>(ran % 2);
    if (by_torch) {
      product = torch_packed_linear(h[step.parity], packed);
      step.product = product.const_data_ptr();
    }
    in_parallel(params.grid.n_tasks(), flops, kGrainFlops,
                [&](int64_t first, int64_t last) { kernels.forward(params, step, first, last); });
  }
  Tensor h_n = copy_of(torch::stable::narrow(h[T % 2], 1, 0, H), layer.storage);
  Tensor c_n = copy_of(c, layer.c0.scalar_type());
  return {y, h_n, c_n, cells, save ? gates : make(layer.x, {0}, layer.storage)};
}

// The hidden state that each step began with, [T B, H], row by row.
Tensor hidden_before(const Layer& layer, const Tensor& y) {
  const int64_t T = layer.T, B = layer.B, H = layer.H;
  const int64_t* lengths = layer.lengths_data();
  Tensor before = make(y, {T * B, H}, layer.storage);
  const int64_t bytes = H * static_cast<int64_t>(y.element_size());
  const char* states = static_cast<const char*>(y.const_data_ptr());
  const char* initial = static_cast<const char*>(layer.h0.const_data_ptr());
  char* target = static_cast<char*>(before.mutable_data_ptr());
  in_parallel(T * B, H, kGrainElements, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const int64_t t = row / B, b = row % B;
      const int64_t end = lengths == nullptr ? T : lengths[b];
      const bool starts = layer.reverse ? t + 1 >= std::min(end, T) : t == 0;
      std::memcpy(target + row * bytes,
                  starts ? initial + b * bytes : states + (row - layer.direction() * B) * bytes,
                  static_cast<size_t>(bytes));
    }
  });
  return before;
}

// dW_ih = da^T x and dW_hh = da^T before.
void weight_gradients(const Layer& layer, const Tensor& da, const Tensor& before, Tensor& dw_ih,
                      Tensor& dw_hh) {
  const LstmKernels& kernels = layer.kernels;
  const int64_t M = 4 * layer.H, rows = layer.T * layer.B;
  const Tensor x = torch::stable::view(layer.x, {rows, layer.I});
  if (kernels.transposed_product == nullptr) {
    const Tensor da_t = torch::stable::transpose(da, 0, 1);
    torch_mm(da_t, x, dw_ih);
    torch_mm(da_t, before, dw_hh);
    return;
  }
  const Tensor of_x = pack_rows(layer, x, false), of_before = pack_rows(layer, before, false);
  const TransposedProductParams params{M,
                                       rows,
                                       {layer.I, layer.H},
                                       da.const_data_ptr(),
                                       {of_x.const_data_ptr(), of_before.const_data_ptr()},
                                       {dw_ih.mutable_data_ptr(), dw_hh.mutable_data_ptr()}};
  in_parallel(
      ceil_div(M, kernels.n_chunk_rows), 2 * kernels.n_chunk_rows * rows * (layer.I + layer.H),
      kGrainFlops,
      [&](int64_t first, int64_t last) { kernels.transposed_product(params, first, last); });
}

// dx [T B, I] = da W_ih.
void input_gradient(const Layer& layer, const Tensor& da, Tensor& dx) {
  const LstmKernels& kernels = layer.kernels;
  if (kernels.rows_product == nullptr) return torch_mm(da, layer.w_ih, dx);
  const Tensor panels = pack_rows(layer, layer.w_ih, false);
  const ProductParams params{da.size(0),
                             layer.I,
                             4 * layer.H,
                             da.const_data_ptr(),
                             panels.const_data_ptr(),
                             nullptr,
                             dx.mutable_data_ptr()};
  in_parallel(ceil_div(params.M, kernels.n_chunk_rows),
              2 * kernels.n_chunk_rows * params.N * params.K, kGrainFlops,
              [&](int64_t first, int64_t last) { kernels.rows_product(params, first, last); });
}

// Runs the steps backward; leaves da in dgates, and the state's gradients in dh0 and dc.
void run_backward(const Layer& layer, const Tensor& dy, const Tensor& dh_n, const Tensor& cells,
                  const Tensor& gates, Tensor& dgates, Tensor& dh0, Tensor& dc) {
  const int64_t T = layer.T, B = layer.B, H = layer.H;
  const LstmKernels& kernels = layer.kernels;
  const bool by_torch = steps_by_torch(layer);
  const Tensor panels =
      by_torch ? make(layer.x, {0}, layer.element) : pack_rows(layer, layer.w_hh, true);
  Tensor packed = panels, product;
  if (by_torch) {
    Tensor weight = masked_weight(layer);
    packed = torch_pack(torch::stable::contiguous(torch::stable::transpose(weight, 0, 1)), B);
  }
  const Tensor c0 = copy_of(layer.c0, layer.compute);
  const bool as_stored = layer.storage == layer.element;  // da is multiplied as dgates holds it
  std::array<Tensor, 2> da;
  for (Tensor& buffer : da) {
    buffer = make(layer.x, {as_stored ? 0 : B, 4 * H}, layer.element);
  }
  Tensor carry = zeros(layer.x, {layer.lengths.has_value() ? B : 0, H}, layer.compute);
  const LstmBackwardParams params{B,
                                  H,
                                  make_grid(ceil_div(H, kernels.n_columns), B, kernels),
                                  panels.const_data_ptr(),
                                  dy.const_data_ptr(),
                                  gates.const_data_ptr(),
                                  cells.const_data_ptr(),
                                  c0.const_data_ptr(),
                                  dgates.mutable_data_ptr(),
                                  {da[0].mutable_data_ptr(), da[1].mutable_data_ptr()},
                                  dc.mutable_data_ptr(),
                                  layer.lengths.has_value() ? carry.mutable_data_ptr() : nullptr,
                                  dh0.mutable_data_ptr(),
                                  layer.lengths_data()};
  const int64_t flops = 2 * params.grid.chunk_rows * 4 * H * kernels.n_columns;
  LstmStep step{};
  step.start = layer.first_step();
  step.back = -layer.direction();
  for (int64_t ran = 0; ran <= T; ++ran) {
    // Before the first there is no da: the gradient of h_n stands for its product.
    step.product = ran == 0 ? dh_n.const_data_ptr() : nullptr;
    step.before = layer.last_step() + step.back * (ran - 1);
    step.t = ran < T ? layer.last_step() + step.back * ran : -1;
    step.parity = static_cast<int>(ran % 2);
    if (by_torch && ran > 0) {
      const Tensor before = torch::stable::narrow(dgates, 0, step.before * B, B);
      product = torch_packed_linear(before, packed);
      step.product = product.const_data_ptr();
    }
    in_parallel(params.grid.n_tasks(), flops, kGrainFlops,
                [&](int64_t first, int64_t last) { kernels.backward(params, step, first, last); });
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> lstm_backward(
    const Tensor& dy, const Tensor& dh_n, const Tensor& dc_n, const Tensor& x, const Tensor& w_ih,
    const Tensor& w_hh, const Tensor& h0, const Tensor& c0, const Tensor& y, const Tensor& c,
    const Tensor& gates, const std::optional<Tensor>& lengths, const std::optional<Tensor>& seed,
    double drop_p, bool reverse, bool need_dx, bool need_dw) {
  const Layer layer = check_layer(x, w_ih, w_hh, h0, c0, lengths, seed, drop_p, reverse);
  const int64_t T = layer.T, B = layer.B, I = layer.I, H = layer.H;
  check_sizes("dy", dy, x, {T, B, H});
  check_sizes("dh_n", dh_n, x, {B, H});
  check_sizes("dc_n", dc_n, x, {B, H}, layer.compute);
  check_sizes("y", y, x, {T, B, H});
  check_sizes("gates", gates, x, {T, B, 4 * H});
  check_sizes("c", c, x, {T, B, H}, layer.compute);
  STD_TORCH_CHECK(c.scalar_type() == layer.compute, "c: wrong dtype");

  const auto none = [&] { return make(layer.x, {0}, layer.storage); };
  Tensor dgates = make(layer.x, {T * B, 4 * H}, layer.storage);
  Tensor dh0 = make(layer.x, {B, H}, layer.storage);
  Tensor dc = copy_of(dc_n, layer.compute);
  run_backward(layer, torch::stable::contiguous(dy), torch::stable::contiguous(dh_n),
               torch::stable::contiguous(c), torch::stable::contiguous(gates), dgates, dh0, dc);

  Tensor dx = none(), dw_ih = none(), dw_hh = none(), dbias = none();
  if (need_dx) {
    dx = make(layer.x, {T, B, I}, layer.storage);
    Tensor rows = torch::stable::view(dx, {T * B, I});
    input_gradient(layer, dgates, rows);
  }
  if (need_dw) {
    dw_ih = make(layer.x, {4 * H, I}, layer.storage);
    dw_hh = make(layer.x, {4 * H, H}, layer.storage);
    weight_gradients(layer, dgates, hidden_before(layer, torch::stable::contiguous(y)), dw_ih,
                     dw_hh);
    if (drop_p > 0) dw_hh = drop_connect(dw_hh, drop_p, *layer.seed);
    const int64_t rows = 0;
    dbias = torch::stable::sum(dgates, torch::headeronly::IntHeaderOnlyArrayRef(&rows, 1));
  }
  return {dx, dw_ih, dw_hh, dbias, dh0, copy_of(dc, layer.c0.scalar_type())};
}

}  // namespace
}  // namespace ulmfit_fast

STABLE_TORCH_LIBRARY_FRAGMENT(ulmfit_fast_cpu, m) {
  m.def(
      "lstm_forward(Tensor x, Tensor w_ih, Tensor w_hh, Tensor? bias, Tensor h0, Tensor c0, "
      "Tensor? lengths, Tensor? seed, float drop_p, bool reverse, bool save) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "lstm_backward(Tensor dy, Tensor dh_n, Tensor dc_n, Tensor x, Tensor w_ih, Tensor w_hh, "
      "Tensor h0, Tensor c0, Tensor y, Tensor c, Tensor gates, Tensor? lengths, Tensor? seed, "
      "float drop_p, bool reverse, bool need_dx, bool need_dw) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("use_instruction_set(int n) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast_cpu, CPU, m) {
  m.impl("lstm_forward", TORCH_BOX(&ulmfit_fast::lstm_forward));
  m.impl("lstm_backward", TORCH_BOX(&ulmfit_fast::lstm_backward));
}

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast_cpu, CompositeExplicitAutograd, m) {
  m.impl("use_instruction_set", TORCH_BOX(&ulmfit_fast::use_instruction_set));
}
