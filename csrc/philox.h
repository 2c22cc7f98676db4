// Philox4x32-10, the counter-based generator behind every random mask; plain C++, also for CUDA.
//
//   word(i) = Philox4x32-10(counter = (j lo32, j hi32, 0, 0), key = (seed lo32, seed hi32))[i % 4]
//   j = i / 4, i the index of an element in row-major order
//   keep(i) = word(i) >= floor(drop_p * 2^32)
//
// The same layout is in ulmfit_fast/reference/masks.py, and it is Triton's tl.randint4x(seed, j).
//
// Source    Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", SC'11.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define ULMFIT_FAST_INLINE __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define ULMFIT_FAST_INLINE inline __attribute__((always_inline))
#else
#define ULMFIT_FAST_INLINE inline
#endif

namespace ulmfit_fast {

constexpr int kWordsPerBlock = 4;

struct PhiloxBlock {
  uint32_t word[kWordsPerBlock];
};

// Both arguments as 32-bit words, least significant first.
ULMFIT_FAST_INLINE PhiloxBlock philox4x32(PhiloxBlock counter, uint32_t key0, uint32_t key1) {
  uint32_t c0 = counter.word[0], c1 = counter.word[1];
  uint32_t c2 = counter.word[2], c3 = counter.word[3];
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * c0;
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ key0;
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ key1;
    c3 = static_cast<uint32_t>(product0);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// The words of elements 4 * block .. 4 * block + 3.
ULMFIT_FAST_INLINE PhiloxBlock mask_words(uint64_t block, uint64_t seed) {
  return philox4x32({{static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), 0, 0}},
                    static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
}

// An element whose word is below this is dropped. drop_p is in [0, 1).
inline uint32_t drop_threshold(double drop_p) {
  return static_cast<uint32_t>(drop_p * 4294967296.0);
}

}  // namespace ulmfit_fast
