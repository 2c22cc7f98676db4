// What the forward and the backward kernel of a whole sequence share: who owns what, the flags
// between blocks, the masked weights, the cell's functions.
//
// Flags     One 32-bit epoch a block, zero at the launch (a memset in the same stream, so graph
//           replays too), only ever growing: after its e-th publication a block's flag is e. What it
//           stored before is seen by whoever reads e or more. Waiting is for the producers of the
//           columns needed next, of the same group only.
// Deadlock  None, as long as all blocks of the launch are resident: it is cooperative.
#pragma once

#include "../launchers.h"
#include "../philox.h"
#include "device.cuh"

namespace ulmfit_fast {

// 8 warps: a multiprocessor's registers are in 4 equal parts, so a ninth warp would leave each thread
// 168 of them instead of 255.
constexpr int kSequenceThreads = 256;
constexpr int kSequenceWarps = kSequenceThreads / kWarpThreads;
// Batch rows of a pass: two tiles of 16. More rows of a group take more passes inside a step.
constexpr int kPassRows = 32;
// Flags lie in sectors of their own, so that no two blocks write one.
constexpr int kFlagStride = 8;

ULMFIT_FAST_INLINE constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

// A block's group, its part of the units, and its group's batch rows.
struct Place {
  int n_parts, group, part;
  int n_units, first_unit;
  int first_row, n_rows;

  DEVICE Place(const LstmSequence& p, int units)
      : n_parts(ceil_div(p.H, units)),
        group(block_index() / n_parts),
        part(block_index() % n_parts),
        n_units(units),
        first_unit(part * units) {
    const int rows = ceil_div(p.B, p.n_groups);
    first_row = group * rows;
    n_rows = p.B - first_row < rows ? p.B - first_row : rows;
  }
  // The part that owns a unit; padding belongs to the last.
  DEVICE int owner(int unit) const {
    const int part_of_unit = unit / n_units;
    return part_of_unit < n_parts ? part_of_unit : n_parts - 1;
  }
};

// A group's flags.
class Flags {
 public:
  DEVICE Flags(const LstmSequence& p, const Place& place)
      : flags_(p.flags + place.group * place.n_parts * kFlagStride), own_(place.part) {}

  // All threads of the block, after their last store and before their next load of others' stores.
  DEVICE void publish(uint32_t epoch) {
    block_sync();
    if (thread_index() == 0) store_release(flags_ + own_ * kFlagStride, epoch);
  }
  // All lanes of a warp: until parts first..last, at most 32, have published an epoch. A read past L1
  // takes most of a microsecond, so all flags that a warp needs are asked for together.
  DEVICE void wait(int first, int last, uint32_t epoch) const {
    const int wanted = first + thread_index() % kWarpThreads;
    const uint32_t* flag = flags_ + (wanted < last ? wanted : last) * kFlagStride;
    Patience patience;
    while (!warp_all(load_acquire(flag) >= epoch)) patience.wait();
    warp_sync();  // a vote orders no memory: what one lane has acquired is for all of them after this
  }

 private:
  uint32_t* flags_;
  int own_;
};

// Four neighbours of a row of w_hh, masked but not rescaled, two to a word, from column `first` on, a
// multiple of four; columns from H on are 0.
template <typename T>
DEVICE FragmentB load_weights(const LstmSequence& p, int row, int first) {
  struct alignas(8) Wide {
    uint32_t word[2];
  };
  const int64_t index = int64_t{row} * p.H + first;
  const T* weights = static_cast<const T*>(p.w_hh) + index;
  FragmentB out{};
  if (p.H % 4 == 0) {  // rows are aligned, and whole
    Wide wide{};
    if (first < p.H) wide = *reinterpret_cast<const Wide*>(weights);
    out = {{wide.word[0], wide.word[1]}};
  } else {  // H is even: a word is within a row or beyond it
#pragma unroll
    for (int w = 0; w < 2; ++w) {
      if (first + 2 * w < p.H) out.word[w] = *reinterpret_cast<const uint32_t*>(weights + 2 * w);
    }
  }
  if (p.seed == nullptr) return out;
  const uint64_t seed = static_cast<uint64_t>(*p.seed);
  const auto keep = [&](uint32_t low, uint32_t high) {
    return (low >= p.threshold ? 0xffffu : 0u) | (high >= p.threshold ? 0xffff0000u : 0u);
  };
  // index is even: the four are a block of words, or the end of one and the start of the next.
  const PhiloxBlock drawn = mask_words(index / kWordsPerBlock, seed);
  if (index % kWordsPerBlock == 0) {
    out.word[0] &= keep(drawn.word[0], drawn.word[1]);
    out.word[1] &= keep(drawn.word[2], drawn.word[3]);
  } else {
    const PhiloxBlock next = mask_words(index / kWordsPerBlock + 1, seed);
    out.word[0] &= keep(drawn.word[2], drawn.word[3]);
    out.word[1] &= keep(next.word[0], next.word[1]);
  }
  return out;
}

// Two neighbours of the storage type in a word, the first in its lower half.
template <typename T>
DEVICE uint32_t join(float first, float second) {
  return bits(narrow<T>(first)) | bits(narrow<T>(second)) << 16;
}
template <typename T>
DEVICE float first_of(uint32_t word) {
  return widen(from_bits<T>(word & 0xffffu));
}
template <typename T>
DEVICE float second_of(uint32_t word) {
  return widen(from_bits<T>(word >> 16));
}

// Absolute errors below 2e-7; no overflow for any x.
DEVICE float sigmoid(float x) { return fast_divide(1.0f, 1.0f + fast_exp(-x)); }
DEVICE float tanh_of(float x) { return 1.0f - fast_divide(2.0f, 1.0f + fast_exp(2.0f * x)); }

// Two neighbours, and the four gates i, f, g, o of a unit, in float32.
struct alignas(8) Two {
  float first, second;
};
struct alignas(16) Gates {
  float value[4];
  DEVICE Gates& operator+=(const Gates& other) {
#pragma unroll
    for (int g = 0; g < 4; ++g) value[g] += other.value[g];
    return *this;
  }
};

// Activates the gates, moves c if the row still runs, and returns the h that would follow.
DEVICE float advance(Gates& a, float& c, bool runs) {
  const float i = sigmoid(a.value[0]), f = sigmoid(a.value[1]);
  const float g = tanh_of(a.value[2]), o = sigmoid(a.value[3]);
  a = {{i, f, g, o}};
  if (runs) c = f * c + i * g;
  return o * tanh_of(c);
}

// Rows of a group in the exchange buffer: whole passes.
ULMFIT_FAST_INLINE constexpr int exchange_rows(int B, int n_groups) {
  return ceil_div(ceil_div(B, n_groups), kPassRows) * kPassRows;
}

// Bytes of the flags of n_blocks blocks.
inline size_t flag_bytes(int n_blocks) {
  return static_cast<size_t>(n_blocks) * kFlagStride * sizeof(uint32_t);
}

}  // namespace ulmfit_fast
