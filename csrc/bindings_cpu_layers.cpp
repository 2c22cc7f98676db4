// Private ops ulmfit_fast_cpu::* of dropouts, activation regularisation, pooling and embeddings.
#include <algorithm>
#include <limits>

#include "bindings_cpu.h"

namespace ulmfit_fast {
namespace {

// Numbers that a thread moves at least.
constexpr int64_t kGrainNumbers = 65'536;

using Tensors2 = std::tuple<Tensor, Tensor>;

template <typename Params>
void in_parallel(void (*pass)(const Params&, int64_t, int64_t), const Params& params, int64_t n,
                 int64_t numbers_of_each) {
  const int64_t grain = std::max<int64_t>(1, kGrainNumbers / std::max<int64_t>(1, numbers_of_each));
  fork_join(n, grain, [&](int64_t first, int64_t last) { pass(params, first, last); });
}

// glibc gives blocks of at least 32 MiB back to the system at once, so each call has new ones, and to
// make their pages takes longer than the pass: dropout over float32 [1449, 32, 400] takes 33 ms, with
// huge pages 17 (one in some hundred calls waits 70 to 180 ms for them; Xeon with AMX, one thread,
// 2026-11-25).
constexpr size_t kNewBlockBytes = size_t{32} << 20;

Tensor new_output(const Tensor& like, const std::vector<int64_t>& sizes) {
  Tensor out = torch::stable::new_empty(like, sizes);
  if (out.numel() * out.element_size() >= kNewBlockBytes) advise_huge_pages(out);
  return out;
}

Tensor output_like(const Tensor& source) {
  return new_output(source, {source.sizes().begin(), source.sizes().end()});
}

ScalarType wide_of(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

double number_in(const char* name, const Tensor& scalar) {
  STD_TORCH_CHECK(scalar.numel() == 1, name, ": expected one number");
  if (check_dtype(name, scalar) == DType::kFloat64) return *scalar.const_data_ptr<double>();
  STD_TORCH_CHECK(scalar.scalar_type() == ScalarType::Float, name, ": expected float32 or float64");
  return *scalar.const_data_ptr<float>();
}

Mask make_mask(double drop_p, const std::optional<Tensor>& seed, const Tensor& beside) {
  if (!seed.has_value()) return {};
  check_drop_p(drop_p);
  check_seed(*seed, beside);
  const auto drawn = static_cast<uint64_t>(*seed->const_data_ptr<int64_t>());
  return {true, drawn, drop_threshold(drop_p), 1.0 / (1.0 - drop_p)};
}

SequenceParams describe(const Tensor& x, double drop_p, const std::optional<Tensor>& seed) {
  SequenceParams params{};
  params.T = x.size(0);
  params.N = x.size(1) * x.size(2);
  params.x = x.const_data_ptr();
  params.mask = make_mask(drop_p, seed, x);
  return params;
}

void check_sequence(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 3, "x: expected shape [T, B, E]");
}

Tensor variational_dropout(const Tensor& x, double drop_p, const Tensor& seed) {
  check_sequence(x);
  const LayerKernels& kernels = layer_kernels_cpu(check_dtype("x", x));
  const Tensor source = torch::stable::contiguous(x);
  Tensor dropped = output_like(source);
  SequenceParams params = describe(source, drop_p, seed);
  params.out = dropped.mutable_data_ptr();
  in_parallel(kernels.sequence, params, params.n_tasks(), kTaskSteps * kTaskColumns);
  return dropped;
}

Tensors2 activation_regularization(const Tensor& x, double drop_p,
                                   const std::optional<Tensor>& seed, double alpha, double beta) {
  check_sequence(x);
  const LayerKernels& kernels = layer_kernels_cpu(check_dtype("x", x));
  const Tensor source = torch::stable::contiguous(x);
  SequenceParams params = describe(source, drop_p, seed);
  Tensor dropped = seed.has_value() ? output_like(source) : torch::stable::new_empty(source, {0});
  Tensor penalty = torch::stable::new_empty(source, {}, wide_of(x));
  std::vector<double> sums(2 * params.n_tasks());
  params.out = dropped.mutable_data_ptr();
  params.sums = sums.data();
  in_parallel(kernels.sequence, params, params.n_tasks(), kTaskSteps * kTaskColumns);
  double squares = 0, jumps = 0;
  for (int64_t task = 0; task < params.n_tasks(); ++task) {
    squares += sums[2 * task];
    jumps += sums[2 * task + 1];
  }
  double value = alpha * squares / static_cast<double>(params.T * params.N);
  if (params.T > 1) value += beta * jumps / static_cast<double>((params.T - 1) * params.N);
  if (wide_of(x) == ScalarType::Double) {
    *penalty.mutable_data_ptr<double>() = value;
  } else {
    *penalty.mutable_data_ptr<float>() = static_cast<float>(value);
  }
  return {dropped, penalty};
}

Tensor activation_regularization_backward(const Tensor& d_dropped, const Tensor& d_penalty,
                                          const Tensor& x, double drop_p,
                                          const std::optional<Tensor>& seed, double alpha,
                                          double beta) {
  check_sequence(x);
  const LayerKernels& kernels = layer_kernels_cpu(check_dtype("x", x));
  const Tensor source = torch::stable::contiguous(x);
  const Tensor into = torch::stable::contiguous(d_dropped);
  const auto found = d_dropped.sizes(), expected = x.sizes();
  const bool fits = seed.has_value()
                        ? std::equal(found.begin(), found.end(), expected.begin(), expected.end())
                        : into.numel() == 0;
  STD_TORCH_CHECK(into.scalar_type() == x.scalar_type() && fits,
                  "d_dropped: expected x's dtype and shape, or [0] without a seed");
  Tensor dx = output_like(source);
  SequenceParams params = describe(source, drop_p, seed);
  params.d_dropped = into.const_data_ptr();
  params.out = dx.mutable_data_ptr();
  const double twice = 2.0 * number_in("d_penalty", d_penalty);
  params.activation = twice * alpha / static_cast<double>(params.T * params.N);
  if (params.T > 1) params.jump = twice * beta / static_cast<double>((params.T - 1) * params.N);
  in_parallel(kernels.sequence_backward, params, params.n_tasks(), kTaskSteps * kTaskColumns);
  return dx;
}

// B rows and their valid positions, of T.
PoolParams describe_pool(const Tensor& start, const Tensor& end, int64_t B, int64_t T, int64_t E) {
  for (const Tensor* positions : {&start, &end}) {
    STD_TORCH_CHECK(positions->scalar_type() == ScalarType::Long && positions->dim() == 1 &&
                        positions->size(0) == B,
                    "start, end: expected int64 tensors of shape [B]");
  }
  // The kernels count positions of float32 in 32 bits.
  STD_TORCH_CHECK(T >= 0 && T <= std::numeric_limits<int32_t>::max(),
                  "output: expected from 0 to 2^31 - 1 positions, found ", T);
  PoolParams params{};
  params.B = B;
  params.T = T;
  params.E = E;
  params.start = start.const_data_ptr<int64_t>();
  params.end = end.const_data_ptr<int64_t>();
  for (int64_t b = 0; b < B; ++b) {
    const int64_t first = params.start[b], last = params.end[b];
    STD_TORCH_CHECK(0 <= first && first < last && last <= T, "start, end: expected 0 <= start < ",
                    "end <= ", T, ", found ", first, " and ", last, " in row ", b);
  }
  return params;
}

Tensors2 concat_pool(const Tensor& output, const Tensor& start, const Tensor& end) {
  STD_TORCH_CHECK(output.dim() == 3, "output: expected shape [B, T, E]");
  const LayerKernels& kernels = layer_kernels_cpu(check_dtype("output", output));
  const bool lies_well = output.stride(2) == 1 || output.size(2) == 1;
  const Tensor source = lies_well ? output : torch::stable::contiguous(output);
  const Tensor from = torch::stable::contiguous(start), to = torch::stable::contiguous(end);
  PoolParams params = describe_pool(from, to, output.size(0), output.size(1), output.size(2));
  Tensor pooled = torch::stable::new_empty(source, {params.B, 3 * params.E});
  Tensor argmax = torch::stable::new_empty(from, {params.B, params.E});
  params.output = source.const_data_ptr();
  params.row_stride = source.stride(0);
  params.step_stride = source.stride(1);
  params.pooled = pooled.mutable_data_ptr();
  params.argmax = argmax.mutable_data_ptr<int64_t>();
  in_parallel(kernels.pool, params, params.n_tasks(), params.T * kPoolColumns);
  return {pooled, argmax};
}

Tensor concat_pool_backward(const Tensor& grad, const Tensor& argmax, const Tensor& start,
                            const Tensor& end, int64_t n_positions) {
  const LayerKernels& kernels = layer_kernels_cpu(check_dtype("grad", grad));
  STD_TORCH_CHECK(argmax.dim() == 2 && argmax.scalar_type() == ScalarType::Long,
                  "argmax: expected an int64 tensor of shape [B, E]");
  STD_TORCH_CHECK(
      grad.dim() == 2 && grad.size(0) == argmax.size(0) && grad.size(1) == 3 * argmax.size(1),
      "grad: expected shape [B, 3E]");
  const Tensor pooled = torch::stable::contiguous(grad);
  const Tensor place = torch::stable::contiguous(argmax);
  const Tensor from = torch::stable::contiguous(start), to = torch::stable::contiguous(end);
  PoolParams params = describe_pool(from, to, argmax.size(0), n_positions, argmax.size(1));
  const int64_t* found = place.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < place.numel(); ++i) {
    STD_TORCH_CHECK(found[i] >= 0 && found[i] < n_positions, "argmax: expected 0..",
                    n_positions - 1, ", found ", found[i]);
  }
  Tensor d_output = new_output(pooled, {params.B, params.T, params.E});
  params.grad = pooled.const_data_ptr();
  params.place = place.const_data_ptr<int64_t>();
  params.d_output = d_output.mutable_data_ptr();
  in_parallel(kernels.pool_backward, params, params.n_tasks(), params.T * kPoolColumns);
  return d_output;
}

// Tokens in order, each of which has a row in a table of n_rows.
EmbeddingParams describe_tokens(const Tensor& ids, int64_t n_rows, int64_t E) {
  EmbeddingParams params{};
  params.N = ids.numel();
  params.E = E;
  params.V = n_rows;
  params.ids = ids.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < params.N; ++i) {
    STD_TORCH_CHECK(params.ids[i] >= 0 && params.ids[i] < n_rows, "ids: expected 0..", n_rows - 1,
                    ", one for each row of the table; found ", params.ids[i], " at token ", i);
  }
  return params;
}

