// Masks of LoRA dropout, drawn from Philox by element index: the same whenever they are asked for again.
#ifndef STRATA_CLIENT_MODEL_DROPOUT_H_
#define STRATA_CLIENT_MODEL_DROPOUT_H_

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace strata::model {

// Whose masks: a step's, and within it a group's, and within that a module's.
struct DropoutKey {
  double probability = 0;  // 0: off
  uint64_t key = 0;
  // In a build with STRATA_CUDA on its devices: where the step's own key lies, so that a recorded step finds the next
  // one there, and what makes `key` of it: *base * factor + addend, modulo 2^64. Null: the key is `key`.
  const uint64_t* base = nullptr;
  uint64_t factor = 1, addend = 0;

  // The key of part `n` of what this one is for.
  DropoutKey Of(uint64_t n) const;
};

// out = x * mask / (1 - probability); mask[t][i] = uniform(t * cols + i) >= probability, from Philox(key.key). `out`
// may be `x`. Matrices with unit stride along a row.
void ApplyDropout(const at::Tensor& x, const at::Tensor& out, const DropoutKey& key);

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_DROPOUT_H_
