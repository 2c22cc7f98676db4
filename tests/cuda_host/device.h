// The host twin of csrc/cuda/device.cuh: the same names, for a CPU. Included before a .cu file, it
// takes the guard of the real one. What they mean stands there; how they behave, in emulator.h.
#define ULMFIT_FAST_DEVICE

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "emulator.h"

#define DEVICE inline
#define KERNEL(kThreads, kBlocks) void
#define __restrict__ __restrict
#define __grid_constant__

namespace ulmfit_fast {

struct bfloat16 {
  uint16_t raw;
};
struct float16 {
  uint16_t raw;
};

constexpr int kAccessBytes = 16;
constexpr int kWarpThreads = 32;
constexpr int kMaxSharedBytes = 227 * 1024;

template <typename T, int kCount>
struct alignas(kAccessBytes) Pack {
  static_assert(kCount * sizeof(T) % kAccessBytes == 0, "a pack is made of whole 128-bit accesses");
  T element[kCount];
};

template <typename T>
struct Arithmetic {
  using type = float;
};

inline uint32_t bits(bfloat16 value) { return value.raw; }
inline uint32_t bits(float16 value) { return value.raw; }
template <typename T>
inline T from_bits(uint32_t value) {
  return {static_cast<uint16_t>(value)};
}

inline float widen(bfloat16 value) { return std::bit_cast<float>(uint32_t{value.raw} << 16); }
inline float widen(float16 value) {
  static const std::array<float, 65536> table = [] {
    std::array<float, 65536> all;
    for (uint32_t raw = 0; raw < all.size(); ++raw) {
      const int sign = raw >> 15 ? -1 : 1, exponent = raw >> 10 & 31, fraction = raw & 1023;
      if (exponent == 31) {
        all[raw] = std::bit_cast<float>((raw >> 15) << 31 | 0x7f800000u | uint32_t(fraction) << 13);
      } else {
        const float size = exponent == 0 ? std::ldexp(float(fraction), -24)
                                         : std::ldexp(float(1024 + fraction), exponent - 25);
        all[raw] = sign * size;
      }
    }
    return all;
  }();
  return table[value.raw];
}

template <typename T>
T narrow(float value);
template <>
inline bfloat16 narrow<bfloat16>(float value) {
  const uint32_t word = std::bit_cast<uint32_t>(value);
  if (value != value) return {0x7fff};
  return {static_cast<uint16_t>((word + 0x7fffu + (word >> 16 & 1)) >> 16)};
}
template <>
inline float16 narrow<float16>(float value) {
  const uint16_t sign = std::bit_cast<uint32_t>(value) >> 31 << 15;
  if (value != value) return {0x7fff};
  const float size = std::fabs(value);
  if (size >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00)};
  // Numbers of one exponent are equally far apart: round to that distance, ties to even.
  const int exponent = std::max(size == 0 ? -15 : std::ilogb(size), -14);
  const int steps = static_cast<int>(std::nearbyint(std::ldexp(size, 10 - exponent)));
  return {static_cast<uint16_t>(sign | (((exponent + 14) << 10) + steps))};
}

inline float fast_exp(float x) { return std::exp(x); }
inline float fast_divide(float a, float b) { return a / b; }

using host::add_acquire_release;
using host::block_index;
using host::block_sync;
using host::copy_async;
using host::copy_commit;
using host::grid_size;
using host::group_sync;
using host::load_acquire;
using host::shared_memory;
using host::store_release;
using host::thread_index;
using host::warp_all;
using host::warp_sync;

template <int kPending>
void copy_wait() {
  host::copy_wait(kPending);
}

template <typename T>
T warp_exchange(T value, int mask) {
  struct Operand {
    T value, result;
    int mask;
  } mine{value, 0, host::options().mutation == "warp_exchange" ? mask >> 1 : mask};
  host::meet(host::Kind::kExchange, &mine, [](void* const* operands) {
    for (int lane = 0; lane < kWarpThreads; ++lane) {
      Operand& to = *static_cast<Operand*>(operands[lane]);
      to.result = static_cast<Operand*>(operands[lane ^ to.mask])->value;
    }
  });
  return mine.result;
}

struct FragmentA {
  uint32_t word[4];
};
struct FragmentB {
  uint32_t word[2];
};
struct FragmentC {
  float value[4];
};

// A fragment's element: its register's number, and the row and column that a lane has there.
struct Element {
  int row, column;
};
constexpr Element element_of_a(int lane, int i) {
  return {lane / 4 + (i / 2 % 2) * 8, lane % 4 * 2 + i % 2 + i / 4 * 8};
}
constexpr Element element_of_b(int lane, int i) {
  return {lane % 4 * 2 + i % 2 + i / 2 * 8, lane / 4};
}
constexpr Element element_of_c(int lane, int i) {
  return {lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2};
}