void check_ids(const Tensor& ids) {
  STD_TORCH_CHECK(ids.scalar_type() == ScalarType::Long, "ids: expected an int64 tensor");
}

void check_padding(std::optional<int64_t> padding_idx, int64_t n_rows) {
  if (!padding_idx.has_value()) return;
  STD_TORCH_CHECK(*padding_idx >= 0 && *padding_idx < n_rows,
                  "padding_idx: expected a row of the table, found ", *padding_idx, " for ", n_rows,
                  " rows");
}

Tensor embedding_dropout(const Tensor& ids, const Tensor& weight, double drop_p,
                         const std::optional<Tensor>& seed, std::optional<int64_t> padding_idx) {
  check_ids(ids);
  STD_TORCH_CHECK(weight.dim() == 2, "weight: expected shape [V, E]");
  check_padding(padding_idx, weight.size(0));
  const LayerKernels& kernels = layer_kernels_cpu(check_dtype("weight", weight));
  const bool lies_well = weight.stride(1) == 1 || weight.size(1) == 1;
  const Tensor table = lies_well ? weight : torch::stable::contiguous(weight);
  const Tensor tokens = torch::stable::contiguous(ids);
  EmbeddingParams params = describe_tokens(tokens, table.size(0), table.size(1));
  std::vector<int64_t> sizes(ids.sizes().begin(), ids.sizes().end());
  sizes.push_back(params.E);
  Tensor embedded = new_output(table, sizes);
  params.rows = table.const_data_ptr();
  params.row_stride = table.stride(0);
  params.out = embedded.mutable_data_ptr();
  params.mask = make_mask(drop_p, seed, weight);
  in_parallel(kernels.embed, params, params.N, params.E);
  return embedded;
}

