// lstm_backward_kernel: the gradients of a layer's states over a whole sequence in one cooperative
// launch. What needs no order in time (dx, dw_ih, dw_hh) is made of dgates afterwards.
//
//   dh = dy[t] + scale * da[t+1] (keep * W_hh),  da[t] = the cell's gradient of dh and dc
//
// Layout    gates, dgates [T, B, 4H], dy [T, B, H], cells [T, B, H]; da between blocks in `exchange`,
//           [2 parities, groups, rows, 4 kDepth], kDepth >= H, the rest 0: 16 columns are the gates
//           of four units, unit q with i, f at 2 q and g, o at 8 + 2 q. So the four gates of a unit
//           are what a lane holds of a B fragment, and its rows of W_hh those of that unit.
// Mapping   Output-stationary: a group of ceil(H / 32) blocks has all units and a part of the rows, a
//           block the dh of 32 units. Each of 8 warps multiplies an eighth of K = 4H; lane r * 4 + q
//           has units 4 r + n of tile n, 8 bytes of a row of W_hh. Of 36 k-steps at H 1152 18 are in
//           registers, 144 words beside 32 sums, the others in shared memory.
// Step      For 32 rows at a time: every warp waits for the units it multiplies next and copies
//           their da through its ring of 4 stages of 2 k-steps. The 8 partial sums take the ring's
//           place, are added in one order, and a thread finishes two units of each of two rows: its
//           column of dbias stays in its registers. One barrier between blocks.
// Memory    Shared: 8 rings of 10 KiB (rows 80 bytes apart: ldmatrix has no conflicts) and 8 KiB a
//           k-step of W_hh that is not in registers: 224 KiB at H 1152. dh and dc in global memory:
//           an element is only touched by its thread.
// Numbers   Sums in float32, fixed order; da is rounded to the storage type before the product.
// Requires  H even, at most 1152; all blocks resident.
#include "lstm_backward_cell.cuh"
#include "lstm_sequence.cuh"

namespace ulmfit_fast {
namespace {

constexpr int kUnits = kLstmBackwardUnits;
constexpr int kPairs = kUnits / 2;
constexpr int kTilesN = kUnits / 8;
constexpr int kTilesM = kPassRows / 16;
constexpr int kTurns = kPassRows * kPairs / kSequenceThreads;
constexpr int kTurnRows = kSequenceThreads / kPairs;
static_assert(kTurns * kTurnRows == kPassRows, "every thread finishes one pair of units");

constexpr int kStages = 4;
constexpr int kStageSteps = 2;
constexpr int kRowBytes = kStageSteps * 32 + 16;
constexpr int kStageBytes = kPassRows * kRowBytes;
constexpr int kRingBytes = kStages * kStageBytes;
constexpr int kRingsBytes = kSequenceWarps * kRingBytes;
// Sums [32 rows, 32 units] of a warp; rows 36 numbers apart have no conflicts.
constexpr int kSumRow = kUnits + 4;
static_assert(kPassRows * kSumRow * 4 <= kRingBytes);

// kSteps: k-steps of a warp, four units each.
template <int kSteps>
struct Shape {
  static constexpr int kDepth = kSequenceWarps * 4 * kSteps;  // units
  static constexpr int kRow = 4 * kDepth;                     // elements of the exchanged da
  static constexpr int kInRegisters = std::min(kSteps, 18);
  static constexpr int kStepBytes = kTilesN * kSequenceThreads * sizeof(FragmentB);
  static constexpr int kSharedBytes = kRingsBytes + (kSteps - kInRegisters) * kStepBytes;
  static constexpr int kChunks = kSteps / kStageSteps;
  static_assert(kSharedBytes <= kMaxSharedBytes);
  static_assert(kSteps % kStageSteps == 0 && kChunks >= kStages);
};

// Where the exchanged da has gates i, f of a unit; g, o are 8 further on.
DEVICE uint32_t column_of(int unit) { return unit / 4 * 16 + unit % 4 * 2; }

// This warp's part of the masked W_hh.
template <typename T, int kSteps>
class Weights {
 public:
  // All of it goes through shared memory, written and read by the same lane: so that the loop over
  // rows and masks is one, and the indices into registers are constants.
  DEVICE void load(const LstmSequence& p, const Place& place, char* shared) {
    constexpr int kAtOnce = kRingsBytes / Shape<kSteps>::kStepBytes;
    Four* const staged = reinterpret_cast<Four*>(shared) + thread_index();
    in_shared_ = reinterpret_cast<Four*>(shared + kRingsBytes) + thread_index();
#pragma unroll
    for (int first = 0; first < kInRegisters; first += kAtOnce) {
#pragma unroll 1
      for (int step = first; step < first + kAtOnce && step < kInRegisters; ++step) {
        gather(p, place, step, staged + (step - first) * 2 * kSequenceThreads);
      }
#pragma unroll
      for (int step = first; step < first + kAtOnce && step < kInRegisters; ++step) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          in_registers_[step][half] = staged[((step - first) * 2 + half) * kSequenceThreads];
        }
      }
    }
#pragma unroll 1
    for (int step = kInRegisters; step < kSteps; ++step) {
      gather(p, place, step, in_shared_ + (step - kInRegisters) * 2 * kSequenceThreads);
    }
  }
  // Of two tiles of 8 units and a k-step.
  struct alignas(16) Four {
    FragmentB tile[2];
  };
  DEVICE Four fragments(int half, int step) const {
    if (step < kInRegisters) return in_registers_[step][half];
    return in_shared_[((step - kInRegisters) * 2 + half) * kSequenceThreads];
  }

