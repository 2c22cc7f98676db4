// The only door to the hardware: ids, shared memory, barriers, matrix instructions, asynchronous
// copies, flags between blocks, conversions and launches. Kernels use these names and no intrinsic
// or PTX of their own, so that the same .cu files also build for a CPU: tests/cuda_host/device.h
// has the same names, takes the guard below, and is included first.
//
// Source    PTX ISA 9.0, sections named beside each instruction.
#ifndef ULMFIT_FAST_DEVICE
#define ULMFIT_FAST_DEVICE

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>

#define DEVICE __device__ __forceinline__
// A kernel's threads a block and the blocks that have to fit a multiprocessor together.
#define KERNEL(kThreads, kBlocks) __global__ void __launch_bounds__(kThreads, kBlocks)

namespace ulmfit_fast {

using bfloat16 = __nv_bfloat16;
using float16 = __half;

constexpr int kAccessBytes = 16;
constexpr int kWarpThreads = 32;
// What a block can be given on compute capability 9.0; 8.0 has 163 KiB, 12.0 99.
constexpr int kMaxSharedBytes = 227 * 1024;

// kCount elements that move in 128-bit accesses; a pointer to it must be 16-byte aligned.
template <typename T, int kCount>
struct alignas(kAccessBytes) Pack {
  static_assert(kCount * sizeof(T) % kAccessBytes == 0, "a pack is made of whole 128-bit accesses");
  T element[kCount];
};

// ---- Numbers

// The type in which a storage type's arithmetic is done: float32 unless the storage is float64.
template <typename T>
struct Arithmetic {
  using type = float;
};
template <>
struct Arithmetic<double> {
  using type = double;
};

DEVICE float widen(float value) { return value; }
DEVICE double widen(double value) { return value; }
DEVICE float widen(bfloat16 value) { return __bfloat162float(value); }
DEVICE float widen(float16 value) { return __half2float(value); }

template <typename T>
DEVICE T narrow(typename Arithmetic<T>::type value);
template <>
DEVICE float narrow<float>(float value) {
  return value;
}
template <>
DEVICE double narrow<double>(double value) {
  return value;
}
template <>
DEVICE bfloat16 narrow<bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}
template <>
DEVICE float16 narrow<float16>(float value) {
  return __float2half_rn(value);
}

// The 16 bits of a storage type.
DEVICE uint32_t bits(bfloat16 value) { return __bfloat16_as_ushort(value); }
DEVICE uint32_t bits(float16 value) { return __half_as_ushort(value); }
template <typename T>
DEVICE T from_bits(uint32_t value);
template <>
DEVICE bfloat16 from_bits<bfloat16>(uint32_t value) {
  return __ushort_as_bfloat16(static_cast<unsigned short>(value));
}
template <>
DEVICE float16 from_bits<float16>(uint32_t value) {
  return __ushort_as_half(static_cast<unsigned short>(value));
}

// exp and a quotient with errors of a few units of float32's last place (ex2.approx, div.full).
DEVICE float fast_exp(float x) { return __expf(x); }
DEVICE float fast_divide(float a, float b) { return __fdividef(a, b); }

// ---- Who am I. Grids and blocks have one dimension.

DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
DEVICE int block_index() { return static_cast<int>(blockIdx.x); }
DEVICE int grid_size() { return static_cast<int>(gridDim.x); }

// ---- Shared memory: the bytes that the launch asked for, 128-byte aligned, holding anything.

DEVICE char* shared_memory() {
  extern __shared__ __align__(128) char shared_bytes[];
  return shared_bytes;
}

DEVICE uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// ---- Barriers and exchanges. All threads of the block, group or warp take part.

DEVICE void block_sync() { __syncthreads(); }
// Threads n_threads at a time, whole warps; group 1..15 names the barrier. PTX 9.7.13.1, bar.sync.
DEVICE void group_sync(int group, int n_threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(group), "r"(n_threads) : "memory");
}
DEVICE void warp_sync() { __syncwarp(); }
DEVICE bool warp_all(bool value) { return __all_sync(0xffffffffu, value) != 0; }
// The value of the lane whose number differs from this lane's by the bits of mask.
DEVICE float warp_exchange(float value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
DEVICE double warp_exchange(double value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

// ---- Matrix products of a warp. PTX 9.7.14.5.8, m16n8k16; q = lane % 4, r = lane / 4:
//   A [16, 16]  word 0: (r, 2q..2q+1)  1: (r + 8, 2q..)  2: (r, 2q + 8..)  3: (r + 8, 2q + 8..)
//   B [16, 8]   word 0: (2q..2q+1, r)  1: (2q + 8.., r)
//   C [16, 8]   0, 1: (r, 2q..2q+1)    2, 3: (r + 8, 2q..2q+1)
// The element of the lower index is in a word's lower half.

struct FragmentA {
  uint32_t word[4];
};
struct FragmentB {
  uint32_t word[2];
};
struct FragmentC {
  float value[4];
};

template <typename T>
DEVICE void multiply_add(FragmentC& c, const FragmentA& a, const FragmentB& b);
template <>
DEVICE void multiply_add<bfloat16>(FragmentC& c, const FragmentA& a, const FragmentB& b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c.value[0]), "+f"(c.value[1]), "+f"(c.value[2]), "+f"(c.value[3])
      : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]), "r"(b.word[0]),
        "r"(b.word[1]));
}
template <>
DEVICE void multiply_add<float16>(FragmentC& c, const FragmentA& a, const FragmentB& b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c.value[0]), "+f"(c.value[1]), "+f"(c.value[2]), "+f"(c.value[3])
      : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]), "r"(b.word[0]),
        "r"(b.word[1]));
}

