// Private ops ulmfit_fast_cuda::*, the CUDA C++ kernels; called only from ulmfit_fast/kernels/.
#include "bindings_cuda.h"

namespace ulmfit_fast {
namespace {

Tensor drop_connect(const Tensor& weight, double drop_p, const Tensor& seed) {
  const torch::stable::accelerator::DeviceGuard guard(weight.get_device_index());
  const Tensor source = torch::stable::contiguous(weight);
  Tensor out = torch::stable::new_empty(source, source.sizes());
  const DropConnectParams params = check_drop_connect(source, out, drop_p, seed);
  if (params.n > 0) STD_CUDA_CHECK(launch_drop_connect(params, current_stream(source)));
  return out;
}

}  // namespace
}  // namespace ulmfit_fast

STABLE_TORCH_LIBRARY(ulmfit_fast_cuda, m) {
  m.def("drop_connect(Tensor weight, float drop_p, Tensor seed) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast_cuda, CUDA, m) {
  m.impl("drop_connect", TORCH_BOX(&ulmfit_fast::drop_connect));
}