Tensor embedding_dropout_backward(const Tensor& grad, const Tensor& ids, int64_t n_rows,
                                  double drop_p, const std::optional<Tensor>& seed,
                                  std::optional<int64_t> padding_idx) {
  check_ids(ids);
  STD_TORCH_CHECK(n_rows >= 0, "n_rows: expected a number of rows, found ", n_rows);
  check_padding(padding_idx, n_rows);
  const int64_t E = grad.dim() > 0 ? grad.size(grad.dim() - 1) : 0;
  const auto rows = ids.sizes(), found = grad.sizes();
  STD_TORCH_CHECK(
      found.size() == rows.size() + 1 && std::equal(rows.begin(), rows.end(), found.begin()),
      "grad: expected shape [*ids.shape, E]");
  const LayerKernels& kernels = layer_kernels_cpu(check_dtype("grad", grad));
  const Tensor source = torch::stable::contiguous(grad), tokens = torch::stable::contiguous(ids);
  EmbeddingParams params = describe_tokens(tokens, n_rows, E);
  std::vector<int64_t> first(n_rows, -1), next(params.N);
  for (int64_t i = params.N - 1; i >= 0; --i) {
    next[i] = first[params.ids[i]];
    first[params.ids[i]] = i;
  }
  if (padding_idx.has_value()) first[*padding_idx] = -1;
  Tensor dw = new_output(source, {n_rows, E});
  params.rows = source.const_data_ptr();
  params.row_stride = E;
  params.first = first.data();
  params.next = next.data();
  params.out = dw.mutable_data_ptr();
  params.mask = make_mask(drop_p, seed, grad);
  const int64_t most = 1 + (n_rows + params.N) * E / kGrainNumbers;
  const int64_t n = std::min<int64_t>(torch::stable::get_num_threads(), most);
  fork_join(n, 1, [&](int64_t from, int64_t to) {
    for (int64_t part = from; part < to; ++part) kernels.embed_backward(params, part, n);
  });
  return dw;
}

}  // namespace
}  // namespace ulmfit_fast

