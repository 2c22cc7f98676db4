// The forward of the LSTM layer on the CPU: pack W_ih; x W_ih^T + bias for all steps, into gates;
// pack the masked W_hh; the steps. Chunks of a document share all but the steps: their rows stand
// side by side in every step of the arrays, and run one chunk after the other.
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
bool reads_few(const Layer& layer, int64_t n_rows) {
  return n_rows <= kFewRows && layer.drop_p == 0 && layer.w_hh.scalar_type() == layer.storage;
}

// Whether x W_ih^T is our product: pairs are read from x itself, so its rows must hold whole ones.
// Tiles read a copy of it, filled up.
bool projects(const Layer& layer) {
  const bool few = reads_few(layer, layer.B) && layer.T * layer.B <= kFewProjected;
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

// What a run over a sequence makes; without save cells and gates hold nothing to keep.
struct Sequence {
  Tensor y, cells, gates;
};

// The state of B rows between two steps, and W_hh as the steps read it.
struct Recurrence {
  std::array<Tensor, 2> h;  // element type [rows, K]: what is read and what is written, in turns
  Tensor c;                 // compute type [B, H]
  int parity;
  int64_t K;
  const void* panels;  // nullptr where no step reads any

  // The first n rows of h, [n, H].
  Tensor hidden(int64_t n, int64_t H) {
    Tensor of_rows = torch::stable::narrow(h[static_cast<size_t>(parity)], 0, 0, n);
    return torch::stable::narrow(of_rows, 1, 0, H);
  }
};

Recurrence start(const Layer& layer, int64_t B) {
  const LstmKernels& kernels = layer.kernels;
  const int64_t H = layer.H, K = ceil_div(H, kernels.depth) * kernels.depth;
  const int64_t rows = ceil_div(B, kernels.n_read_rows) * kernels.n_read_rows;
  Recurrence state{
      {zeros(layer.x, {rows, K}, layer.element), zeros(layer.x, {rows, K}, layer.element)},
      copy_of(layer.c0, layer.compute),
      0,
      K,
      nullptr};
  for (int parity : {1, 0}) {  // both: rows that have not begun stay as they are
    state.parity = parity;
    Tensor hidden = state.hidden(B, H);
    torch::stable::copy_(hidden, layer.h0);
  }
  return state;
}

// Runs the steps of B rows, which stand at row first of each step of the sequence. Where a slot is
// reached that is not projected yet, project(ran) makes the next ones and returns their first step.
template <typename Project>
void run_steps(const Layer& layer, int64_t first, int64_t B, bool save, const Sequence& out,
               Recurrence& state, const Project& project) {
  const int64_t H = layer.H;
  const LstmKernels& kernels = layer.kernels;
  const bool few = reads_few(layer, B);
  const auto at_row = [&](const Tensor& tensor, int64_t columns) {
    char* data = static_cast<char*>(const_cast<void*>(tensor.const_data_ptr()));
    return data + first * columns * static_cast<int64_t>(tensor.element_size());
  };
  const LstmForwardParams params{B,
                                 H,
                                 state.K,
                                 layer.B,
                                 make_grid(ceil_div(H, kernels.n_units), B, kernels),
                                 few ? nullptr : state.panels,
                                 few ? layer.w_hh.const_data_ptr() : nullptr,
                                 {state.h[0].mutable_data_ptr(), state.h[1].mutable_data_ptr()},
                                 state.c.mutable_data_ptr(),
                                 at_row(out.gates, 4 * H),
                                 at_row(out.y, H),
                                 save ? at_row(out.cells, H) : nullptr,
                                 layer.lengths_data(),
                                 save};
  const int64_t flops = 2 * params.grid.chunk_rows * state.K * 4 * kernels.n_units;
  LstmStep step{};
  for (int64_t ran = 0; ran < layer.T; ++ran) {
    step.t = layer.reverse ? layer.T - 1 - ran : ran;
    step.slot = step.t - project(ran);
    step.parity = state.parity;
    in_parallel(params.grid.n_tasks(), flops, kGrainFlops,
                [&](int64_t begin, int64_t end) { kernels.forward(params, step, begin, end); });
    state.parity = 1 - state.parity;
  }
}

std::optional<Tensor> stored_bias(const Layer& layer, const std::optional<Tensor>& bias) {
  if (!bias.has_value()) return std::nullopt;
  check_sizes("bias", *bias, layer.x, {4 * layer.H}, layer.compute);
  return torch::stable::contiguous(stored(layer, *bias));
}

// Room for what a run makes; gates in scratch memory where they are not kept, n_slots steps of them.
Sequence make_sequence(const Layer& layer, int64_t n_slots, bool save) {
  const int64_t T = layer.T, B = layer.B, H = layer.H;
  return {make(layer.x, {T, B, H}, layer.storage),
          save ? make(layer.x, {T, B, H}, layer.compute) : make(layer.x, {0}, layer.compute),
          save ? make(layer.x, {T * B, 4 * H}, layer.storage)
               : scratch_matrix(layer, Scratch::kGates, n_slots * B, 4 * H, layer.storage)};
}

Tensor kept_gates(const Layer& layer, const Sequence& out, bool save) {
  if (!save) return make(layer.x, {0}, layer.storage);
  return torch::stable::view(out.gates, {layer.T, layer.B, 4 * layer.H});
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_forward(
    const Tensor& x, const Tensor& w_ih, const Tensor& w_hh, const std::optional<Tensor>& bias,
    const Tensor& h0, const Tensor& c0, const std::optional<Tensor>& lengths,
    const std::optional<Tensor>& seed, double drop_p, bool reverse, bool save) {
  const Layer layer = check_layer(x, w_ih, w_hh, h0, c0, lengths, seed, drop_p, reverse);
  const int64_t T = layer.T, B = layer.B;
  const std::optional<Tensor> bias_stored = stored_bias(layer, bias);
  const int64_t n_slots = save ? T : std::min(T, ceil_div(kInferenceRows, B));
  Sequence out = make_sequence(layer, n_slots, save);
  Recurrence state = start(layer, B);
  const void* input_panels =
      projects(layer) ? pack_gates(layer, Scratch::kPanels, layer.w_ih, {}) : nullptr;
  if (!reads_few(layer, B))
    state.panels = pack_gates(layer, Scratch::kMorePanels, layer.w_hh, mask_of(layer));
  int64_t slot_base = 0, projected = 0;
  run_steps(layer, 0, B, save, out, state, [&](int64_t ran) {
    if (ran == projected) {  // the next steps of the input, in time's order whatever the direction
      const int64_t n = std::min(n_slots, T - ran);
      slot_base = reverse ? T - ran - n : ran;
      projected += n;
      project_input(layer, input_panels, bias_stored, slot_base, n, out.gates);
    }
    return slot_base;
  });
  Tensor h_n = copy_of(state.hidden(B, layer.H), layer.storage);
  Tensor c_n = copy_of(state.c, layer.c0.scalar_type());
  return {out.y, h_n, c_n, out.cells, kept_gates(layer, out, save)};
}

// Rows of each chunk: from 1 up, never fewer than before, together those of x.
void check_rows(const std::vector<int64_t>& rows, const Tensor& x) {
  int64_t before = 1, sum = 0;
  for (const int64_t n : rows) {
    STD_TORCH_CHECK(n >= before, "rows: expected at least 1, and no fewer than the chunk before");
    before = n;
    sum += n;
  }
  STD_TORCH_CHECK(!rows.empty() && x.dim() == 3 && sum == x.size(1),
                  "rows: expected the sum to be the rows of x");
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> lstm_chunks_forward(
    const Tensor& x, const Tensor& w_ih, const Tensor& w_hh, const std::optional<Tensor>& bias,
    const Tensor& h0, const Tensor& c0, std::vector<int64_t> rows,
    const std::optional<Tensor>& seed, double drop_p, bool save) {
  check_rows(rows, x);
  const int64_t n_states = rows.back();
  const Layer layer =
      check_layer(x, w_ih, w_hh, h0, c0, std::nullopt, seed, drop_p, false, n_states);
  const int64_t H = layer.H;
  const std::optional<Tensor> bias_stored = stored_bias(layer, bias);
  Sequence out = make_sequence(layer, layer.T, save);
  const auto rows_of_starts = save ? layer.B : 0;
  Tensor h_starts = make(layer.x, {rows_of_starts, H}, layer.storage);
  Tensor c_starts = make(layer.x, {rows_of_starts, H}, layer.compute);
  Recurrence state = start(layer, n_states);
  const void* input_panels =
      projects(layer) ? pack_gates(layer, Scratch::kPanels, layer.w_ih, {}) : nullptr;
  project_input(layer, input_panels, bias_stored, 0, layer.T, out.gates);
  if (!reads_few(layer, n_states))
    state.panels = pack_gates(layer, Scratch::kMorePanels, layer.w_hh, mask_of(layer));
  int64_t first = 0;
  for (const int64_t n : rows) {
    if (save) {
      Tensor h_start = torch::stable::narrow(h_starts, 0, first, n);
      Tensor c_start = torch::stable::narrow(c_starts, 0, first, n);
      torch::stable::copy_(h_start, state.hidden(n, H));
      torch::stable::copy_(c_start, torch::stable::narrow(state.c, 0, 0, n));
    }
    run_steps(layer, first, n, save, out, state, [](int64_t) { return int64_t{0}; });
    first += n;
  }
  Tensor h_n = copy_of(state.hidden(n_states, H), layer.storage);
  Tensor c_n = copy_of(state.c, layer.c0.scalar_type());
  return {out.y, h_n, c_n, h_starts, c_starts, out.cells, kept_gates(layer, out, save)};
}

}  // namespace
}  // namespace ulmfit_fast

STABLE_TORCH_LIBRARY_FRAGMENT(ulmfit_fast_cpu, m) {
  m.def(
      "lstm_forward(Tensor x, Tensor w_ih, Tensor w_hh, Tensor? bias, Tensor h0, Tensor c0, "
      "Tensor? lengths, Tensor? seed, float drop_p, bool reverse, bool save) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "lstm_chunks_forward(Tensor x, Tensor w_ih, Tensor w_hh, Tensor? bias, Tensor h0, Tensor c0, "
      "int[] rows, Tensor? seed, float drop_p, bool save) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast_cpu, CPU, m) {
  m.impl("lstm_forward", TORCH_BOX(&ulmfit_fast::lstm_forward));
  m.impl("lstm_chunks_forward", TORCH_BOX(&ulmfit_fast::lstm_chunks_forward));
}
