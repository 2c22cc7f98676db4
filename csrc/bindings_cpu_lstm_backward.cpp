// The backward of the LSTM layer on the CPU: pack the masked W_hh the other way; the steps, last
// first, which leave da; then dW_ih = da^T x, dW_hh = mask * da^T h[t-1] and dx = da W_ih, each for
// all steps at once.
#include "bindings_cpu_lstm.h"
#include "bindings_cpu_torch.h"

namespace ulmfit_fast {
namespace {

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

// Panels of hidden_before, which is h0 and a part of y, or the other way round; only rows that
// begin at different steps need it as a matrix of its own.
const void* pack_hidden_before(const Layer& layer, const Tensor& y) {
  if (layer.reverse && layer.lengths.has_value()) {
    const Tensor before = hidden_before(layer, y);
    return pack_rows(layer, Scratch::kMorePanels, describe(before, layer.kernels));
  }
  const int64_t T = layer.T, B = layer.B, H = layer.H;
  PackParams params = describe(torch::stable::view(y, {T * B, H}), layer.kernels);
  params.source = layer.h0.const_data_ptr();
  params.rest = y.const_data_ptr();
  params.n_first = B;
  if (layer.reverse) {
    params.source = static_cast<const char*>(params.rest) + B * H * params.element_size;
    params.rest = layer.h0.const_data_ptr();
    params.n_first = (T - 1) * B;
  }
  return pack_rows(layer, Scratch::kMorePanels, params);
}

struct WeightGradients {
  Tensor dw_ih, dw_hh, dbias;
};

// dW_ih = da^T x, dW_hh = mask * da^T h[t-1] and the sums of da's columns; da [T B, 4H].
WeightGradients weight_gradients(const Layer& layer, const Tensor& da, const Tensor& y) {
  const LstmKernels& kernels = layer.kernels;
  const int64_t M = 4 * layer.H, rows = layer.T * layer.B;
  const Tensor x = torch::stable::view(layer.x, {rows, layer.I});
  const ScalarType of_weights = layer.w_hh.scalar_type();
  const bool by_torch = kernels.transposed_product == nullptr;
  const ScalarType made = by_torch ? layer.storage : of_weights;
  WeightGradients d{make(layer.x, {M, layer.I}, made), make(layer.x, {M, layer.H}, made),
                    make(layer.x, {M}, made)};
  if (by_torch) {
    const Tensor da_t = torch::stable::transpose(const_cast<Tensor&>(da), 0, 1);
    torch_mm(da_t, x, d.dw_ih);
    torch_mm(da_t, hidden_before(layer, y), d.dw_hh);
    if (layer.drop_p > 0) d.dw_hh = drop_connect(d.dw_hh, layer.drop_p, *layer.seed);
    const int64_t dim = 0;
    d.dbias = torch::stable::sum(da, torch::headeronly::IntHeaderOnlyArrayRef(&dim, 1));
    if (made != of_weights) {
      d = {copy_of(d.dw_ih, of_weights), copy_of(d.dw_hh, of_weights),
           copy_of(d.dbias, of_weights)};
    }
    return d;
  }
  const void* of_x = pack_rows(layer, Scratch::kPanels, describe(x, kernels));
  const void* of_before = pack_hidden_before(layer, y);
  const TransposedProductParams params{M,
                                       rows,
                                       {layer.I, layer.H},
                                       da.const_data_ptr(),
                                       {of_x, of_before},
                                       {d.dw_ih.mutable_data_ptr(), d.dw_hh.mutable_data_ptr()},
                                       {Mask{}, mask_of(layer)},
                                       d.dbias.mutable_data_ptr(),
                                       of_weights != layer.storage};
  in_parallel(
      ceil_div(M, kernels.n_chunk_rows), 2 * kernels.n_chunk_rows * rows * (layer.I + layer.H),
      kGrainFlops,
      [&](int64_t first, int64_t last) { kernels.transposed_product(params, first, last); });
  return d;
}

// dx [T B, I] = da W_ih.
void input_gradient(const Layer& layer, const Tensor& da, Tensor& dx) {
  const LstmKernels& kernels = layer.kernels;
  if (kernels.rows_product == nullptr) return torch_mm(da, stored(layer, layer.w_ih), dx);
  const void* panels = pack_rows(layer, Scratch::kPanels, describe(layer.w_ih, kernels));
  const ProductParams params{da.size(0), layer.I, 4 * layer.H,          da.const_data_ptr(),
                             panels,     nullptr, dx.mutable_data_ptr()};
  in_parallel(ceil_div(params.M, kernels.n_chunk_rows),
              2 * kernels.n_chunk_rows * params.N * params.K, kGrainFlops,
              [&](int64_t first, int64_t last) { kernels.rows_product(params, first, last); });
}

// Runs the steps backward; leaves da in dgates, and the state's gradients in dh0 and dc.
void run_backward(const Layer& layer, const Tensor& dy, const Tensor& dh_n, const Tensor& cells,
                  const Tensor& gates, Tensor& dgates, Tensor& dh0, Tensor& dc) {
  const int64_t T = layer.T, B = layer.B, H = layer.H;
  const LstmKernels& kernels = layer.kernels;
  PackParams masked = describe(layer.w_hh, kernels);
  masked.mask = mask_of(layer);
  const void* panels = pack_rows(layer, Scratch::kPanels, masked);
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
                                  panels,
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

  const auto none = [&] { return make(layer.x, {0}, w_hh.scalar_type()); };
  // A product of the last step reads whole tiles of rows: behind them there is memory, too.
  const int64_t rows = T * B + layer.kernels.n_read_rows - 1;
  Tensor padded = scratch_matrix(layer, Scratch::kGates, rows, 4 * H, layer.storage);
  Tensor dgates = torch::stable::narrow(padded, 0, 0, T * B);
  Tensor dh0 = make(layer.x, {B, H}, layer.storage);
  Tensor dc = copy_of(dc_n, layer.compute);
  run_backward(layer, torch::stable::contiguous(dy), torch::stable::contiguous(dh_n),
               torch::stable::contiguous(c), torch::stable::contiguous(gates), dgates, dh0, dc);

  WeightGradients d{none(), none(), none()};
  if (need_dw) d = weight_gradients(layer, dgates, torch::stable::contiguous(y));
  Tensor dx = make(layer.x, {0}, layer.storage);
  if (need_dx) {
    dx = make(layer.x, {T, B, I}, layer.storage);
    Tensor flat = torch::stable::view(dx, {T * B, I});
    input_gradient(layer, dgates, flat);
  }
  return {dx, d.dw_ih, d.dw_hh, d.dbias, dh0, copy_of(dc, layer.c0.scalar_type())};
}

}  // namespace
}  // namespace ulmfit_fast

STABLE_TORCH_LIBRARY_FRAGMENT(ulmfit_fast_cpu, m) {
  m.def(
      "lstm_backward(Tensor dy, Tensor dh_n, Tensor dc_n, Tensor x, Tensor w_ih, Tensor w_hh, "
      "Tensor h0, Tensor c0, Tensor y, Tensor c, Tensor gates, Tensor? lengths, Tensor? seed, "
      "float drop_p, bool reverse, bool need_dx, bool need_dw) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast_cpu, CPU, m) {
  m.impl("lstm_backward", TORCH_BOX(&ulmfit_fast::lstm_backward));
}
