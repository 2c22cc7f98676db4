// Which instruction set's kernels run: the best that this processor has, found once.
#include <algorithm>
#include <vector>

#include "instruction_set_headers.h"

namespace ulmfit_fast {

namespace baseline {
const LstmKernels& lstm_kernels(DType dtype);
const AdamwKernels& adamw_kernels();
}  // namespace baseline
#ifdef ULMFIT_FAST_X86_CLONES
namespace avx2 {
const LstmKernels& lstm_kernels(DType dtype);
const AdamwKernels& adamw_kernels();
}  // namespace avx2
namespace avx512 {
const LstmKernels& lstm_kernels(DType dtype);
const AdamwKernels& adamw_kernels();
}  // namespace avx512
namespace avx512_bf16 {
const LstmKernels& lstm_kernels(DType dtype);
const AdamwKernels& adamw_kernels();
}  // namespace avx512_bf16
#endif

#ifdef ULMFIT_FAST_X86_CLONES
// Matrix units multiply pairs of bfloat16 several times faster than any vector: oneDNN, which torch
// calls, drives them; only what is not a product is ours.
namespace amx {

const LstmKernels& lstm_kernels(DType dtype) {
  static const LstmKernels of_bfloat16 = [] {
    LstmKernels kernels = avx512_bf16::lstm_kernels(DType::kBFloat16);
    kernels.steps_by_torch = true;
    kernels.gates_product = nullptr;
    kernels.rows_product = nullptr;
    kernels.transposed_product = nullptr;
    return kernels;
  }();
  return dtype == DType::kBFloat16 ? of_bfloat16 : avx512_bf16::lstm_kernels(dtype);
}

bool is_here() {
  unsigned int eax, ebx, ecx, edx;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  constexpr unsigned int kBFloat16 = 1u << 22, kTile = 1u << 24;
  return (edx & kBFloat16) != 0 && (edx & kTile) != 0;
}

}  // namespace amx
#endif

namespace {

struct InstructionSet {
  const LstmKernels& (*lstm)(DType);
  const AdamwKernels& (*adamw)();
};

std::vector<InstructionSet> known_instruction_sets() {
  std::vector<InstructionSet> known;
#ifdef ULMFIT_FAST_X86_CLONES
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512cd") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (has_avx512 && __builtin_cpu_supports("avx512bf16")) {
    // Without matrix units the second is slower, but it runs, and so can be tested.
    known.push_back({&avx512_bf16::lstm_kernels, &avx512_bf16::adamw_kernels});
    known.push_back({&amx::lstm_kernels, &avx512_bf16::adamw_kernels});
    if (amx::is_here()) std::swap(known[0], known[1]);
  }
  if (has_avx512) known.push_back({&avx512::lstm_kernels, &avx512::adamw_kernels});
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    known.push_back({&avx2::lstm_kernels, &avx2::adamw_kernels});
  }
#endif
  known.push_back({&baseline::lstm_kernels, &baseline::adamw_kernels});
  return known;
}

const std::vector<InstructionSet>& instruction_sets() {
  static const std::vector<InstructionSet> known = known_instruction_sets();
  return known;
}

size_t chosen = 0;

}  // namespace

const LstmKernels& lstm_kernels_cpu(DType dtype) { return instruction_sets()[chosen].lstm(dtype); }

const AdamwKernels& adamw_kernels_cpu() { return instruction_sets()[chosen].adamw(); }

int64_t use_instruction_set(int64_t n) {
  const int64_t count = static_cast<int64_t>(instruction_sets().size());
  chosen = static_cast<size_t>(std::clamp<int64_t>(n, 0, count - 1));
  return count;
}

}  // namespace ulmfit_fast
