// Private ops ulmfit_fast_cpu::linear_cross_entropy_forward and _backward.
//
// Tokens go in chunks of kChunkTokens. Of a chunk, slices of the vocabulary, one a thread, first find
// every token's log-sum-exp, then make dz and with it the gradients. A slice's rows of dW are its own;
// dh is added up over the slices in their order.
//
// Memory    beyond the results: the logits of a chunk in float32, where they are kept (at 60,000
//           classes 123 MB), copies of the weight in the operands' type, where it has another (48 MB
//           and as much again transposed), 2 MB a thread.
#include <cmath>
#include <limits>

#include "bindings_cpu.h"
#include "cpu/scratch.h"

namespace ulmfit_fast {
namespace {

constexpr int64_t kChunkTokens = 512;

int64_t ceil_to(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

using Tensors5 = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
using Tensors3 = std::tuple<Tensor, Tensor, Tensor>;

// Hands out parts of one block of memory, each from a cache line of its own.
class Carver {
 public:
  template <typename T>
  void want(T** part, int64_t bytes) {
    parts_.push_back({reinterpret_cast<void**>(part), total_});
    total_ += static_cast<size_t>(ceil_to(bytes, 64));
  }
  void carve(Scratch& scratch, Scratch::Part part) {
    char* base = static_cast<char*>(scratch.part(part, total_ + 64));
    for (const auto& [target, offset] : parts_) *target = base + offset;
  }

 private:
  std::vector<std::pair<void**, size_t>> parts_;
  size_t total_ = 0;
};

// One call: its arguments, checked and contiguous, and what its chunks have in common.
struct Loss {
  Tensor hidden, weight, targets;
  std::optional<Tensor> bias;  // of the type of sums
  const LossKernels& kernels;
  ScalarType wide;
  bool is_double;
  int64_t N, E, V, ignore_index;
  Scratch scratch;
  LossParams params{};

  int64_t wide_bytes() const { return is_double ? 8 : 4; }
  int64_t element_bytes() const { return kernels.pairs ? 2 : wide_bytes(); }
  int64_t chunk_tokens() const { return std::min(kChunkTokens, ceil_to(N, kernels.n_columns)); }
};

Tensor cast(const Tensor& source, ScalarType dtype) {
  if (source.scalar_type() == dtype) return torch::stable::contiguous(source);
  Tensor copy = torch::stable::new_empty(source, source.sizes(), dtype);
  return torch::stable::copy_(copy, source);
}

void check(const Tensor& hidden, const Tensor& weight, const std::optional<Tensor>& bias,
           const Tensor& targets, ScalarType wide) {
  STD_TORCH_CHECK(hidden.dim() == 2 && weight.dim() == 2 && hidden.size(1) == weight.size(1) &&
                      weight.size(0) > 0 && weight.size(1) > 0,
                  "hidden, weight: expected shapes [N, E] and [V, E] with V, E >= 1");
  const auto fits = [&](const Tensor& tensor) {
    return tensor.scalar_type() == hidden.scalar_type() || tensor.scalar_type() == wide;
  };
  STD_TORCH_CHECK(fits(weight), "weight: wrong dtype");
  STD_TORCH_CHECK(
      !bias.has_value() || (fits(*bias) && bias->dim() == 1 && bias->size(0) == weight.size(0)),
      "bias: wrong shape or dtype");
  STD_TORCH_CHECK(targets.scalar_type() == ScalarType::Long && targets.dim() == 1 &&
                      targets.size(0) == hidden.size(0),
                  "targets: expected an int64 tensor of shape [N]");
}

// What does not change from chunk to chunk: sizes, the weight in the operands' type, memory.
void prepare(Loss& loss, double label_smoothing, bool keep_logits, bool need_dx, bool need_dw) {
  STD_TORCH_CHECK(label_smoothing >= 0 && label_smoothing <= 1,
                  "label_smoothing: expected a share in [0, 1], found ", label_smoothing);
  LossParams& params = loss.params;
  const LossKernels& kernels = loss.kernels;
  params.E = loss.E;
  params.V = loss.V;
  params.K = ceil_to(loss.E, kernels.depth);
  params.label_smoothing = label_smoothing;
  params.need_dh = need_dx;
  params.need_dw = need_dw;
  params.weight = loss.weight.const_data_ptr();
  params.wide_weight = loss.weight.scalar_type() == loss.wide;
  params.bias = loss.bias.has_value() ? loss.bias->const_data_ptr() : nullptr;
  params.n_slices = std::min<int64_t>(torch::stable::get_num_threads(), params.n_blocks());
  const int64_t width = ceil_to(loss.chunk_tokens(), kernels.n_columns), slices = params.n_slices;
  const int64_t C = loss.wide_bytes(), element = loss.element_bytes();
  const int64_t rows = params.n_blocks() * kLossRows;

  Carver weights, others;
  if (kernels.copies_weight) {
    weights.want(&params.weight_copy, rows * params.K * element);
    if (kernels.pairs && need_dx) weights.want(&params.weight_columns, rows * params.K * element);
    weights.carve(loss.scratch, Scratch::kPanels);
    fork_join(params.n_blocks(), 1,
              [&](int64_t first, int64_t last) { kernels.pack_weight(params, first, last); });
  }
  others.want(&params.hidden_columns, width * params.K * element);
  others.want(&params.largest, slices * width * C);
  others.want(&params.sums, slices * width * C);
  if (label_smoothing > 0) others.want(&params.totals, slices * width * C);
  others.want(&params.wanted, width * C);
  others.want(&params.lse, width * C);
  others.want(&params.grad, width * C);
  if (need_dx || need_dw) others.want(&params.dz, slices * kLossRows * width * element);
  if (need_dx) others.want(&params.dh, slices * width * params.K * C);
  if (need_dw) {
    others.want(&params.hidden_rows, ceil_to(loss.E, kernels.n_columns) * width * element);
  }
  others.carve(loss.scratch, Scratch::kMorePanels);
  if (keep_logits && kernels.keeps_logits && (need_dx || need_dw)) {
    params.logits = loss.scratch.part(Scratch::kGates, static_cast<size_t>(rows * width * C));
  }
}

template <typename C>
C* row(const void* base, int64_t index) {
  return static_cast<C*>(const_cast<void*>(base)) + index;
}

// The tokens from first on: their panels.
void take_chunk(Loss& loss, int64_t first) {
  LossParams& params = loss.params;
  params.N = std::min(loss.chunk_tokens(), loss.N - first);
  params.n_panels = ceil_to(params.N, loss.kernels.n_columns) / loss.kernels.n_columns;
  params.hidden = static_cast<const char*>(loss.hidden.const_data_ptr()) +
                  first * loss.E * static_cast<int64_t>(loss.hidden.element_size());
  params.targets = loss.targets.const_data_ptr<int64_t>() + first;
  params.is_first = first == 0;
  fork_join(params.n_panels, 1,
            [&](int64_t from, int64_t to) { loss.kernels.pack_hidden(params, from, to); });
}

// Log-sum-exp and loss of every token of a chunk, from the statistics of the slices.
template <typename C>
void finish_statistics(const Loss& loss, C* lse, C* losses) {
  const LossParams& params = loss.params;
  const int64_t width = params.n_panels * loss.kernels.n_columns;
  const double smoothing = params.label_smoothing;
  for (int64_t t = 0; t < params.N; ++t) {
    C largest = *row<C>(params.largest, t), sum{0}, total{0};
    for (int64_t s = 1; s < params.n_slices; ++s) {
      const C other = *row<C>(params.largest, s * width + t);
      largest = other > largest ? other : largest;
    }
    const C base = std::isinf(largest) && largest < 0 ? C{0} : largest;  // all are forbidden
    for (int64_t s = 0; s < params.n_slices; ++s) {
      sum += *row<C>(params.sums, s * width + t) *
             std::exp(*row<C>(params.largest, s * width + t) - base);
      if (params.totals != nullptr) total += *row<C>(params.totals, s * width + t);
    }
    lse[t] = base + std::log(sum);
    C value = lse[t] - static_cast<C>(1.0 - smoothing) * *row<C>(params.wanted, t);
    if (smoothing > 0) value -= static_cast<C>(smoothing / loss.V) * total;
    losses[t] = params.targets[t] == loss.ignore_index ? C{0} : value;
  }
}

// What dz needs of every token: its log-sum-exp and the gradient of its loss.
template <typename C>
void take_gradients(const Loss& loss, const C* lse, const C* row_grads, double grad) {
  const LossParams& params = loss.params;
  const int64_t width = params.n_panels * loss.kernels.n_columns;
  for (int64_t t = 0; t < width; ++t) {
    const bool counts = t < params.N && params.targets[t] != loss.ignore_index;
    *row<C>(params.lse, t) = t < params.N ? lse[t] : std::numeric_limits<C>::max();
    const C own = row_grads != nullptr && counts ? row_grads[t] : C{1};
    *row<C>(params.grad, t) = counts ? static_cast<C>(own * grad) : C{0};
    // Nobody checked it: a step that looks for what is not finite shall find it.
    if (counts && (params.targets[t] < 0 || params.targets[t] >= loss.V))
      *row<C>(params.grad, t) = std::numeric_limits<C>::quiet_NaN();
  }
}

void run_gradients(Loss& loss, Tensor& d_hidden, int64_t first) {
  LossParams& params = loss.params;
  if (!params.need_dh && !params.need_dw) return;  // nor is there memory for what they are made of
  const auto over_slices = [&](void (*pass)(const LossParams&, int64_t)) {
    fork_join(params.n_slices, 1, [&](int64_t from, int64_t to) {
      for (int64_t slice = from; slice < to; ++slice) pass(params, slice);
    });
  };
  over_slices(loss.kernels.gradients);
  if (!params.need_dh) return;
  params.d_hidden = static_cast<char*>(d_hidden.mutable_data_ptr()) +
                    first * loss.E * static_cast<int64_t>(d_hidden.element_size());
  fork_join(params.n_panels, 1,
            [&](int64_t from, int64_t to) { loss.kernels.write_dh(params, from, to); });
}

// The gradients' tensors; dw and db in the type of sums until they are finished.
struct Gradients {
  Tensor dx, dw, db;
  ScalarType of_weight, of_bias;

  Gradients(Loss& loss, const Tensor& hidden, const Tensor& weight,
            const std::optional<Tensor>& bias)
      : dx(torch::stable::new_empty(hidden, shape(loss.params.need_dh, loss.N, loss.E))),
        dw(torch::stable::new_empty(weight, shape(loss.params.need_dw, loss.V, loss.E), loss.wide)),
        db(torch::stable::new_empty(weight, {loss.params.need_dw && bias.has_value() ? loss.V : 0},
                                    loss.wide)),
        of_weight(weight.scalar_type()),
        of_bias(bias.has_value() ? bias->scalar_type() : of_weight) {
    if (loss.N == 0) {
      torch::stable::zero_(dw);
      torch::stable::zero_(db);
    }
    loss.params.dw = dw.mutable_data_ptr();
    loss.params.db = db.numel() > 0 ? db.mutable_data_ptr() : nullptr;
  }
  Tensors3 finished() const { return {dx, cast(dw, of_weight), cast(db, of_bias)}; }

 private:
  static std::vector<int64_t> shape(bool wanted, int64_t rows, int64_t columns) {
    return wanted ? std::vector<int64_t>{rows, columns} : std::vector<int64_t>{0};
  }
};

Loss make_loss(const Tensor& hidden, const Tensor& weight, const std::optional<Tensor>& bias,
               const Tensor& targets, int64_t ignore_index) {
  const DType dtype = check_dtype("hidden", hidden);
  const bool is_double = dtype == DType::kFloat64;
  const ScalarType wide = is_double ? ScalarType::Double : ScalarType::Float;
  check(hidden, weight, bias, targets, wide);
  std::optional<Tensor> wide_bias;
  // A bias beside 16 bits is rounded like the weight, then widened.
  if (bias.has_value()) wide_bias = cast(cast(*bias, hidden.scalar_type()), wide);
  return {torch::stable::contiguous(hidden),
          torch::stable::contiguous(weight),
          torch::stable::contiguous(targets),
          wide_bias,
          loss_kernels_cpu(dtype),
          wide,
          is_double,
          hidden.size(0),
          hidden.size(1),
          weight.size(0),
          ignore_index};
}

int64_t n_counted(const Loss& loss) {
  const int64_t* targets = loss.targets.const_data_ptr<int64_t>();
  return loss.N - std::count(targets, targets + loss.N, loss.ignore_index);
}

template <typename C>
Tensors5 forward(Loss& loss, const Tensor& weight, const std::optional<Tensor>& bias,
                 const std::string& reduction) {
  LossParams& params = loss.params;
  const bool none = reduction == "none";
  const int64_t counted = n_counted(loss);
  const double scale =
      reduction == "mean" ? 1.0 / static_cast<double>(std::max<int64_t>(1, counted)) : 1.0;
  Tensor losses = torch::stable::new_empty(loss.hidden, {loss.N}, loss.wide);
  Tensor lse = torch::stable::new_empty(losses, {loss.N});
  Gradients gradients(loss, loss.hidden, weight, bias);
  const bool backward = params.need_dh || params.need_dw;
  double total = 0;
  for (int64_t first = 0; first < loss.N; first += loss.chunk_tokens()) {
    take_chunk(loss, first);
    std::fill_n(row<C>(params.wanted, 0), params.N, std::numeric_limits<C>::quiet_NaN());
    fork_join(params.n_slices, 1, [&](int64_t from, int64_t to) {
      for (int64_t slice = from; slice < to; ++slice) loss.kernels.statistics(params, slice);
    });
    C* chunk_losses = row<C>(losses.mutable_data_ptr(), first);
    C* chunk_lse = row<C>(lse.mutable_data_ptr(), first);
    finish_statistics<C>(loss, chunk_lse, chunk_losses);
    for (int64_t t = 0; t < params.N; ++t) total += chunk_losses[t];
    if (!backward) continue;
    take_gradients<C>(loss, chunk_lse, nullptr, scale);
    run_gradients(loss, gradients.dx, first);
  }
  if (!none) {
    losses = torch::stable::new_empty(lse, {});
    if (reduction == "mean") total /= static_cast<double>(counted);
    *row<C>(losses.mutable_data_ptr(), 0) = static_cast<C>(total);
  }
  const auto [dx, dw, db] = gradients.finished();
  return {losses, lse, dx, dw, db};
}

Tensors5 linear_cross_entropy_forward(const Tensor& hidden, const Tensor& weight,
                                      const std::optional<Tensor>& bias, const Tensor& targets,
                                      int64_t ignore_index, double label_smoothing,
                                      const std::string& reduction, bool need_dx, bool need_dw) {
  Loss loss = make_loss(hidden, weight, bias, targets, ignore_index);
  const bool at_once = reduction != "none";
  prepare(loss, label_smoothing, true, need_dx && at_once, need_dw && at_once);
  if (loss.is_double) return forward<double>(loss, weight, bias, reduction);
  return forward<float>(loss, weight, bias, reduction);
}

template <typename C>
Tensors3 backward(Loss& loss, const Tensor& grad, const Tensor& weight,
                  const std::optional<Tensor>& bias, const Tensor& lse,
                  const std::string& reduction) {
  Gradients gradients(loss, loss.hidden, weight, bias);
  check_dtype("grad", grad);
  check_dtype("lse", lse);
  const Tensor wide_grad = cast(grad, loss.wide), wide_lse = cast(lse, loss.wide);
  STD_TORCH_CHECK(lse.dim() == 1 && lse.size(0) == loss.N, "lse: expected shape [N]");
  const bool none = reduction == "none";
  STD_TORCH_CHECK(none ? grad.dim() == 1 && grad.size(0) == loss.N : grad.numel() == 1,
                  "grad: expected the loss's shape");
  double scale = none ? 1.0 : *row<C>(wide_grad.const_data_ptr(), 0);
  if (reduction == "mean") scale /= static_cast<double>(std::max<int64_t>(1, n_counted(loss)));
  for (int64_t first = 0; first < loss.N; first += loss.chunk_tokens()) {
    take_chunk(loss, first);
    take_gradients<C>(loss, row<C>(wide_lse.const_data_ptr(), first),
                      none ? row<C>(wide_grad.const_data_ptr(), first) : nullptr, scale);
    run_gradients(loss, gradients.dx, first);
  }
  return gradients.finished();
}

Tensors3 linear_cross_entropy_backward(const Tensor& grad, const Tensor& hidden,
                                       const Tensor& weight, const std::optional<Tensor>& bias,
                                       const Tensor& targets, const Tensor& lse,
                                       int64_t ignore_index, double label_smoothing,
                                       const std::string& reduction, bool need_dx, bool need_dw) {
  Loss loss = make_loss(hidden, weight, bias, targets, ignore_index);
  prepare(loss, label_smoothing, false, need_dx, need_dw);
  if (loss.is_double) return backward<double>(loss, grad, weight, bias, lse, reduction);
  return backward<float>(loss, grad, weight, bias, lse, reduction);
}

}  // namespace
}  // namespace ulmfit_fast

STABLE_TORCH_LIBRARY_FRAGMENT(ulmfit_fast_cpu, m) {
  m.def(
      "linear_cross_entropy_forward(Tensor hidden, Tensor weight, Tensor? bias, Tensor targets, "
      "int ignore_index, float label_smoothing, str reduction, bool need_dx, bool need_dw) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "linear_cross_entropy_backward(Tensor grad, Tensor hidden, Tensor weight, Tensor? bias, "
      "Tensor targets, Tensor lse, int ignore_index, float label_smoothing, str reduction, "
      "bool need_dx, bool need_dw) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast_cpu, CPU, m) {
  m.impl("linear_cross_entropy_forward", TORCH_BOX(&ulmfit_fast::linear_cross_entropy_forward));
  m.impl("linear_cross_entropy_backward", TORCH_BOX(&ulmfit_fast::linear_cross_entropy_backward));
}
