// The forward of the LSTM layer on the CPU: pack W_ih; x W_ih^T + bias for all steps, into gates;
// pack the masked W_hh; the steps.
//
// A step is one parallel_for over its tasks; nothing is allocated between the first and the last.
#include "bindings_cpu_lstm.h"
#include "bindings_cpu_torch.h"

namespace ulmfit_fast {
namespace {

// Rows of the input that are projected at once where nothing is kept for a gradient.
constexpr int64_t kInferenceRows = 1024;

// Whether so few rows run that the weights are best read as they lie, every step anew: packing them
// costs as much as several steps.
constexpr int64_t kFewRows = 4;
// Likewise of the input's product, which is then torch's.
constexpr int64_t kFewProjected = 128;
bool is_few(const Layer& layer) {
  return layer.B <= kFewRows && layer.drop_p == 0 && layer.w_hh.scalar_type() == layer.storage;
}

// Whether x W_ih^T is our product: pairs are read from x itself, so its rows must hold whole ones.
// Tiles read a copy of it, filled up.
bool projects(const Layer& layer) {
  const bool few = is_few(layer) && layer.T * layer.B <= kFewProjected;
  return layer.kernels.gates_product != nullptr && !few &&
         !(layer.kernels.depth == 2 && layer.I % 2 != 0);
}

// gates [n, B, 4H] = x[t0 .. t0 + n) W_ih^T + bias.
void project_input(const Layer& layer, const void* panels, const std::optional<Tensor>& bias,
                   int64_t t0, int64_t n, Tensor& gates) {
  const int64_t M = n * layer.B, N = 4 * layer.H;
  Tensor x = torch::stable::narrow(const_cast<Tensor&>(layer.x), 0, t0, n);
  if (!projects(layer)) {
    Tensor out = torch::stable::view(torch::stable::narrow(gates, 0, 0, M), {M, N});
    return torch_linear(torch::stable::view(x, {M, layer.I}), stored(layer, layer.w_ih), bias, out);
  }
  const ProductParams params{M,
                             N,
                             layer.I,
                             x.const_data_ptr(),
                             panels,
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
    check_sizes("bias", *bias, x, {4 * H}, layer.compute);
    bias_contiguous = torch::stable::contiguous(stored(layer, *bias));
  }
  const LstmKernels& kernels = layer.kernels;
  const int64_t n_slots = save ? T : std::min(T, ceil_div(kInferenceRows, B));
  const int64_t K = ceil_div(H, kernels.depth) * kernels.depth;
  const int64_t rows = ceil_div(B, kernels.n_read_rows) * kernels.n_read_rows;

  Tensor y = make(layer.x, {T, B, H}, layer.storage);
  Tensor gates = save ? make(layer.x, {T * B, 4 * H}, layer.storage)
                      : scratch_matrix(layer, Scratch::kGates, n_slots * B, 4 * H, layer.storage);
  Tensor cells = save ? make(layer.x, {T, B, H}, layer.compute) : make(layer.x, {0}, layer.compute);
  Tensor c = copy_of(layer.c0, layer.compute);
  std::array<Tensor, 2> h{zeros(layer.x, {rows, K}, layer.element),
                          zeros(layer.x, {rows, K}, layer.element)};
  const auto state_of = [&](Tensor& buffer) {
    Tensor of_rows = torch::stable::narrow(buffer, 0, 0, B);
    return torch::stable::narrow(of_rows, 1, 0, H);
  };
  Tensor h_start = state_of(h[0]);
  torch::stable::copy_(h_start, layer.h0);

  const void* input_panels =
      projects(layer) ? pack_gates(layer, Scratch::kPanels, layer.w_ih, {}) : nullptr;
  if (save) project_input(layer, input_panels, bias_contiguous, 0, T, gates);
  const bool few = is_few(layer);
  const void* panels =
      few ? nullptr : pack_gates(layer, Scratch::kMorePanels, layer.w_hh, mask_of(layer));
  const LstmForwardParams params{B,
                                 H,
                                 K,
                                 make_grid(ceil_div(H, kernels.n_units), B, kernels),
                                 panels,
                                 few ? layer.w_hh.const_data_ptr() : nullptr,
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
    in_parallel(params.grid.n_tasks(), flops, kGrainFlops,
                [&](int64_t first, int64_t last) { kernels.forward(params, step, first, last); });
  }
  Tensor h_n = copy_of(state_of(h[T % 2]), layer.storage);
  Tensor c_n = copy_of(c, layer.c0.scalar_type());
  Tensor saved =
      save ? torch::stable::view(gates, {T, B, 4 * H}) : make(layer.x, {0}, layer.storage);
  return {y, h_n, c_n, cells, saved};
}

}  // namespace
}  // namespace ulmfit_fast

STABLE_TORCH_LIBRARY_FRAGMENT(ulmfit_fast_cpu, m) {
  m.def(
      "lstm_forward(Tensor x, Tensor w_ih, Tensor w_hh, Tensor? bias, Tensor h0, Tensor c0, "
      "Tensor? lengths, Tensor? seed, float drop_p, bool reverse, bool save) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast_cpu, CPU, m) {
  m.impl("lstm_forward", TORCH_BOX(&ulmfit_fast::lstm_forward));
}
