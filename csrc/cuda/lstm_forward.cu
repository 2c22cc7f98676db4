// lstm_forward_kernel: a whole layer over a whole sequence in one cooperative launch.
//
//   a[t] = G[t] + scale * h[t-1] (keep * W_hh)^T,  c = f c + i g,  h = o tanh(c)
//
// Layout    G, gates [T, B, 4H], y [T, B, H], cells [T, B, H]; h between blocks in `exchange`,
//           [2 parities, groups, rows, kDepth], kDepth >= H, the rest 0. Of every 16 columns there,
//           unit 4 q + j is at 8 (j / 2) + 2 q + j % 2: four neighbours of a row of W_hh, 8 bytes,
//           are then what lane q of a quad holds of a B fragment.
// Mapping   A group of ceil(H / 18) blocks has all units and a part of the rows; a block 18 units, so
//           72 columns 4 unit + gate. Each of 8 warps multiplies an eighth of K with all of them: its
//           W_hh stays on chip, 18 words a lane and k-step, of 9 k-steps at H 1152 7 in registers
//           beside 36 sums, the others in shared memory.
// Step      For 32 rows at a time: gates of the input on their way to registers; every warp waits
//           for the units it multiplies next, copies them to its own shared memory and multiplies
//           them chunk by chunk as they arrive. The 8 partial sums take the place of what was
//           multiplied, are added in one order, and a thread finishes two units of a row.
//           Publication of h ends the step: one barrier between blocks.
// Memory    Shared: 8 warps [32, 152] of the storage type, 76 KiB, and 18 KiB a k-step of W_hh, so
//           112 KiB at H 1152. A row is 304 bytes: rows start 12 banks apart, modulo 32, and ldmatrix
//           has no conflicts.
// Numbers   Products and cell state in float32, fixed order. scale is applied to the sum before G.
//           h, gates and y are rounded to the storage type.
// Requires  H even, at most 1152; rows of a group at most kLstmMaxRows; all blocks resident.
#include "lstm_sequence.cuh"

