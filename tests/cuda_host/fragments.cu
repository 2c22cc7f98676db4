// What one warp's matrix instructions, ldmatrix and shuffle do with given words: for the emulator,
// built by g++ beside the host twin, and for a GPU, built by nvcc. Both have to print the same.
//
// Reads numbers from standard input: A [32 lanes, 4 words], B [32, 2], C [32, 4] float32 bits, then a
// shared matrix [32 rows, 4 words]. Prints for bfloat16 and float16 the words of C, then those that
// ldmatrix gives of rows 0..31, then what each lane gets by exchange with lane ^ 16 and ^ 3.
#include <bit>
#include <cstdio>
#include <cstdlib>

#include "../../csrc/cuda/device.cuh"

using namespace ulmfit_fast;

namespace {

struct Params {
  const uint32_t *a, *b, *c, *rows;
  uint32_t* out;
};

template <typename T>
DEVICE void multiply(const Params& p, int lane, uint32_t* out) {
  FragmentA a;
  FragmentB b;
  FragmentC c;
  for (int i = 0; i < 4; ++i) a.word[i] = p.a[lane * 4 + i];
  for (int i = 0; i < 2; ++i) b.word[i] = p.b[lane * 2 + i];
  const float* start = reinterpret_cast<const float*>(p.c);
  for (int i = 0; i < 4; ++i) c.value[i] = start[lane * 4 + i];
  multiply_add<T>(c, a, b);
  for (int i = 0; i < 4; ++i) reinterpret_cast<float*>(out)[lane * 4 + i] = c.value[i];
}

KERNEL(kWarpThreads, 1) probe(Params p) {
  const int lane = thread_index();
  multiply<bfloat16>(p, lane, p.out);
  multiply<float16>(p, lane, p.out + 128);
  uint32_t* shared = reinterpret_cast<uint32_t*>(shared_memory());
  for (int i = 0; i < 4; ++i) shared[lane * 4 + i] = p.rows[lane * 4 + i];
  warp_sync();
  const FragmentA loaded = load_matrices(shared + lane * 4);
  for (int i = 0; i < 4; ++i) p.out[256 + lane * 4 + i] = loaded.word[i];
  float* exchanged = reinterpret_cast<float*>(p.out + 384);
  exchanged[lane] = warp_exchange(static_cast<float>(lane), 16);
  exchanged[32 + lane] = warp_exchange(static_cast<float>(lane), 3);
}

uint32_t* words(int n) {
  void* memory = nullptr;
#ifdef __CUDACC__
  if (cudaMallocManaged(&memory, n * sizeof(uint32_t)) != cudaSuccess) std::abort();
#else
  memory = std::malloc(n * sizeof(uint32_t));
#endif
  return static_cast<uint32_t*>(memory);
}

const uint32_t* read(int n) {
  uint32_t* all = words(n);
  for (int i = 0; i < n; ++i) {
    if (std::scanf("%u", &all[i]) != 1) std::abort();
  }
  return all;
}

}  // namespace

int main() {
  constexpr int kOut = 448;
  Params params{read(128), read(64), read(128), read(128), words(kOut)};
  cudaError_t error = launch(probe, Launch{1, kWarpThreads, 512, nullptr, false}, params);
#ifdef __CUDACC__
  if (error == cudaSuccess) error = cudaDeviceSynchronize();
#endif
  if (error != cudaSuccess) return 1;
  for (int i = 0; i < kOut; ++i) std::printf("%u\n", params.out[i]);
}