template <typename T>
void multiply_add(FragmentC& c, const FragmentA& a, const FragmentB& b) {
  struct Operand {
    FragmentC* c;
    const FragmentA* a;
    const FragmentB* b;
  } mine{&c, &a, &b};
  host::meet(host::Kind::kMultiply, &mine, [](void* const* operands) {
    float left[16][16], right[16][8], sum[16][8];
    const auto half = [](const uint32_t* words, int i) {
      return widen(from_bits<T>(words[i / 2] >> (i % 2 * 16) & 0xffffu));
    };
    for (int lane = 0; lane < kWarpThreads; ++lane) {
      const Operand& from = *static_cast<Operand*>(operands[lane]);
      for (int i = 0; i < 8; ++i) {
        const Element e = element_of_a(lane, i);
        left[e.row][e.column] = half(from.a->word, i);
      }
      for (int i = 0; i < 4; ++i) {
        const Element at_b = element_of_b(lane, i), at_c = element_of_c(lane, i);
        right[at_b.row][at_b.column] = half(from.b->word, i);
        sum[at_c.row][at_c.column] = from.c->value[i];
      }
    }
    for (int row = 0; row < 16; ++row) {
      for (int k = 0; k < 16; ++k) {
        for (int column = 0; column < 8; ++column) {
          sum[row][column] += left[row][k] * right[k][column];
        }
      }
    }
    for (int lane = 0; lane < kWarpThreads; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const Element e = element_of_c(lane, i);
        static_cast<Operand*>(operands[lane])->c->value[i] = sum[e.row][e.column];
      }
    }
  });
}

inline FragmentA load_matrices(const void* shared_row) {
  struct Operand {
    const char* row;
    FragmentA result;
  } mine{static_cast<const char*>(shared_row), {}};
  if (reinterpret_cast<uintptr_t>(shared_row) % 16 != 0) host::fail("ldmatrix: unaligned row");
  host::meet(host::Kind::kLoad, &mine, [](void* const* operands) {
    for (int lane = 0; lane < kWarpThreads; ++lane) {
      for (int matrix = 0; matrix < 4; ++matrix) {
        const auto& from = *static_cast<Operand*>(operands[matrix * 8 + lane / 4]);
        auto& to = *static_cast<Operand*>(operands[lane]);
        std::memcpy(&to.result.word[matrix], from.row + lane % 4 * 4, 4);
      }
    }
  });
  return mine.result;
}

inline void store_for_others(uint32_t* global, uint32_t value) { host::store(global, value); }
inline uint32_t load_from_others(const uint32_t* global) { return host::load(global); }
inline void store_for_others(double* global, double value) {
  const auto words = std::bit_cast<std::array<uint32_t, 2>>(value);
  for (int i = 0; i < 2; ++i) host::store(reinterpret_cast<uint32_t*>(global) + i, words[i]);
}
inline double load_from_others(const double* global) {
  std::array<uint32_t, 2> words;
  for (int i = 0; i < 2; ++i) words[i] = host::load(reinterpret_cast<const uint32_t*>(global) + i);
  return std::bit_cast<double>(words);
}
inline Pack<float, 4> load_streaming(const Pack<float, 4>* global) { return *global; }
inline void store_streaming(Pack<float, 4>* global, const Pack<float, 4>& pack) { *global = pack; }
inline void prefetch(const void*) {}
inline uint64_t timer_ns() {
  return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}
[[noreturn]] inline void trap() { host::fail("trap"); }

class Patience {
 public:
  void wait() { host::wait_for_flag(); }
};

struct Launch {
  unsigned blocks;
  unsigned threads;
  size_t shared_bytes;
  cudaStream_t stream;
  bool cooperative;
};

template <typename Params>
cudaError_t launch(void (*kernel)(Params), const Launch& shape, const Params& params) {
  const int n_blocks = static_cast<int>(shape.blocks);
  if (shape.shared_bytes > host::options().shared_limit) return cudaErrorInvalidValue;
  if (shape.cooperative && n_blocks > host::options().n_multiprocessors) {
    return cudaErrorCooperativeLaunchTooLarge;
  }
  const bool done = host::run(n_blocks, static_cast<int>(shape.threads), shape.shared_bytes,
                              [&] { kernel(params); });
  return done ? cudaSuccess : cudaErrorLaunchFailure;
}

template <typename Params>
cudaError_t resident_blocks(void (*)(Params), int, size_t shared_bytes, int* blocks) {
  const host::Options& options = host::options();
  *blocks = shared_bytes <= options.shared_limit ? options.n_multiprocessors : 0;
  return cudaSuccess;
}

inline bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % kAccessBytes == 0;
}

inline cudaError_t multiprocessors(int* count) {
  *count = host::options().n_multiprocessors;
  return cudaSuccess;
}

inline cudaError_t grid_stride_blocks(int64_t n_items, int threads, int blocks_per_sm,
                                      unsigned* blocks) {
  int n_sm = 0;
  const cudaError_t error = multiprocessors(&n_sm);
  const int64_t needed = (n_items + threads - 1) / threads;
  *blocks = static_cast<unsigned>(std::min<int64_t>(needed, int64_t{n_sm} * blocks_per_sm));
  return error;
}

inline cudaError_t fill_zeros(void* global, size_t bytes, cudaStream_t) {
  std::memset(global, 0, bytes);
  return cudaSuccess;
}

}  // namespace ulmfit_fast
