// The C++ contract: parameters and entry points of every kernel. No torch header here.
//
// Pointers are to contiguous, row-major memory. Nothing here allocates, checks or synchronises:
// bindings_cpu.cpp and bindings_cuda.cpp do, before they call.
#pragma once

#include <cstdint>

#ifdef USE_CUDA
#include <cuda_runtime_api.h>
#endif

namespace ulmfit_fast {

enum class DType { kFloat32, kFloat64, kBFloat16, kFloat16 };

// out[i] = keep(i) ? weight[i] * scale : +0, for i in [0, n); keep as in philox.h.
struct DropConnectParams {
  const void* weight;   // [n]
  void* out;            // [n], never overlaps weight
  const int64_t* seed;  // [1], in the memory of the device that runs the kernel
  int64_t n;
  uint32_t threshold;  // drop_threshold(drop_p)
  double scale;        // 1 / (1 - drop_p); rounded to float32 unless dtype is kFloat64
  DType dtype;         // of weight and out
};

// Computes elements 4 * first_block up to min(4 * last_block, n); any number of threads may call it
// on ranges that do not overlap.
void drop_connect_cpu(const DropConnectParams& params, int64_t first_block, int64_t last_block);

#ifdef USE_CUDA
cudaError_t launch_drop_connect(const DropConnectParams& params, cudaStream_t stream);
#endif

}  // namespace ulmfit_fast