namespace ulmfit_fast {
namespace {

constexpr int kUnits = kLstmForwardUnits;
constexpr int kColumns = 4 * kUnits;
constexpr int kPairs = kUnits / 2;
constexpr int kTilesN = kColumns / 8;
// Pairs of units of a pass that a thread finishes, the last of them only in the first warp.
constexpr int kTurns = ceil_div(kPassRows * kPairs, kSequenceThreads);
constexpr int kRowBytes = 304;
constexpr int kWarpBytes = kPassRows * kRowBytes;
constexpr int kHiddenBytes = kSequenceWarps * kWarpBytes;
// The sums of 16 rows take the place of these rows of h.
constexpr int kTileBytes = 16 * kRowBytes;
static_assert(16 * kColumns * 4 <= kTileBytes);

// kSteps: k-steps of 16 units of a warp. kPasses: the most passes that a step takes.
template <int kSteps, int kPasses>
struct Shape {
  // The weights of these stay in registers, those of the others in shared memory: without spills.
  static constexpr int kInRegisters = kSteps - kSteps / (kPasses == 1 ? 4 : 2);
  static constexpr int kStepBytes = kTilesN * kSequenceThreads * sizeof(FragmentB);
  static constexpr int kSharedBytes = kHiddenBytes + (kSteps - kInRegisters) * kStepBytes;
  static constexpr int kDepth = kSequenceWarps * 16 * kSteps;
  static constexpr int kChunkSteps = kSteps % 3 == 0 ? 3 : 2;
  static constexpr int kChunks = kSteps / kChunkSteps;
  static_assert(kSharedBytes <= kMaxSharedBytes);
  static_assert(kSteps % kChunkSteps == 0 && 16 * kSteps * 2 + 16 <= kRowBytes);
};

// Where the exchanged h has a unit, and in the next column the next one; unit is even.
DEVICE int column_of(int unit) { return unit / 16 * 16 + 8 * (unit % 4 / 2) + 2 * (unit % 16 / 4); }

// This warp's part of the masked W_hh.
template <typename T, int kSteps, int kPasses>
class Weights {
 public:
  // All of it goes through shared memory, written and read by the same lane: so that the loop over
  // rows and masks is one, and the indices into registers are constants.
  DEVICE void load(const LstmSequence& p, const Place& place, char* shared) {
    constexpr int kAtOnce = 3, kPieces = kAtOnce * kSteps;
    static_assert(kTilesN % kAtOnce == 0);
    static_assert(kAtOnce * kInRegisters * kSequenceThreads * sizeof(FragmentB) <= kHiddenBytes);
    FragmentB* const staged = reinterpret_cast<FragmentB*>(shared) + thread_index();
    in_shared_ = reinterpret_cast<FragmentB*>(shared + kHiddenBytes) + thread_index();
    const int lane = thread_index() % kWarpThreads, warp = thread_index() / kWarpThreads;
#pragma unroll
    for (int first = 0; first < kTilesN; first += kAtOnce) {
#pragma unroll 3
      for (int piece = 0; piece < kPieces; ++piece) {
        const int n = piece / kSteps, step = piece % kSteps;
        const int column = (first + n) * 8 + lane / 4, unit = place.first_unit + column / 4;
        const int k = (warp * kSteps + step) * 16 + lane % 4 * 4;
        FragmentB words{};
        if (unit < p.H) words = load_weights<T>(p, column % 4 * p.H + unit, k);
        if (step < kInRegisters) {
          staged[(n * kInRegisters + step) * kSequenceThreads] = words;
        } else {
          in_shared_[((step - kInRegisters) * kTilesN + first + n) * kSequenceThreads] = words;
        }
      }
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n) {
#pragma unroll
        for (int step = 0; step < kInRegisters; ++step) {
          in_registers_[first + n][step] = staged[(n * kInRegisters + step) * kSequenceThreads];
        }
      }
    }
  }
  // Of a tile of 8 columns and a k-step.
  DEVICE FragmentB fragment(int n, int step) const {
    if (step < kInRegisters) return in_registers_[n][step];
    return in_shared_[((step - kInRegisters) * kTilesN + n) * kSequenceThreads];
  }

 private:
  static constexpr int kInRegisters = Shape<kSteps, kPasses>::kInRegisters;
  FragmentB in_registers_[kTilesN][kInRegisters];
  FragmentB* in_shared_;
};

// The exchanged h of a group.
template <int kDepth>
struct Exchange {
  uint16_t* first;
  int64_t parity_stride;

  DEVICE Exchange(const LstmSequence& p, const Place& place) {
    const int64_t rows = exchange_rows(p.B, p.n_groups);
    parity_stride = p.n_groups * rows * kDepth;
    first = static_cast<uint16_t*>(p.exchange) + place.group * rows * kDepth;
  }
  // h before step e - 1, which epoch e announces.
  DEVICE const uint16_t* rows(uint32_t epoch) const {
    return first + ((epoch & 1) == 0 ? parity_stride : 0);
  }
  DEVICE void store(uint32_t epoch, uint32_t row, uint32_t column, uint32_t word) const {
    uint16_t* const rows = first + ((epoch & 1) == 0 ? parity_stride : 0);
    store_for_others(reinterpret_cast<uint32_t*>(rows + (row * kDepth + column)), word);
  }
};

// A pass's rows of h on their way to the warp's shared memory, a commit a chunk. Two lanes copy 32
// bytes of a row, whole sectors.
template <int kSteps, int kPasses>
DEVICE void copy_hidden(const uint16_t* rows, const Flags& flags, const Place& place,
                        uint32_t epoch, int n_rows, char* shared) {
  using S = Shape<kSteps, kPasses>;
  const int lane = thread_index() % kWarpThreads, warp = thread_index() / kWarpThreads;
  const int row = lane / 2, column = lane % 2 * 8;
  const uint16_t* const from = rows + (row * S::kDepth + warp * kSteps * 16 + column);
  char* const to = shared + row * kRowBytes + column * 2;
  const int k = warp * kSteps * 16;
  flags.wait(place.owner(k), place.owner(k + 16 * kSteps - 1), epoch);
#pragma unroll
  for (int chunk = 0; chunk < S::kChunks; ++chunk) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (16 * half + row >= n_rows) break;
#pragma unroll
      for (int step = chunk * S::kChunkSteps; step < (chunk + 1) * S::kChunkSteps; ++step) {
        copy_async(to + half * kTileBytes + step * 32, from + 16 * half * S::kDepth + step * 16);
      }
    }
    copy_commit();
  }
}

