// Products by torch: of 16-bit matrices where the processor has matrix units (AMX), and wherever an
// instruction set has no product of its own.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "bindings_cpu.h"

namespace ulmfit_fast {

// out = a weight^T + bias.
inline void torch_linear(const Tensor& a, const Tensor& weight, const std::optional<Tensor>& bias,
                         Tensor& out) {
  std::array<StableIValue, 4> stack{
      torch::stable::detail::from(a), torch::stable::detail::from(weight),
      torch::stable::detail::from(bias), torch::stable::detail::from(out)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::linear", "out", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);  // takes back the reference to out
}

// out = a b.
inline void torch_mm(const Tensor& a, const Tensor& b, Tensor& out) {
  std::array<StableIValue, 3> stack{torch::stable::detail::from(a), torch::stable::detail::from(b),
                                    torch::stable::detail::from(out)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);
}

// A weight [N, K] in the layout that oneDNN multiplies rows [n_rows, K] with: made once, not at
// every product.
inline Tensor torch_pack(const Tensor& weight, int64_t n_rows) {
  std::array<StableIValue, 2> stack{torch::stable::detail::from(weight),
                                    torch::stable::detail::from(std::optional<int64_t>(n_rows))};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("mkldnn::_reorder_linear_weight", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// a [n_rows, K] times a packed weight, transposed: [n_rows, N].
inline Tensor torch_packed_linear(const Tensor& a, const Tensor& packed) {
  std::array<StableIValue, 6> stack{
      torch::stable::detail::from(a),
      torch::stable::detail::from(packed),
      torch::stable::detail::from(std::optional<Tensor>()),
      torch::stable::detail::from(std::string("none")),
      torch::stable::detail::from(std::vector<std::optional<double>>()),
      torch::stable::detail::from(std::optional<std::string>(std::string()))};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("mkldnn::_linear_pointwise", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

}  // namespace ulmfit_fast
