// Single-thread parts of the factors' gradients behind kernels/ops.h, compiled once per instruction set.
#ifndef STRATA_KERNELS_CPU_FACTOR_OPS_H_
#define STRATA_KERNELS_CPU_FACTOR_OPS_H_

#include <cstdint>

#include "kernels/ops.h"

namespace strata::kernels {

struct FactorOps {
  int64_t strip_columns;   // of the wide operand, that `strip` takes at once
  int64_t scratch_floats;  // of one call
  // Columns [col, col + strip_columns) of the wide operand, all ranks.
  void (*strip)(const FactorGradient& gradient, int64_t col, float* scratch);
};

const FactorOps& BaselineFactorOps();
const FactorOps& Avx2FactorOps();        // x86-64-v3
const FactorOps& Avx512FactorOps();      // x86-64-v4
const FactorOps& Avx512Bf16FactorOps();  // and AVX512-BF16

}  // namespace strata::kernels

#endif  // STRATA_KERNELS_CPU_FACTOR_OPS_H_