// Adds the product of 16 rows of h with the weights, from chunk kChunk on. kArriving: the chunks are
// still on their way.
template <typename T, int kSteps, int kPasses, bool kArriving, int kChunk = 0>
DEVICE void multiply(FragmentC (&sums)[kTilesN], const Weights<T, kSteps, kPasses>& weights,
                     const char* rows) {
  using S = Shape<kSteps, kPasses>;
  const int lane = thread_index() % kWarpThreads;
  if constexpr (kArriving) {
    copy_wait<S::kChunks - 1 - kChunk>();
    warp_sync();
  }
#pragma unroll
  for (int step = kChunk * S::kChunkSteps; step < (kChunk + 1) * S::kChunkSteps; ++step) {
    const FragmentA a = load_matrices(rows + lane % 16 * kRowBytes + step * 32 + lane / 16 * 16);
#pragma unroll
    for (int n = 0; n < kTilesN; ++n) multiply_add<T>(sums[n], a, weights.fragment(n, step));
  }
  if constexpr (kChunk + 1 < S::kChunks) {
    multiply<T, kSteps, kPasses, kArriving, kChunk + 1>(sums, weights, rows);
  }
}

// The sums of 16 rows, [16, kColumns], in the place of those rows of h.
DEVICE void store_sums(char* shared, const FragmentC (&sums)[kTilesN]) {
  warp_sync();  // all lanes have read h
  const int lane = thread_index() % kWarpThreads;
  float* at = reinterpret_cast<float*>(shared) + lane / 4 * kColumns + lane % 4 * 2;
#pragma unroll
  for (int n = 0; n < kTilesN; ++n) {
    const float (&value)[4] = sums[n].value;
    *reinterpret_cast<Two*>(at + 8 * n) = {value[0], value[1]};
    *reinterpret_cast<Two*>(at + 8 * n + 8 * kColumns) = {value[2], value[3]};
  }
}

// The sum over the warps of a unit's four columns.
DEVICE Gates add_sums(const char* shared, int row, int unit) {
  const char* at = shared + row / 16 * kTileBytes + (row % 16 * kColumns + 4 * unit) * 4;
  Gates sum = *reinterpret_cast<const Gates*>(at);
#pragma unroll 2
  for (int warp = 1; warp < kSequenceWarps; ++warp) {
    sum += *reinterpret_cast<const Gates*>(at + warp * kWarpBytes);
  }
  return sum;
}

// What a thread keeps of two units of a row.
struct Cells {
  Two c;
  uint32_t h;
};