 private:
  static constexpr int kInRegisters = Shape<kSteps>::kInRegisters;

  DEVICE static void gather(const LstmSequence& p, const Place& place, int step, Four* to) {
    const int lane = thread_index() % kWarpThreads, warp = thread_index() / kWarpThreads;
    const int k = (warp * kSteps + step) * 4 + lane % 4, unit = place.first_unit + lane / 4 * 4;
    FragmentB gate[4] = {};
    if (k < p.H && unit < p.H) {
#pragma unroll
      for (int g = 0; g < 4; ++g) gate[g] = load_weights<T>(p, g * p.H + k, unit);
    }
    Four four[2];
#pragma unroll
    for (int n = 0; n < kTilesN; ++n) {
      const auto of = [&](int g) { return gate[g].word[n / 2] >> (16 * (n % 2)) & 0xffffu; };
      four[n / 2].tile[n % 2] = {{of(0) | of(1) << 16, of(2) | of(3) << 16}};
    }
    to[0] = four[0];
    to[kSequenceThreads] = four[1];
  }

  Four in_registers_[kInRegisters][2];
  Four* in_shared_;
};

// The exchanged da of a group.
template <int kRow>
struct Exchange {
  uint16_t* first;
  int64_t parity_stride;

  DEVICE Exchange(const LstmSequence& p, const Place& place) {
    const int64_t rows = exchange_rows(p.B, p.n_groups);
    parity_stride = p.n_groups * rows * kRow;
    first = static_cast<uint16_t*>(p.exchange) + place.group * rows * kRow;
  }
  // da of the step that epoch e announces.
  DEVICE const uint16_t* rows(uint32_t epoch) const {
    return first + ((epoch & 1) == 0 ? parity_stride : 0);
  }
  DEVICE void store(uint32_t epoch, uint32_t row, uint32_t column, uint32_t word) const {
    uint16_t* const rows = first + ((epoch & 1) == 0 ? parity_stride : 0);
    store_for_others(reinterpret_cast<uint32_t*>(rows + (row * kRow + column)), word);
  }
};

