// The memory traffic of AdamW without its arithmetic, and that of a sum, on the CPU: what the machine
// allows. Knows nothing of ulmfit_fast.
//
//   c++ -std=c++17 -O3 -march=native -fopenmp benchmarks/adamw_traffic.cpp -o traffic
//   ./traffic <threads> <elements> [<elements> ...]
//
// prints a line of JSON for every number of elements, in GB/s, medians of 9 passes:
//   read      sum of n floats: 4 n bytes
//   traffic   b += a, c += a, d += a over n floats each, in one pass: reads four arrays and writes
//             three, 28 n bytes, as AdamW does with g, p, m and v
// A thread takes a contiguous part. The first pass, which maps the memory, is not counted.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

constexpr int kPasses = 9;
// Numbers at a time, and as many sums of them as hide the latency of an addition.
constexpr size_t kLanes = 16;
constexpr size_t kSums = 8;
typedef float Lanes __attribute__((vector_size(4 * kLanes)));

volatile float sink;

void sum(const float* a, size_t n) {
  Lanes sums[kSums] = {};
  size_t i = 0;
  for (; i + kSums * kLanes <= n; i += kSums * kLanes) {
    for (size_t k = 0; k < kSums; ++k) {
      Lanes loaded;
      std::memcpy(&loaded, a + i + k * kLanes, sizeof(loaded));
      sums[k] += loaded;
    }
  }
  float total = 0.0f;
  for (; i < n; ++i) total += a[i];
  for (const Lanes& each : sums) {
    for (size_t lane = 0; lane < kLanes; ++lane) total += each[lane];
  }
  sink = total;  // else the compiler leaves the loop out
}

void add(const float* __restrict a, float* __restrict b, float* __restrict c, float* __restrict d,
         size_t n) {
  for (size_t i = 0; i < n; ++i) {
    b[i] += a[i];
    c[i] += a[i];
    d[i] += a[i];
  }
}

// Calls part(first, count) in each thread.
template <typename Part>
void in_threads(int n_threads, size_t n, const Part& part) {
#pragma omp parallel for num_threads(n_threads) schedule(static, 1)
  for (int t = 0; t < n_threads; ++t) {
    const size_t first = n * t / n_threads;
    part(first, n * (t + 1) / n_threads - first);
  }
}

template <typename Pass>
double gb_per_s(double n_bytes, const Pass& pass) {
  std::vector<double> seconds;
  pass();
  for (int i = 0; i < kPasses; ++i) {
    const auto start = std::chrono::steady_clock::now();
    pass();
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
    seconds.push_back(passed.count());
  }
  std::sort(seconds.begin(), seconds.end());
  return n_bytes / seconds[kPasses / 2] / 1e9;
}

}  // namespace

int main(int argc, char** argv) {
  const int n_threads = argc > 2 ? std::atoi(argv[1]) : 0;
  if (n_threads < 1) {
    std::fprintf(stderr, "usage: traffic <threads> <elements> [<elements> ...]\n");
    return 2;
  }
  for (int i = 2; i < argc; ++i) {
    const size_t n = std::strtoull(argv[i], nullptr, 10);
    std::vector<float> a(n, 1e-3f), b(n), c(n), d(n);
    const auto read = [&](size_t first, size_t count) { sum(&a[first], count); };
    const auto move = [&](size_t first, size_t count) {
      add(&a[first], &b[first], &c[first], &d[first], count);
    };
    const double read_rate = gb_per_s(4.0 * n, [&] { in_threads(n_threads, n, read); });
    const double move_rate = gb_per_s(28.0 * n, [&] { in_threads(n_threads, n, move); });
    std::printf(
        "{\"n_elements\": %zu, \"read_gb_per_s\": %.3f, \"adamw_traffic_gb_per_s\": %.3f}\n", n,
        read_rate, move_rate);
  }
  return 0;
}
