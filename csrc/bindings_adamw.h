// What the bindings of layerwise_adamw_ share: its arguments, checked, as the kernels want them.
#pragma once

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "bindings.h"
#include "torch/headeronly/macros/Export.h"

namespace ulmfit_fast {

using Tensors = std::vector<Tensor>;

// The op's schema; mutable_data_ptr is asked of what it marks.
constexpr const char* kLayerwiseAdamwSchema =
    "layerwise_adamw_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, "
    "Tensor(c!)[] exp_avg_sqs, Tensor(d!)[] steps, Tensor(e!)[] shadows, Tensor(f!)[] averages, "
    "Tensor(g!)[] n_averaged, Tensor(h!) grad_norm, Tensor(i!) skipped_steps, Tensor(j!) ticket, "
    "Tensor layers, int[] layer_of, Tensor? grad_scale, Tensor? found_inf, float? max_grad_norm, "
    "bool skip_nonfinite, float average_weight) -> ()";

struct C10_HIDDEN AdamwArguments {
  const Tensors &params, &grads, &exp_avgs, &exp_avg_sqs, &steps, &shadows, &averages, &n_averaged;
  const Tensor &grad_norm, &skipped_steps, &layers;
  const std::vector<int64_t>& layer_of;
  const std::optional<Tensor>&grad_scale, &found_inf;
  std::optional<double> max_grad_norm;
  bool skip_nonfinite;
  double average_weight;
};

// Whether a tensor's elements fill its memory, in any order of its dimensions.
inline bool is_dense(const Tensor& tensor) {
  if (tensor.is_contiguous()) return true;
  std::vector<std::pair<int64_t, int64_t>> dims;  // stride, size
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    if (tensor.size(d) != 1) dims.emplace_back(tensor.stride(d), tensor.size(d));
  }
  std::sort(dims.begin(), dims.end());
  int64_t expected = 1;
  for (const auto& [stride, size] : dims) {
    if (size == 0) return true;
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

inline bool has_layout_of(const Tensor& tensor, const Tensor& other) {
  if (tensor.dim() != other.dim()) return false;
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    if (tensor.size(d) != other.size(d)) return false;
    if (tensor.size(d) != 1 && tensor.stride(d) != other.stride(d)) return false;
  }
  return true;
}

inline void check_like_param(const char* name, const Tensor& tensor, const Tensor& param,
                             ScalarType dtype) {
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, name, ": wrong dtype");
  STD_TORCH_CHECK(tensor.device() == param.device(), name, ": expected on the device of params");
  STD_TORCH_CHECK(has_layout_of(tensor, param), name, ": expected shape and strides of params");
}

inline void check_number(const char* name, const Tensor& tensor, const Tensor& beside,
                         ScalarType dtype) {
  STD_TORCH_CHECK(tensor.scalar_type() == dtype && tensor.numel() == 1, name, ": expected one ",
                  dtype == ScalarType::Float ? "float32" : "integer");
  STD_TORCH_CHECK(tensor.device() == beside.device(), name, ": expected on the device of params");
}

