// Private op ulmfit_fast_cuda::layerwise_adamw_; called only from
// ulmfit_fast/kernels/layerwise_adamw.py. layers may be on the CPU: its numbers then go along with the
// launch.
#include "bindings_adamw.h"
#include "bindings_cuda.h"

namespace ulmfit_fast {
namespace {

void layerwise_adamw_(const Tensors& params, const Tensors& grads, const Tensors& exp_avgs,
                      const Tensors& exp_avg_sqs, const Tensors& steps, const Tensors& shadows,
                      const Tensors& averages, const Tensors& n_averaged, const Tensor& grad_norm,
                      const Tensor& skipped_steps, const Tensor& ticket, const Tensor& layers,
                      const std::vector<int64_t>& layer_of, const std::optional<Tensor>& grad_scale,
                      const std::optional<Tensor>& found_inf, std::optional<double> max_grad_norm,
                      bool skip_nonfinite, double average_weight) {
  const AdamwArguments arguments{
      params,     grads,      exp_avgs,      exp_avg_sqs,    steps,         shadows,
      averages,   n_averaged, grad_norm,     skipped_steps,  layers,        layer_of,
      grad_scale, found_inf,  max_grad_norm, skip_nonfinite, average_weight};
  LayerwiseAdamw step{};
  step.step = check_step(arguments);
  const std::vector<AdamwTensor> tensors = check_tensors(arguments, kAdamwTile);
  check_number("ticket", ticket, params[0], ScalarType::Int);
  const torch::stable::accelerator::DeviceGuard guard(params[0].get_device_index());
  step.tensors = tensors.data();
  step.n_tensors = static_cast<int64_t>(tensors.size());
  const auto* layer = reinterpret_cast<const AdamwLayer*>(layers.const_data_ptr<double>());
  (layers.is_cpu() ? step.layers : step.device_layers) = layer;
  const AdamwTensor& last = tensors.back();
  step.n_tiles = last.first_tile + (last.n + kAdamwTile - 1) / kAdamwTile;
  const Tensor sums = torch::stable::new_empty(
      params[0], std::vector<int64_t>{step.step.measure ? step.n_tiles + 1 : 0},
      ScalarType::Double);
  step.sums = sums.mutable_data_ptr<double>();
  step.ticket = reinterpret_cast<uint32_t*>(ticket.mutable_data_ptr<int32_t>());
  STD_CUDA_CHECK(launch_layerwise_adamw(step, current_stream(params[0])));
}

}  // namespace
}  // namespace ulmfit_fast

STABLE_TORCH_LIBRARY_FRAGMENT(ulmfit_fast_cuda, m) { m.def(ulmfit_fast::kLayerwiseAdamwSchema); }

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast_cuda, CUDA, m) {
  m.impl("layerwise_adamw_", TORCH_BOX(&ulmfit_fast::layerwise_adamw_));
}
