// AdamW's factors and its step for one element, for every backend in C++; no torch here.
//
//   g = scale grad
//   m += (1 - beta1) (g - m),  v += (1 - beta2) (g g - v)
//   p -= lr weight_decay p + lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
//
// Numbers   the moments decay as m - w m with w = 1 - beta formed in float64: a rounded beta2 of 0.999
//           would move v by 3e-5 in the long run. sqrt(1 - beta2^t) is taken out of the root and
//           into the step size and eps (the same algebra, one rounding less). Decay and step are
//           added before they meet p, so that p is rounded once.
// Source    Loshchilov, Hutter 2019, arXiv:1711.05101; Kingma, Ba 2015, arXiv:1412.6980, section 2.
#pragma once

#include <cmath>

#include "launchers.h"
#include "philox.h"

namespace ulmfit_fast {

// The factors of step t, from 1; n_averaged: parameters that are in the average already.
ULMFIT_FAST_INLINE AdamwFactors adamw_factors(const AdamwLayer& layer, double t, double n_averaged,
                                              double average_weight) {
  const double root = std::sqrt(1.0 - std::pow(layer.beta2, t));
  AdamwFactors factors;
  factors.weight1 = static_cast<float>(1.0 - layer.beta1);
  factors.weight2 = static_cast<float>(1.0 - layer.beta2);
  factors.step_size = static_cast<float>(layer.lr * root / (1.0 - std::pow(layer.beta1, t)));
  factors.eps = static_cast<float>(layer.eps * root);
  factors.decay = static_cast<float>(layer.lr * layer.weight_decay);
  factors.average = static_cast<float>(n_averaged == 0.0       ? 1.0
                                       : average_weight == 0.0 ? 1.0 / (n_averaged + 1.0)
                                                               : average_weight);
  return factors;
}

// What the gradients are multiplied by; norm is that of the unscaled gradients.
ULMFIT_FAST_INLINE float adamw_scale(double max_grad_norm, double norm, double inverse_scale) {
  const double clip = max_grad_norm / (norm + 1e-6);  // torch's formula; NaN passes
  return static_cast<float>(inverse_scale * (clip >= 1.0 ? 1.0 : clip));
}

// V: float, or a vector of floats; root: the square root of V.
template <typename V, typename Root>
ULMFIT_FAST_INLINE void adamw_update(V& p, const V& grad, V& m, V& v, float scale,
                                     const AdamwFactors& factors, const Root& root) {
  const V g = grad * scale;
  m = (m - factors.weight1 * m) + factors.weight1 * g;
  v = (v - factors.weight2 * v) + (factors.weight2 * g) * g;
  p = p - (factors.decay * p + factors.step_size * (m / (root(v) + factors.eps)));
}

}  // namespace ulmfit_fast