STABLE_TORCH_LIBRARY_FRAGMENT(ulmfit_fast_cpu, m) {
  m.def("variational_dropout(Tensor x, float drop_p, Tensor seed) -> Tensor");
  m.def(
      "activation_regularization(Tensor x, float drop_p, Tensor? seed, float alpha, float beta) "
      "-> (Tensor, Tensor)");
  m.def(
      "activation_regularization_backward(Tensor d_dropped, Tensor d_penalty, Tensor x, "
      "float drop_p, Tensor? seed, float alpha, float beta) -> Tensor");
  m.def("concat_pool(Tensor output, Tensor start, Tensor end) -> (Tensor, Tensor)");
  m.def(
      "concat_pool_backward(Tensor grad, Tensor argmax, Tensor start, Tensor end, "
      "SymInt n_positions) -> Tensor");
  m.def(
      "embedding_dropout(Tensor ids, Tensor weight, float drop_p, Tensor? seed, "
      "int? padding_idx) -> Tensor");
  m.def(
      "embedding_dropout_backward(Tensor grad, Tensor ids, SymInt n_rows, float drop_p, "
      "Tensor? seed, int? padding_idx) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast_cpu, CPU, m) {
  m.impl("variational_dropout", TORCH_BOX(&ulmfit_fast::variational_dropout));
  m.impl("activation_regularization", TORCH_BOX(&ulmfit_fast::activation_regularization));
  m.impl("activation_regularization_backward",
         TORCH_BOX(&ulmfit_fast::activation_regularization_backward));
  m.impl("concat_pool", TORCH_BOX(&ulmfit_fast::concat_pool));
  m.impl("concat_pool_backward", TORCH_BOX(&ulmfit_fast::concat_pool_backward));
  m.impl("embedding_dropout", TORCH_BOX(&ulmfit_fast::embedding_dropout));
  m.impl("embedding_dropout_backward", TORCH_BOX(&ulmfit_fast::embedding_dropout_backward));
}
