// Products by torch, wherever an instruction set has no product of its own.
#pragma once

#include <array>
#include <optional>

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

}  // namespace ulmfit_fast
