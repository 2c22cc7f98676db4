// drop_connect_kernel: zero each element with chance drop_p, rescale the rest, in one pass.
//
//   out[i] = keep(i) ? weight[i] * scale : +0            keep from philox.h
//
// Layout    weight, out [n], contiguous; n may exceed 2^31.
// Mapping   grid-stride; a thread owns kCount consecutive elements, whole Philox blocks: 4 of 4 or
//           8 bytes, 8 of 2 bytes. A warp touches 512 consecutive bytes (1024 for float64).
// Memory    reads and writes n elements once, in 128-bit accesses (two each for float64): no shared
//           memory, no sync, no banks. Floor = 2 n sizeof(T) / bandwidth.
// Numbers   float32 arithmetic, one rounding to the storage type; float64 in float64.
//           Deterministic. A dropped NaN or infinity is +0.
// Requires  nothing: memory that is not 16-byte aligned, and the last n % kCount elements, go
//           element by element.
#include <algorithm>

#include "../launchers.h"
#include "../philox.h"
#include "device.cuh"

namespace ulmfit_fast {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerSm = 8;  // 8 * 256 threads fill a multiprocessor of 2048

template <typename T>
constexpr int kCount = std::max<int>(kWordsPerBlock, kAccessBytes / sizeof(T));

template <typename T, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    drop_connect_kernel(const T* __restrict__ weight, T* __restrict__ out,
                        const int64_t* __restrict__ seed, int64_t n, uint32_t threshold,
                        typename Arithmetic<T>::type scale) {
  using Chunk = Pack<T, kCount<T>>;
  const uint64_t key = static_cast<uint64_t>(*seed);
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t item = int64_t{blockIdx.x} * kThreads + threadIdx.x; item * kCount<T> < n;
       item += stride) {
    const int64_t first = item * kCount<T>;
    const int count = static_cast<int>(n - first < kCount<T> ? n - first : kCount<T>);
    const bool whole = kAligned && count == kCount<T>;
    Chunk chunk;
    if (whole) {
      chunk = *reinterpret_cast<const Chunk*>(weight + first);
    } else {
#pragma unroll
      for (int k = 0; k < kCount<T>; ++k) {
        if (k < count) chunk.element[k] = weight[first + k];
      }
    }
#pragma unroll
    for (int b = 0; b < kCount<T> / kWordsPerBlock; ++b) {
      const PhiloxBlock drawn = mask_words(first / kWordsPerBlock + b, key);
#pragma unroll
      for (int k = 0; k < kWordsPerBlock; ++k) {
        T& element = chunk.element[b * kWordsPerBlock + k];
        element = narrow<T>(drawn.word[k] >= threshold ? widen(element) * scale : 0);
      }
    }
    if (whole) {
      *reinterpret_cast<Chunk*>(out + first) = chunk;
    } else {
#pragma unroll
      for (int k = 0; k < kCount<T>; ++k) {
        if (k < count) out[first + k] = chunk.element[k];
      }
    }
  }
}

template <typename T>
cudaError_t launch(const DropConnectParams& params, cudaStream_t stream) {
  unsigned blocks = 0;
  const int64_t n_items = (params.n + kCount<T> - 1) / kCount<T>;
  const cudaError_t error = grid_stride_blocks(n_items, kThreads, kBlocksPerSm, &blocks);
  if (error != cudaSuccess) return error;
  const bool aligned = is_aligned(params.weight) && is_aligned(params.out);
  const auto kernel = aligned ? drop_connect_kernel<T, true> : drop_connect_kernel<T, false>;
  kernel<<<blocks, kThreads, 0, stream>>>(
      static_cast<const T*>(params.weight), static_cast<T*>(params.out), params.seed, params.n,
      params.threshold, static_cast<typename Arithmetic<T>::type>(params.scale));
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_drop_connect(const DropConnectParams& params, cudaStream_t stream) {
  switch (params.dtype) {
    case DType::kFloat32:
      return launch<float>(params, stream);
    case DType::kFloat64:
      return launch<double>(params, stream);
    case DType::kBFloat16:
      return launch<__nv_bfloat16>(params, stream);
    case DType::kFloat16:
      return launch<__half>(params, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace ulmfit_fast