// Four 8x8 matrices of 16-bit elements; lane i gives the address of row i % 8 (16 bytes, aligned) of
// matrix i / 8, and gets of each matrix the elements (r, 2q..2q+1). PTX 9.7.14.5.15, ldmatrix.
DEVICE FragmentA load_matrices(const void* shared_row) {
  FragmentA a;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(a.word[0]), "=r"(a.word[1]), "=r"(a.word[2]), "=r"(a.word[3])
               : "r"(shared_address(shared_row))
               : "memory");
  return a;
}

// ---- Copies of 16 bytes to shared memory, past L1. PTX 9.7.9.25.3, cp.async.cg.

DEVICE void copy_async(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)),
               "l"(global)
               : "memory");
}
DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most kPending of this thread's youngest committed groups are under way.
template <int kPending>
DEVICE void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// ---- Memory that blocks share while a kernel runs: written with store_for_others, read past L1,
// ordered by flags. PTX 8.9: what a thread stored, or its block before a barrier, is seen by whoever
// acquires the flag that it released afterwards.

DEVICE void store_for_others(uint32_t* global, uint32_t value) { *global = value; }
DEVICE uint32_t load_from_others(const uint32_t* global) {
  uint32_t value;
  asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(value) : "l"(global) : "memory");
  return value;
}
DEVICE void store_for_others(double* global, double value) { *global = value; }
DEVICE double load_from_others(const double* global) {
  double value;
  asm volatile("ld.global.cg.f64 %0, [%1];" : "=d"(value) : "l"(global) : "memory");
  return value;
}
DEVICE void store_release(uint32_t* flag, uint32_t value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
DEVICE uint32_t load_acquire(const uint32_t* flag) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
}
DEVICE uint32_t add_acquire_release(uint32_t* counter, uint32_t value) {
  uint32_t before;
  asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], %2;"
               : "=r"(before)
               : "l"(counter), "r"(value)
               : "memory");
  return before;
}

// 16 bytes that are not used again soon: first to leave the caches.
DEVICE Pack<float, 4> load_streaming(const Pack<float, 4>* global) {
  const float4 v = __ldcs(reinterpret_cast<const float4*>(global));
  return {{v.x, v.y, v.z, v.w}};
}
DEVICE void store_streaming(Pack<float, 4>* global, const Pack<float, 4>& pack) {
  const float* v = pack.element;
  __stcs(reinterpret_cast<float4*>(global), make_float4(v[0], v[1], v[2], v[3]));
}

// Asks for the line in L2; no register waits for it.
DEVICE void prefetch(const void* global) { asm volatile("prefetch.global.L2 [%0];" ::"l"(global)); }

[[noreturn]] DEVICE void trap() {
  __trap();
  __builtin_unreachable();
}
DEVICE uint64_t timer_ns() {
  uint64_t now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now)::"memory");
  return now;
}

// Called in every turn of a loop that waits for another block. Built with -DULMFIT_FAST_DEBUG, a
// wait of more than two seconds ends the kernel with an error instead of never.
class Patience {
 public:
  DEVICE void wait() {
#ifdef ULMFIT_FAST_DEBUG
    constexpr uint64_t kLimit = 2'000'000'000;
    if (start_ == 0) start_ = timer_ns();
    if (timer_ns() - start_ > kLimit) trap();
#endif
  }

 private:
#ifdef ULMFIT_FAST_DEBUG
  uint64_t start_ = 0;
#endif
};

// ---- Host: launches

inline bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % kAccessBytes == 0;
}

inline cudaError_t multiprocessors(int* count) {
  int device = 0;
  const cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  return cudaDeviceGetAttribute(count, cudaDevAttrMultiProcessorCount, device);
}

// Blocks of a grid-stride launch: enough for every item, at most blocks_per_sm on each
// multiprocessor of the current device.
inline cudaError_t grid_stride_blocks(int64_t n_items, int threads, int blocks_per_sm,
                                      unsigned* blocks) {
  int n_sm = 0;
  const cudaError_t error = multiprocessors(&n_sm);
  const int64_t needed = (n_items + threads - 1) / threads;
  *blocks = static_cast<unsigned>(std::min<int64_t>(needed, int64_t{n_sm} * blocks_per_sm));
  return error;
}

struct Launch {
  unsigned blocks;
  unsigned threads;
  size_t shared_bytes;
  cudaStream_t stream;
  bool cooperative;  // all blocks run at once, or the launch fails
};

template <typename Params>
cudaError_t launch(void (*kernel)(Params), const Launch& shape, const Params& params) {
  cudaError_t error = cudaSuccess;
  if (shape.shared_bytes > 48 * 1024) {
    error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                 cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shape.shared_bytes));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = shape.cooperative ? 1 : 0;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(shape.blocks);
  config.blockDim = dim3(shape.threads);
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  void* arguments[] = {const_cast<Params*>(&params)};
  return cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), arguments);
}

// How many blocks of a kernel the current device runs at once; 0 where one does not fit.
template <typename Params>
cudaError_t resident_blocks(void (*kernel)(Params), int threads, size_t shared_bytes, int* blocks) {
  *blocks = 0;
  int device = 0, n_sm = 0, limit = 0, each = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error != cudaSuccess || shared_bytes > static_cast<size_t>(limit)) return error;
  error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes));
  if (error != cudaSuccess) return error;
  error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(
      &each, reinterpret_cast<const void*>(kernel), threads, shared_bytes);
  if (error != cudaSuccess) return error;
  error = multiprocessors(&n_sm);
  *blocks = each * n_sm;
  return error;
}

inline cudaError_t fill_zeros(void* global, size_t bytes, cudaStream_t stream) {
  return cudaMemsetAsync(global, 0, bytes, stream);
}

}  // namespace ulmfit_fast

#endif  // ULMFIT_FAST_DEVICE
