// Masks of LoRA dropout, drawn from Philox by element index: the same whenever they are asked for again.
#ifndef STRATA_CLIENT_MODEL_DROPOUT_H_
#define STRATA_CLIENT_MODEL_DROPOUT_H_

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace strata::model {

// out = x * mask / (1 - probability); mask[t][i] = uniform(t * cols + i) >= probability, from Philox(key). `out` may be
// `x`. CPU matrices with unit stride along a row.
void ApplyDropout(const at::Tensor& x, const at::Tensor& out, uint64_t key, double probability);

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_DROPOUT_H_
