// Private ops ulmfit_fast_cpu::*, the compiled CPU kernels; ulmfit_fast/_native.py registers them
// for the public ops of the same name.
#include "bindings_cpu.h"

namespace ulmfit_fast {
namespace {

// Blocks per thread below which threads cost more than they save.
constexpr int64_t kGrainBlocks = 8192;

}  // namespace

Tensor drop_connect(const Tensor& weight, double drop_p, const Tensor& seed) {
  const Tensor source = torch::stable::contiguous(weight);
  Tensor out = torch::stable::new_empty(source, source.sizes());
  const DropConnectParams params = check_drop_connect(source, out, drop_p, seed);
  const int64_t n_blocks = (params.n + kWordsPerBlock - 1) / kWordsPerBlock;
  fork_join(n_blocks, kGrainBlocks,
            [&params](int64_t first, int64_t last) { drop_connect_cpu(params, first, last); });
  return out;
}

}  // namespace ulmfit_fast

STABLE_TORCH_LIBRARY(ulmfit_fast_cpu, m) {
  m.def("drop_connect(Tensor weight, float drop_p, Tensor seed) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast_cpu, CPU, m) {
  m.impl("drop_connect", TORCH_BOX(&ulmfit_fast::drop_connect));
}