// A stage's rows of da on their way to the warp's ring. Four lanes copy 64 bytes of a row.
template <int kSteps>
DEVICE void copy_stage(const uint16_t* rows, int n_rows, int chunk, char* ring) {
  const int lane = thread_index() % kWarpThreads, warp = thread_index() / kWarpThreads;
  const int step = warp * kSteps + chunk * kStageSteps;
  const int row = lane / 4, column = lane % 4 * 8;
  const uint16_t* const from = rows + (row * Shape<kSteps>::kRow + step * 16 + column);
  char* const to = ring + chunk % kStages * kStageBytes + row * kRowBytes + column * 2;
#pragma unroll
  for (int eighth = 0; eighth < kPassRows / 8; ++eighth) {
    if (8 * eighth + row >= n_rows) break;
    copy_async(to + 8 * eighth * kRowBytes, from + 8 * eighth * Shape<kSteps>::kRow);
  }
}

// The sums of da W_hh over this warp's part of K.
template <typename T, int kSteps>
DEVICE void multiply(FragmentC (&sums)[kTilesM][kTilesN], const Weights<T, kSteps>& weights,
                     const uint16_t* rows, int n_rows, char* ring) {
  constexpr int kChunks = Shape<kSteps>::kChunks;
  const int lane = thread_index() % kWarpThreads;
#pragma unroll
  for (int chunk = 0; chunk < kStages - 1; ++chunk) {
    copy_stage<kSteps>(rows, n_rows, chunk, ring);
    copy_commit();
  }
#pragma unroll
  for (int chunk = 0; chunk < kChunks; ++chunk) {
    copy_wait<kStages - 2>();
    warp_sync();  // the chunk is here, and the one before it has been read by all lanes
    const int next = chunk + kStages - 1;
    if (next < kChunks) copy_stage<kSteps>(rows, n_rows, next, ring);
    copy_commit();
#pragma unroll
    for (int step = chunk * kStageSteps; step < (chunk + 1) * kStageSteps; ++step) {
      const char* at = ring + chunk % kStages * kStageBytes + lane % 16 * kRowBytes +
                       step % kStageSteps * 32 + lane / 16 * 16;
      FragmentA a[kTilesM];
#pragma unroll
      for (int m = 0; m < kTilesM; ++m) {
        if (16 * m < n_rows) a[m] = load_matrices(at + 16 * m * kRowBytes);
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const auto four = weights.fragments(half, step);
#pragma unroll
        for (int m = 0; m < kTilesM; ++m) {
          if (16 * m >= n_rows) break;
          multiply_add<T>(sums[m][2 * half], a[m], four.tile[0]);
          multiply_add<T>(sums[m][2 * half + 1], a[m], four.tile[1]);
        }
      }
    }
  }
}

// A lane has units 4 column + n of tile n, of columns 2 q and 2 q + 1: 8 neighbours.
DEVICE void store_sums(char* ring, const FragmentC (&sums)[kTilesM][kTilesN]) {
  const int lane = thread_index() % kWarpThreads;
#pragma unroll
  for (int m = 0; m < kTilesM; ++m) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = 16 * m + lane / 4 + i / 2 * 8, unit = lane % 4 * 8 + i % 2 * 4;
      const auto& sum = sums[m];
      reinterpret_cast<Gates*>(ring)[(row * kSumRow + unit) / 4] = {
          {sum[0].value[i], sum[1].value[i], sum[2].value[i], sum[3].value[i]}};
    }
  }
}

// The sum over the warps for two units of a row.
DEVICE Two add_sums(const char* shared, int row, int unit) {
  Two sum{0, 0};
#pragma unroll
  for (int warp = 0; warp < kSequenceWarps; ++warp) {
    const Two part =
        *reinterpret_cast<const Two*>(shared + warp * kRingBytes + (row * kSumRow + unit) * 4);
    sum = {sum.first + part.first, sum.second + part.second};
  }
  return sum;
}

