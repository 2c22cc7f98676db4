// Checks shared by the bindings: what would corrupt memory if it were wrong. Everything else is
// checked in ulmfit_fast/functional.py, before an op is called.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include "launchers.h"
#include "philox.h"

namespace ulmfit_fast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline DType check_dtype(const char* name, const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::Double:
      return DType::kFloat64;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Half:
      return DType::kFloat16;
    default:
      STD_TORCH_CHECK(false, name, ": expected float32, float64, bfloat16 or float16");
  }
}

inline void check_drop_p(double drop_p) {
  STD_TORCH_CHECK(drop_p >= 0 && drop_p < 1, "drop_p: expected a chance in [0, 1), found ", drop_p);
}

inline void check_seed(const Tensor& seed, const Tensor& beside) {
  STD_TORCH_CHECK(seed.scalar_type() == ScalarType::Long && seed.numel() == 1,
                  "seed: expected an int64 tensor with one element");
  STD_TORCH_CHECK(seed.device() == beside.device(), "seed: expected on the device of weight");
}

// weight and out are contiguous and of one size: the caller made them so.
inline DropConnectParams check_drop_connect(const Tensor& weight, const Tensor& out, double drop_p,
                                            const Tensor& seed) {
  check_drop_p(drop_p);
  check_seed(seed, weight);
  DropConnectParams params;
  params.weight = weight.const_data_ptr();
  params.out = out.mutable_data_ptr();
  params.seed = seed.const_data_ptr<int64_t>();
  params.n = weight.numel();
  params.threshold = drop_threshold(drop_p);
  params.scale = 1.0 / (1.0 - drop_p);
  params.dtype = check_dtype("weight", weight);
  return params;
}

}  // namespace ulmfit_fast