inline bool is_at_multiple_of(const void* pointer, size_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

// The tensors of a step; every one is written, so nothing of a list may be missing.
inline std::vector<AdamwTensor> check_tensors(const AdamwArguments& a, int64_t tile) {
  const size_t n = a.params.size();
  const auto fits = [n](const Tensors& list, bool optional) {
    return list.size() == n || (optional && list.empty());
  };
  STD_TORCH_CHECK(fits(a.grads, false) && fits(a.exp_avgs, false) && fits(a.exp_avg_sqs, false) &&
                      fits(a.steps, false) && fits(a.shadows, true) && fits(a.averages, true) &&
                      a.n_averaged.size() == a.averages.size() && a.layer_of.size() == n,
                  "layerwise_adamw_: lists of different lengths");
  const int64_t n_layers = a.layers.size(0);
  std::vector<AdamwTensor> tensors(n);
  int64_t n_tiles = 0;
  for (size_t i = 0; i < n; ++i) {
    const Tensor& param = a.params[i];
    STD_TORCH_CHECK(param.device() == a.params[0].device(), "params: expected on one device");
    STD_TORCH_CHECK(is_dense(param), "params: expected dense memory");
    check_like_param("params", param, param, ScalarType::Float);
    check_like_param("grads", a.grads[i], param, ScalarType::Float);
    check_like_param("exp_avgs", a.exp_avgs[i], param, ScalarType::Float);
    check_like_param("exp_avg_sqs", a.exp_avg_sqs[i], param, ScalarType::Float);
    check_number("steps", a.steps[i], param, ScalarType::Float);
    STD_TORCH_CHECK(a.layer_of[i] >= 0 && a.layer_of[i] < n_layers, "layer_of: no such layer");
    AdamwTensor& t = tensors[i];
    t = {};
    t.param = a.params[i].mutable_data_ptr<float>();
    t.grad = a.grads[i].const_data_ptr<float>();
    t.exp_avg = a.exp_avgs[i].mutable_data_ptr<float>();
    t.exp_avg_sq = a.exp_avg_sqs[i].mutable_data_ptr<float>();
    t.step = a.steps[i].mutable_data_ptr<float>();
    if (!a.shadows.empty()) {
      check_like_param("shadows", a.shadows[i], param, ScalarType::BFloat16);
      t.shadow = a.shadows[i].mutable_data_ptr();
    }
    if (!a.averages.empty()) {
      check_like_param("averages", a.averages[i], param, ScalarType::Float);
      check_number("n_averaged", a.n_averaged[i], param, ScalarType::Float);
      t.average = a.averages[i].mutable_data_ptr<float>();
      t.n_averaged = a.n_averaged[i].mutable_data_ptr<float>();
    }
    t.n = param.numel();
    t.first_tile = n_tiles;
    n_tiles += (t.n + tile - 1) / tile;
    t.layer = static_cast<int32_t>(a.layer_of[i]);
    t.aligned = is_at_multiple_of(t.param, 16) && is_at_multiple_of(t.grad, 16) &&
                is_at_multiple_of(t.exp_avg, 16) && is_at_multiple_of(t.exp_avg_sq, 16) &&
                is_at_multiple_of(t.average, 16) && is_at_multiple_of(t.shadow, 8);
  }
  return tensors;
}

inline AdamwStep check_step(const AdamwArguments& a) {
  STD_TORCH_CHECK(!a.params.empty(), "params: expected at least one");
  STD_TORCH_CHECK(a.average_weight >= 0 && a.average_weight <= 1,
                  "average_weight: expected a share in [0, 1], found ", a.average_weight);
  const Tensor& beside = a.params[0];
  check_number("grad_norm", a.grad_norm, beside, ScalarType::Float);
  check_number("skipped_steps", a.skipped_steps, beside, ScalarType::Long);
  STD_TORCH_CHECK(a.layers.dim() == 2 && a.layers.size(1) == 5 && a.layers.is_contiguous() &&
                      a.layers.scalar_type() == ScalarType::Double,
                  "layers: expected float64 [L, 5]");
  AdamwStep step{};
  if (a.grad_scale.has_value()) {
    check_number("grad_scale", *a.grad_scale, beside, ScalarType::Float);
    step.grad_scale = a.grad_scale->const_data_ptr<float>();
  }
  if (a.found_inf.has_value()) {
    check_number("found_inf", *a.found_inf, beside, ScalarType::Float);
    step.found_inf = a.found_inf->const_data_ptr<float>();
  }
  step.max_grad_norm = a.max_grad_norm.value_or(std::numeric_limits<double>::infinity());
  step.measure = a.max_grad_norm.has_value() || a.skip_nonfinite;
  step.skip_nonfinite = a.skip_nonfinite;
  step.average_weight = a.average_weight;
  step.grad_norm = a.grad_norm.mutable_data_ptr<float>();
  step.skipped_steps = a.skipped_steps.mutable_data_ptr<int64_t>();
  return step;
}

}  // namespace ulmfit_fast
