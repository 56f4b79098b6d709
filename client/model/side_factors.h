// The factors of one linear module's adapter, as the model takes them.
#ifndef STRATA_CLIENT_MODEL_SIDE_FACTORS_H_
#define STRATA_CLIENT_MODEL_SIDE_FACTORS_H_

#include <ATen/core/Tensor.h>

namespace strata::model {

// Kept by their owner. Frozen: the gradients are undefined. Without DoRA: so are the magnitude and its gradient.
struct SideFactors {
  at::Tensor a, b;            // fp32 [rank, in], [rows, rank]
  at::Tensor grad_a, grad_b;  // fp32, same shapes; added to by the backward pass
  double scaling = 1;
  at::Tensor magnitude, grad_magnitude;  // fp32 [rows]
};

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_SIDE_FACTORS_H_
