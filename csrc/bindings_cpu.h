// What the bindings of the CPU share.
#pragma once

#include "bindings.h"
#include "fork_join.h"

namespace ulmfit_fast {

// The op drop_connect; used by lstm_backward, whose weights' gradient has the weights' mask.
Tensor drop_connect(const Tensor& weight, double drop_p, const Tensor& seed);

// Asks Linux for huge pages under a tensor that nobody has touched yet. A wish: nothing depends on it.
void advise_huge_pages(const Tensor& tensor);

}  // namespace ulmfit_fast