template <typename T, int kSteps>
KERNEL(kSequenceThreads, 1)
lstm_backward_kernel(LstmSequenceBackward p) {
  using S = Shape<kSteps>;
  char* const shared = shared_memory();
  char* const ring = shared + thread_index() / kWarpThreads * kRingBytes;
  const Place place(p, kUnits);
  Flags flags(p, place);
  const Exchange<S::kRow> exchange(p, place);
  const uint32_t H = p.H;
  Weights<T, kSteps> weights;
  weights.load(p, place, shared);

  const int unit_here = thread_index() % kPairs * 2, unit = place.first_unit + unit_here;
  const int first_row = thread_index() / kPairs;
  if (place.part == place.n_parts - 1) {
    const int n_padding = S::kDepth - p.H;
    for (int i = thread_index(); i < place.n_rows * n_padding; i += kSequenceThreads) {
      const uint32_t column = column_of(p.H + i % n_padding);
#pragma unroll
      for (int parity = 0; parity < 2; ++parity) {
        exchange.store(parity, i / n_padding, column, 0);
        exchange.store(parity, i / n_padding, column + 8, 0);
      }
    }
  }
  block_sync();  // the weights have left the rings

  Gates dbias[2] = {};
  const int64_t slot_words = int64_t{p.B} * H / 2;
  const int first_k = thread_index() / kWarpThreads * kSteps * 4;
  for (int step = 0; step <= p.T; ++step) {
    const uint32_t epoch = static_cast<uint32_t>(step);  // of the da that is multiplied
    const bool ends = step == p.T;                       // only dh0 is left
    const int t = p.reverse ? step : p.T - 1 - step;
    const Slot slot(p, t, slot_words, step + 1 == p.T);
    if (step > 0) {
#pragma unroll
      for (int turn = 0; turn < kTurns; ++turn) {
        const int row = turn * kTurnRows + first_row;
        if (ends || row >= place.n_rows || unit >= p.H) continue;
        slot.prefetch_cell({place.first_row + row, unit, H});
      }
      flags.wait(place.owner(first_k), place.owner(first_k + 4 * kSteps - 1), epoch);
    }
    for (int pass_row = 0; pass_row < place.n_rows; pass_row += kPassRows) {
      const int n_rows = place.n_rows - pass_row;
      if (step > 0) {
        FragmentC sums[kTilesM][kTilesN] = {};
        multiply<T, kSteps>(sums, weights, exchange.rows(epoch) + pass_row * S::kRow, n_rows, ring);
        warp_sync();
        store_sums(ring, sums);
      }
      // On their way while the block meets.
      Cell cells[kTurns];
#pragma unroll
      for (int turn = 0; turn < kTurns; ++turn) {
        const int row = pass_row + turn * kTurnRows + first_row;
        if (row >= place.n_rows || unit >= p.H) continue;
        const bool runs = !ends && (p.lengths == nullptr || t < p.lengths[place.first_row + row]);
        cells[turn].load(p, slot, {place.first_row + row, unit, H}, runs);
      }
      if (step > 0) block_sync();
#pragma unroll
      for (int turn = 0; turn < kTurns; ++turn) {
        const int row_here = turn * kTurnRows + first_row, row = pass_row + row_here;
        if (row >= place.n_rows || unit >= p.H) continue;
        const At at(place.first_row + row, unit, H);
        Cell& cell = cells[turn];
        if (step > 0) {
          const Two sum = add_sums(shared, row_here, unit_here);
          cell.dh.first += sum.first * p.scale;
          cell.dh.second += sum.second * p.scale;
        }
        // What does not run hands its dh on; in what runs it becomes da.
        reinterpret_cast<Two*>(p.dh)[at.state] = cell.runs ? Two{0, 0} : cell.dh;
        if (ends) continue;
        uint32_t words[4] = {};
        if (cell.runs) {
          cell.dc = reinterpret_cast<const Two*>(p.dc)[at.state];
          Gates da[2];
          cell.differentiate_pair<T>(da);
          reinterpret_cast<Two*>(p.dc)[at.state] = cell.dc;
          dbias[0] += da[0];
          dbias[1] += da[1];
#pragma unroll
          for (int g = 0; g < 4; ++g) words[g] = join<T>(da[0].value[g], da[1].value[g]);
        }
        uint32_t* const dgates = static_cast<uint32_t*>(p.dgates) + 4 * slot.words;
#pragma unroll
        for (int g = 0; g < 4; ++g) dgates[at.gates + g * (H / 2)] = words[g];
#pragma unroll
        for (int k = 0; k < 2; ++k) {  // a word of the exchange has two gates of one unit
          const auto of = [&](int g) { return words[g] >> (16 * k) & 0xffffu; };
          const uint32_t column = column_of(unit + k);
          exchange.store(epoch + 1, row, column, of(0) | of(1) << 16);
          exchange.store(epoch + 1, row, column + 8, of(2) | of(3) << 16);
        }
      }
      if (n_rows > kPassRows) block_sync();  // the next pass overwrites the sums
    }
    flags.publish(epoch + 1);
  }

  // Lanes l and l + 16 have the same pair of units, and so have all warps.
  Gates* const by_warp = reinterpret_cast<Gates*>(shared);
#pragma unroll
  for (int k = 0; k < 2; ++k) {
#pragma unroll
    for (int g = 0; g < 4; ++g) dbias[k].value[g] += warp_exchange(dbias[k].value[g], kPairs);
    by_warp[(thread_index() / kWarpThreads * kPairs + thread_index() % kPairs) * 2 + k] = dbias[k];
  }
  block_sync();
  const int k = thread_index() % kUnits;
  if (thread_index() >= kUnits || place.first_unit + k >= p.H) return;
  Gates sum = by_warp[k];
  for (int warp = 1; warp < kSequenceWarps; ++warp) sum += by_warp[warp * kUnits + k];
  for (int g = 0; g < 4; ++g) {
    p.dbias[(place.group * 4 + g) * int64_t{H} + place.first_unit + k] = sum.value[g];
  }
}