template <typename T, int kSteps, int kPasses>
KERNEL(kSequenceThreads, 1)
lstm_forward_kernel(LstmSequenceForward p) {
  char* const shared = shared_memory();
  char* const of_warp = shared + thread_index() / kWarpThreads * kWarpBytes;
  const Place place(p, kUnits);
  Flags flags(p, place);
  const Exchange<Shape<kSteps, kPasses>::kDepth> exchange(p, place);
  const uint32_t H = p.H;
  Weights<T, kSteps, kPasses> weights;
  weights.load(p, place, shared);

  // A thread's pair of units in a turn, and its row in the group; -1 where there is none.
  const auto unit_of = [&](int turn) {
    return (turn * kSequenceThreads + thread_index()) % kPairs * 2;
  };
  const auto row_of = [&](int pass, int turn) {
    const int pair = turn * kSequenceThreads + thread_index();
    const int row = pass * kPassRows + pair / kPairs;
    const bool owned =
        pair < kPassRows * kPairs && row < place.n_rows && place.first_unit + unit_of(turn) < p.H;
    return owned ? row : -1;
  };
  // Words of two units in [B, H].
  const auto state_of = [&](int row, int turn) {
    return ((place.first_row + row) * H + place.first_unit + unit_of(turn)) / 2;
  };
  Cells cells[kPasses][kTurns] = {};
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
#pragma unroll
    for (int turn = 0; turn < kTurns; ++turn) {
      const int row = row_of(pass, turn);
      if (row < 0) continue;
      const uint32_t at = state_of(row, turn), h = static_cast<const uint32_t*>(p.h)[at];
      cells[pass][turn] = {reinterpret_cast<const Two*>(p.c)[at], h};
      exchange.store(1, row, column_of(place.first_unit + unit_of(turn)), h);
    }
  }
  if (place.part == place.n_parts - 1) {
    const int n_padding = (Shape<kSteps, kPasses>::kDepth - p.H) / 2;
    for (int i = thread_index(); i < place.n_rows * n_padding; i += kSequenceThreads) {
      const int padding = column_of(p.H + i % n_padding * 2);
      exchange.store(0, i / n_padding, padding, 0);
      exchange.store(1, i / n_padding, padding, 0);
    }
  }
  flags.publish(1);

  for (int step = 0; step < p.T; ++step) {
    const int slot = p.reverse ? p.T - 1 - step : step;
    const uint32_t epoch = static_cast<uint32_t>(step) + 1;
    const int64_t words = int64_t{slot} * p.B * H / 2;  // before this slot, in [T, B, H]
    uint32_t* const gates = static_cast<uint32_t*>(p.gates) + 4 * words;
    const auto gates_of = [&](int row, int turn) {
      return (place.first_row + row) * 2 * H + (place.first_unit + unit_of(turn)) / 2;
    };
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const int n_rows = place.n_rows - pass * kPassRows;
      if (n_rows <= 0) break;
      uint32_t from_input[kTurns][4] = {};
#pragma unroll
      for (int turn = 0; turn < kTurns; ++turn) {
        const int row = row_of(pass, turn);
        if (row < 0) continue;
        const uint32_t at = gates_of(row, turn);
#pragma unroll
        for (int g = 0; g < 4; ++g) from_input[turn][g] = gates[at + g * (H / 2)];
      }
      copy_hidden<kSteps, kPasses>(
          exchange.rows(epoch) + pass * kPassRows * Shape<kSteps, kPasses>::kDepth, flags, place,
          epoch, n_rows, of_warp);
      {
        FragmentC sums[kTilesN] = {};
        multiply<T, kSteps, kPasses, true>(sums, weights, of_warp);
        store_sums(of_warp, sums);
      }
      if (n_rows > 16) {
        FragmentC sums[kTilesN] = {};
        multiply<T, kSteps, kPasses, false>(sums, weights, of_warp + kTileBytes);
        store_sums(of_warp + kTileBytes, sums);
      }
      block_sync();
#pragma unroll
      for (int turn = 0; turn < kTurns; ++turn) {
        const int row = row_of(pass, turn);
        if (row < 0) continue;
        Gates a[2];
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          a[k] = add_sums(shared, row % kPassRows, unit_of(turn) + k);
#pragma unroll
          for (int g = 0; g < 4; ++g) {
            const uint32_t input = from_input[turn][g];
            a[k].value[g] =
                a[k].value[g] * p.scale + (k == 0 ? first_of<T>(input) : second_of<T>(input));
          }
        }
        const bool runs =
            p.lengths == nullptr || p.first_step + slot < p.lengths[place.first_row + row];
        Cells& mine = cells[pass][turn];
        const Two h{advance(a[0], mine.c.first, runs), advance(a[1], mine.c.second, runs)};
        if (runs) mine.h = join<T>(h.first, h.second);
        exchange.store(epoch + 1, row, column_of(place.first_unit + unit_of(turn)), mine.h);
        const uint32_t at = state_of(row, turn);
        (static_cast<uint32_t*>(p.y) + words)[at] = runs ? mine.h : 0;
        if (p.cells != nullptr) {
          (reinterpret_cast<Two*>(p.cells) + words)[at] = mine.c;
#pragma unroll
          for (int g = 0; g < 4; ++g) {
            gates[gates_of(row, turn) + g * (H / 2)] =
                runs ? join<T>(a[0].value[g], a[1].value[g]) : 0;
          }
        }
      }
      if (n_rows > kPassRows) block_sync();  // the next pass overwrites the sums
    }
    flags.publish(epoch + 1);
  }
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
#pragma unroll
    for (int turn = 0; turn < kTurns; ++turn) {
      const int row = row_of(pass, turn);
      if (row < 0) continue;
      reinterpret_cast<Two*>(p.c)[state_of(row, turn)] = cells[pass][turn].c;
      static_cast<uint32_t*>(p.h)[state_of(row, turn)] = cells[pass][turn].h;
    }
  }
}

