// The only door to the hardware: conversions, wide accesses and launch shapes. Kernels use these
// names and no intrinsic of their own, so that the same .cu files can be built for a CPU in tests.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>

namespace ulmfit_fast {

constexpr int kAccessBytes = 16;

// kCount elements that move in 128-bit accesses; a pointer to it must be 16-byte aligned.
template <typename T, int kCount>
struct alignas(kAccessBytes) Pack {
  static_assert(kCount * sizeof(T) % kAccessBytes == 0, "a pack is made of whole 128-bit accesses");
  T element[kCount];
};

// The type in which a storage type's arithmetic is done: float32 unless the storage is float64.
template <typename T>
struct Arithmetic {
  using type = float;
};
template <>
struct Arithmetic<double> {
  using type = double;
};

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ double widen(double value) { return value; }
__device__ __forceinline__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ __forceinline__ float widen(__half value) { return __half2float(value); }

template <typename T>
__device__ __forceinline__ T narrow(typename Arithmetic<T>::type value);
template <>
__device__ __forceinline__ float narrow<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ double narrow<double>(double value) {
  return value;
}
template <>
__device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}
template <>
__device__ __forceinline__ __half narrow<__half>(float value) {
  return __float2half_rn(value);
}

inline bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % kAccessBytes == 0;
}

// Blocks of a grid-stride launch: enough for every item, at most blocks_per_sm on each
// multiprocessor of the current device.
inline cudaError_t grid_stride_blocks(int64_t n_items, int threads, int blocks_per_sm,
                                      unsigned* blocks) {
  int device = 0;
  int n_sm = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&n_sm, cudaDevAttrMultiProcessorCount, device);
  }
  const int64_t needed = (n_items + threads - 1) / threads;
  *blocks = static_cast<unsigned>(std::min<int64_t>(needed, int64_t{n_sm} * blocks_per_sm));
  return error;
}

}  // namespace ulmfit_fast