struct Choice {
  void (*kernel)(LstmSequenceBackward) = nullptr;
  size_t shared_bytes = 0;
  int row = 0;
};

template <typename T, int kSteps>
Choice choice_of() {
  return {lstm_backward_kernel<T, kSteps>, Shape<kSteps>::kSharedBytes, Shape<kSteps>::kRow};
}

// H up to 448 (the model's last layer has 400), 768 and 1152 (its first two).
template <typename T>
Choice choose(int64_t H) {
  if (H <= Shape<14>::kDepth) return choice_of<T, 14>();
  if (H <= Shape<24>::kDepth) return choice_of<T, 24>();
  if (H <= Shape<36>::kDepth) return choice_of<T, 36>();
  return {};
}

Choice choose(int64_t H, DType dtype) {
  if (H % 2 != 0) return {};
  if (dtype == DType::kBFloat16) return choose<bfloat16>(H);
  if (dtype == DType::kFloat16) return choose<float16>(H);
  return {};
}

}  // namespace

cudaError_t lstm_backward_blocks(int64_t H, DType dtype, int* blocks) {
  *blocks = 0;
  const Choice choice = choose(H, dtype);
  if (choice.kernel == nullptr) return cudaSuccess;
  return resident_blocks(choice.kernel, kSequenceThreads, choice.shared_bytes, blocks);
}

size_t lstm_backward_exchange_bytes(int64_t B, int64_t H, int64_t n_groups) {
  const int row = choose(H, DType::kBFloat16).row;
  return size_t{2} * n_groups * exchange_rows(B, n_groups) * row * 2;
}

cudaError_t launch_lstm_backward(const LstmSequenceBackward& params, cudaStream_t stream) {
  const Choice choice = choose(params.H, params.dtype);
  if (choice.kernel == nullptr) return cudaErrorInvalidValue;
  const int n_blocks = params.n_groups * ceil_div(params.H, kUnits);
  const cudaError_t error = fill_zeros(params.flags, flag_bytes(n_blocks), stream);
  if (error != cudaSuccess) return error;
  const Launch shape{static_cast<unsigned>(n_blocks), kSequenceThreads, choice.shared_bytes, stream,
                     true};
  return launch(choice.kernel, shape, params);
}

}  // namespace ulmfit_fast