struct Choice {
  void (*kernel)(LstmSequenceForward) = nullptr;
  size_t shared_bytes = 0;
  int depth = 0;
};

template <typename T, int kSteps>
Choice choice_of(bool one_pass) {
  constexpr int kPasses = kLstmMaxRows / kPassRows;
  using One = Shape<kSteps, 1>;
  using Many = Shape<kSteps, kPasses>;
  if (one_pass) return {lstm_forward_kernel<T, kSteps, 1>, One::kSharedBytes, One::kDepth};
  return {lstm_forward_kernel<T, kSteps, kPasses>, Many::kSharedBytes, Many::kDepth};
}

// H up to 512 (the model's last layer has 400), 768 and 1152 (its first two).
template <typename T>
Choice choose(int64_t H, bool one_pass) {
  if (H <= Shape<4, 1>::kDepth) return choice_of<T, 4>(one_pass);
  if (H <= Shape<6, 1>::kDepth) return choice_of<T, 6>(one_pass);
  if (H <= Shape<9, 1>::kDepth) return choice_of<T, 9>(one_pass);
  return {};
}

Choice choose(int64_t H, DType dtype, bool one_pass) {
  if (H % 2 != 0) return {};
  if (dtype == DType::kBFloat16) return choose<bfloat16>(H, one_pass);
  if (dtype == DType::kFloat16) return choose<float16>(H, one_pass);
  return {};
}

}  // namespace

cudaError_t lstm_forward_blocks(int64_t H, DType dtype, int* blocks) {
  *blocks = 0;
  const Choice choice = choose(H, dtype, false);
  if (choice.kernel == nullptr) return cudaSuccess;
  return resident_blocks(choice.kernel, kSequenceThreads, choice.shared_bytes, blocks);
}

size_t lstm_forward_exchange_bytes(int64_t B, int64_t H, int64_t n_groups) {
  const int depth = choose(H, DType::kBFloat16, true).depth;
  return size_t{2} * n_groups * exchange_rows(B, n_groups) * depth * 2;
}

size_t lstm_flag_bytes(int64_t n_blocks) { return flag_bytes(static_cast<int>(n_blocks)); }

cudaError_t launch_lstm_forward(const LstmSequenceForward& params, cudaStream_t stream) {
  const bool one_pass = exchange_rows(params.B, params.n_groups) == kPassRows;
  const Choice choice = choose(params.H, params.dtype, one_pass);
  if (choice.kernel == nullptr) return cudaErrorInvalidValue;
  const int n_blocks = params.n_groups * ceil_div(params.H, kUnits);
  const cudaError_t error = fill_zeros(params.flags, flag_bytes(n_blocks), stream);
  if (error != cudaSuccess) return error;
  const Launch shape{static_cast<unsigned>(n_blocks), kSequenceThreads, choice.shared_bytes, stream,
                     true};
  return launch(choice.kernel, shape, params);
}

}  // namespace ulmfit_fast
