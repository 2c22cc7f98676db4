// Runs the kernels of csrc/cuda/lstm_forward.cu and lstm_backward.cu on the emulator, under several
// schedules, all of which have to give the same bits.
//
//   run_lstm CASE RESULT FIRST_SEED N_SEEDS [MUTATION]
//
// CASE: a Header, then w_hh, gates, h0, c0, lengths, dy, dh_n, dc_n. RESULT: y, gates, cells, h_n,
// c_n, dgates, dh0, dc0, dbias. Layouts as in csrc/launchers.h. Exits with 1 and one line where a
// launch failed, or schedules differ.
#include <string>

#include "../../csrc/launchers.h"
#include "cases.h"

using namespace ulmfit_fast;
using host::Buffer;
using host::check;

namespace {

struct Header {
  int64_t T, B, H, forward_groups, backward_groups, reverse, is_half, has_lengths, drops, seed;
  int64_t threshold;
  double scale;
};

struct Shared {
  Buffer exchange, flags;
  Shared(size_t exchange_bytes, size_t flag_bytes) : exchange(exchange_bytes), flags(flag_bytes) {
    host::untrack_all();
    host::track(exchange.as<void>(), exchange_bytes);
  }
};

std::string run(const Header& h, std::ifstream& file) {
  const size_t state = h.B * h.H, all = h.T * state;
  const Buffer w_hh(4 * h.H * h.H * 2, file), gates_in(4 * all * 2, file), h0(state * 2, file),
      c0(state * 4, file), lengths(h.B * 8, file), dy(all * 2, file), dh_n(state * 4, file),
      dc_n(state * 4, file);

  LstmSequence common{};
  common.T = static_cast<int32_t>(h.T);
  common.B = static_cast<int32_t>(h.B);
  common.H = static_cast<int32_t>(h.H);
  common.reverse = h.reverse != 0;
  common.w_hh = w_hh.as<void>();
  common.seed = h.drops != 0 ? &h.seed : nullptr;
  common.threshold = static_cast<uint32_t>(h.threshold);
  common.scale = static_cast<float>(h.scale);
  common.lengths = h.has_lengths != 0 ? lengths.as<int64_t>() : nullptr;
  common.dtype = h.is_half != 0 ? DType::kFloat16 : DType::kBFloat16;

  const Buffer y(all * 2), cells(all * 4), gates = gates_in.copy(), hidden = h0.copy(),
                                           c = c0.copy();
  {
    const int64_t groups = h.forward_groups;
    const Shared shared(
        lstm_forward_exchange_bytes(h.B, h.H, groups),
        lstm_flag_bytes(groups * ((h.H + kLstmForwardUnits - 1) / kLstmForwardUnits)));
    LstmSequenceForward params{common};
    params.n_groups = static_cast<int32_t>(groups);
    params.exchange = shared.exchange.as<void>();
    params.flags = shared.flags.as<uint32_t>();
    params.h = hidden.as<void>();
    params.c = c.as<float>();
    params.gates = gates.as<void>();
    params.y = y.as<void>();
    params.cells = cells.as<float>();
    check(launch_lstm_forward(params, nullptr), "lstm_forward");
  }
  const Buffer dgates(4 * all * 2), dh = dh_n.copy(), dc = dc_n.copy(),
                                    dbias(h.backward_groups * 4 * h.H * 4);
  {
    const int64_t groups = h.backward_groups;
    const Shared shared(
        lstm_backward_exchange_bytes(h.B, h.H, groups),
        lstm_flag_bytes(groups * ((h.H + kLstmBackwardUnits - 1) / kLstmBackwardUnits)));
    LstmSequenceBackward params{common};
    params.n_groups = static_cast<int32_t>(groups);
    params.exchange = shared.exchange.as<void>();
    params.flags = shared.flags.as<uint32_t>();
    params.dy = dy.as<void>();
    params.gates = gates.as<void>();
    params.cells = cells.as<float>();
    params.c0 = c0.as<float>();
    params.dgates = dgates.as<void>();
    params.dh = dh.as<float>();
    params.dc = dc.as<float>();
    params.dbias = dbias.as<float>();
    check(launch_lstm_backward(params, nullptr), "lstm_backward");
  }
  std::string results;
  for (const Buffer* b : {&y, &gates, &cells, &hidden, &c, &dgates, &dh, &dc, &dbias}) {
    results.append(b->as<char>(), b->bytes());
  }
  return results;
}

}  // namespace

int main(int n_arguments, char** arguments) {
  if (n_arguments < 5) host::stop("usage: run_lstm CASE RESULT FIRST_SEED N_SEEDS [MUTATION]");
  if (n_arguments > 5) host::options().mutation = arguments[5];
  host::run_schedules(arguments, [](std::ifstream& file) {
    const auto header = host::read<Header>(file);
    return run(header, file);
  });
  return 0;
}
