// What the persistent LSTM is made of, each on its own, on the GPU of this machine:
//   a barrier between blocks by a flag of each (as the kernels do) and by one counter; the same 147 KB
//   copied to shared memory by every block; matrix products whose B stays in registers.
//
//   nvcc -std=c++20 -O3 -arch=native benchmarks/persistent_parts.cu -o parts && ./parts > parts.json
//
// Times are of whole launches, by events, over the repetitions inside; the median of 21 launches.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "../csrc/cuda/lstm_sequence.cuh"

using namespace ulmfit_fast;

namespace {

constexpr int kRepeats = 2000;
constexpr int kCopiedBytes = 64 * 1152 * 2;

struct Params {
  LstmSequence sequence;
  const char* source;
  uint32_t* counter;
  float* out;
};

KERNEL(kSequenceThreads, 1) by_flags(Params p) {
  const Place place(p.sequence, kLstmForwardUnits);
  Flags flags(p.sequence, place);
  const int warp = thread_index() / kWarpThreads;
  for (uint32_t epoch = 1; epoch <= kRepeats; ++epoch) {
    flags.publish(epoch);
    const int first = warp * place.n_parts / kSequenceWarps;
    flags.wait(first, (warp + 1) * place.n_parts / kSequenceWarps - 1, epoch);
    block_sync();
  }
}

KERNEL(kSequenceThreads, 1) by_counter(Params p) {
  for (uint32_t epoch = 1; epoch <= kRepeats; ++epoch) {
    block_sync();
    if (thread_index() == 0) {
      add_acquire_release(p.counter, 1);
      const uint32_t wanted = epoch * static_cast<uint32_t>(grid_size());
      while (load_acquire(p.counter) < wanted) {
      }
    }
    block_sync();
  }
}

KERNEL(kSequenceThreads, 1) broadcast(Params p) {
  char* const shared = shared_memory();
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    for (int i = thread_index() * 16; i < kCopiedBytes; i += kSequenceThreads * 16) {
      copy_async(shared + i, p.source + i);
    }
    copy_commit();
    copy_wait<0>();
    block_sync();
  }
}

KERNEL(kSequenceThreads, 1) products(Params p) {
  FragmentC sums[18] = {};
  FragmentB b[18];
  FragmentA a{{0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u}};
  for (int i = 0; i < 18; ++i) b[i] = {{static_cast<uint32_t>(thread_index() + i), 0u}};
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
#pragma unroll
    for (int i = 0; i < 18; ++i) multiply_add<bfloat16>(sums[i], a, b[i]);
  }
  float total = 0;
  for (int i = 0; i < 18; ++i) total += sums[i].value[0];
  p.out[block_index() * kSequenceThreads + thread_index()] = total;
}

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(error));
  std::exit(1);
}

// Nanoseconds a repetition.
double time_ns(void (*kernel)(Params), const Params& params, unsigned blocks, size_t shared) {
  cudaEvent_t start, stop;
  check(cudaEventCreate(&start));
  check(cudaEventCreate(&stop));
  std::vector<float> times;
  for (int run = 0; run < 22; ++run) {
    check(cudaMemset(params.counter, 0, 4));
    check(cudaMemset(params.sequence.flags, 0, flag_bytes(static_cast<int>(blocks))));
    check(cudaEventRecord(start));
    check(launch(kernel, Launch{blocks, kSequenceThreads, shared, nullptr, true}, params));
    check(cudaEventRecord(stop));
    check(cudaEventSynchronize(stop));
    float ms = 0;
    check(cudaEventElapsedTime(&ms, start, stop));
    if (run > 0) times.push_back(ms);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2] * 1e6 / kRepeats;
}

void* memory(size_t bytes) {
  void* pointer = nullptr;
  check(cudaMalloc(&pointer, bytes));
  check(cudaMemset(pointer, 0, bytes));
  return pointer;
}

}  // namespace

int main() {
  Params p{};
  p.sequence.H = 1152;
  p.sequence.flags = static_cast<uint32_t*>(memory(flag_bytes(128)));
  p.source = static_cast<const char*>(memory(kCopiedBytes));
  p.counter = static_cast<uint32_t*>(memory(4));
  p.out = static_cast<float*>(memory(132 * kSequenceThreads * 4));
  cudaDeviceProp device{};
  check(cudaGetDeviceProperties(&device, 0));
  std::printf("{\"gpu\": \"%s\",\n", device.name);
  for (int n_groups : {1, 2}) {
    p.sequence.n_groups = p.sequence.B = n_groups;
    const unsigned blocks = 64 * static_cast<unsigned>(n_groups);
    std::printf(" \"barrier_by_flags_%u_blocks_ns\": %.1f,\n", blocks,
                time_ns(by_flags, p, blocks, 0));
    std::printf(" \"barrier_by_counter_%u_blocks_ns\": %.1f,\n", blocks,
                time_ns(by_counter, p, blocks, 0));
    const double ns = time_ns(broadcast, p, blocks, kCopiedBytes);
    std::printf(" \"same_147_KB_to_%u_blocks_TB_per_s\": %.3f,\n", blocks,
                kCopiedBytes * double(blocks) / ns / 1e3);
  }
  const double ns = time_ns(products, p, 128, 0);
  const double flops = 2.0 * 16 * 8 * 16 * 18 * kSequenceWarps * 128;
  std::printf(" \"mma_sync_128_blocks_TFLOP_per_s\": %.1f}\n", flops / ns / 1e3);
}
