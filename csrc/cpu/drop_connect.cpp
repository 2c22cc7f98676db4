// drop_connect_cpu: zero each element with chance drop_p, rescale the rest.
//
//   out[i] = keep(i) ? weight[i] * scale : +0            keep from philox.h
//
// Layout    weight, out [n], contiguous.
// Mapping   a call owns a range of Philox blocks (4 elements each) and walks it in chunks of
//           kChunkBlocks: first the words of a chunk, one block per vector lane, then the products.
// Memory    reads and writes n elements once; the words of a chunk stay in the first-level cache.
// Numbers   float32 arithmetic, one rounding to the storage type; float64 in float64.
//           Deterministic. A dropped NaN or infinity is +0.
// Requires  nothing of n or of alignment.
#include <algorithm>
#include <cstddef>

#include "../launchers.h"
#include "../philox.h"
#include "torch/headeronly/util/BFloat16.h"
#include "torch/headeronly/util/Half.h"

// One copy of each entry point per instruction set; the dynamic linker picks at load time.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define ULMFIT_FAST_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define ULMFIT_FAST_CLONES
#endif

namespace ulmfit_fast {
namespace {

constexpr int64_t kChunkBlocks = 256;

template <typename T, typename Accumulator>
ULMFIT_FAST_INLINE void drop_blocks(const DropConnectParams& params, int64_t first_block,
                                    int64_t last_block) {
  const uint64_t seed = static_cast<uint64_t>(*params.seed);
  const Accumulator scale = static_cast<Accumulator>(params.scale);
  const uint32_t threshold = params.threshold;
  uint32_t words[kChunkBlocks * kWordsPerBlock];
  for (int64_t chunk = first_block; chunk < last_block; chunk += kChunkBlocks) {
    const int64_t n_blocks = std::min(kChunkBlocks, last_block - chunk);
    for (int64_t block = 0; block < n_blocks; ++block) {
      const PhiloxBlock drawn = mask_words(static_cast<uint64_t>(chunk + block), seed);
      for (int k = 0; k < kWordsPerBlock; ++k) words[kWordsPerBlock * block + k] = drawn.word[k];
    }
    const int64_t first = chunk * kWordsPerBlock;
    const int64_t count = std::min(n_blocks * kWordsPerBlock, params.n - first);
    const T* weight = static_cast<const T*>(params.weight) + first;
    T* __restrict__ out = static_cast<T*>(params.out) + first;
    for (int64_t i = 0; i < count; ++i) {
      const Accumulator scaled = static_cast<Accumulator>(weight[i]) * scale;
      out[i] = static_cast<T>(words[i] >= threshold ? scaled : Accumulator{0});
    }
  }
}

ULMFIT_FAST_CLONES void drop_float32(const DropConnectParams& params, int64_t first, int64_t last) {
  drop_blocks<float, float>(params, first, last);
}

ULMFIT_FAST_CLONES void drop_float64(const DropConnectParams& params, int64_t first, int64_t last) {
  drop_blocks<double, double>(params, first, last);
}

ULMFIT_FAST_CLONES void drop_bfloat16(const DropConnectParams& params, int64_t first,
                                      int64_t last) {
  drop_blocks<c10::BFloat16, float>(params, first, last);
}

ULMFIT_FAST_CLONES void drop_float16(const DropConnectParams& params, int64_t first, int64_t last) {
  drop_blocks<c10::Half, float>(params, first, last);
}

}  // namespace

void drop_connect_cpu(const DropConnectParams& params, int64_t first_block, int64_t last_block) {
  switch (params.dtype) {
    case DType::kFloat32:
      return drop_float32(params, first_block, last_block);
    case DType::kFloat64:
      return drop_float64(params, first_block, last_block);
    case DType::kBFloat16:
      return drop_bfloat16(params, first_block, last_block);
    case DType::kFloat16:
      return drop_float16(params, first_block, last_block);
  }
}

}  // namespace ulmfit_fast
