// Which instruction set's kernels run: the best that this processor has, found once.
#include <algorithm>
#include <vector>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "instruction_set_headers.h"

namespace ulmfit_fast {

#define ULMFIT_FAST_DECLARE(isa)                \
  namespace isa {                               \
  const LstmKernels& lstm_kernels(DType dtype); \
  const LossKernels& loss_kernels(DType dtype); \
  const AdamwKernels& adamw_kernels();          \
  }

ULMFIT_FAST_DECLARE(baseline)
#ifdef ULMFIT_FAST_X86_CLONES
ULMFIT_FAST_DECLARE(avx2)
ULMFIT_FAST_DECLARE(avx512)
ULMFIT_FAST_DECLARE(avx512_bf16)
ULMFIT_FAST_DECLARE(amx)
#endif

namespace {

#ifdef ULMFIT_FAST_X86_CLONES
// Whether there are matrix units for bfloat16, and the system lets this process use them.
bool has_tiles() {
  unsigned int eax, ebx, ecx, edx;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  constexpr unsigned int kBFloat16 = 1u << 22, kTile = 1u << 24;
  if ((edx & kBFloat16) == 0 || (edx & kTile) == 0) return false;
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

struct InstructionSet {
  const LstmKernels& (*lstm)(DType);
  const LossKernels& (*loss)(DType);
  const AdamwKernels& (*adamw)();
};

#define ULMFIT_FAST_TABLE(isa) {&isa::lstm_kernels, &isa::loss_kernels, &isa::adamw_kernels}

std::vector<InstructionSet> known_instruction_sets() {
  std::vector<InstructionSet> known;
#ifdef ULMFIT_FAST_X86_CLONES
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512cd") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (has_avx512 && __builtin_cpu_supports("avx512bf16")) {
    if (has_tiles()) known.push_back(ULMFIT_FAST_TABLE(amx));
    known.push_back(ULMFIT_FAST_TABLE(avx512_bf16));
  }
  if (has_avx512) known.push_back(ULMFIT_FAST_TABLE(avx512));
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    known.push_back(ULMFIT_FAST_TABLE(avx2));
  }
#endif
  known.push_back(ULMFIT_FAST_TABLE(baseline));
  return known;
}

const std::vector<InstructionSet>& instruction_sets() {
  static const std::vector<InstructionSet> known = known_instruction_sets();
  return known;
}

size_t chosen = 0;

// MKL, which is torch's product of float32, takes its fast path on Intel's processors: 1152 to 1152,
// T 70, B 64, forward and backward, one core of a Xeon: 1.76 s with it, 2.09 s with ours (2026-11-25).
// On AMD's it is half as fast as ours.
bool prefers_torch(DType dtype) {
#ifdef ULMFIT_FAST_X86_CLONES
  static const bool is_intel = [] {
    unsigned int eax, ebx, ecx, edx;
    return __get_cpuid(0, &eax, &ebx, &ecx, &edx) != 0 && ebx == signature_INTEL_ebx;
  }();
  return is_intel && chosen == 0 && dtype == DType::kFloat32;
#else
  return false;
#endif
}

const LstmKernels& with_products_by_torch(const LstmKernels& kernels) {
  static const LstmKernels changed = [&kernels] {
    LstmKernels copy = kernels;
    copy.gates_product = copy.rows_product = nullptr;
    copy.transposed_product = nullptr;
    return copy;
  }();
  return changed;
}

}  // namespace

const LstmKernels& lstm_kernels_cpu(DType dtype, int64_t H) {
  const LstmKernels& best = instruction_sets()[chosen].lstm(dtype);
  if (prefers_torch(dtype)) return with_products_by_torch(best);
  // Backward multiplies da [B, 4H] where it is stored, and nothing fills that up.
  return 4 * H % best.depth == 0 ? best : instruction_sets()[chosen + 1].lstm(dtype);
}

const LossKernels& loss_kernels_cpu(DType dtype) { return instruction_sets()[chosen].loss(dtype); }

const AdamwKernels& adamw_kernels_cpu() { return instruction_sets()[chosen].adamw(); }

int64_t use_instruction_set(int64_t n) {
  const int64_t count = static_cast<int64_t>(instruction_sets().size());
  chosen = static_cast<size_t>(std::clamp<int64_t>(n, 0, count - 1));
  return count;
}

}  // namespace ulmfit_fast
