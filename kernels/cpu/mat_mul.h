// Single-thread parts of the matrix product behind kernels/ops.h, compiled once per instruction set.
#ifndef STRATA_KERNELS_CPU_MAT_MUL_H_
#define STRATA_KERNELS_CPU_MAT_MUL_H_

#include <cstdint>

#include "kernels/ops.h"

namespace strata::kernels {

// A product's work: `packs` pieces that write the packed operands, then `parts` that read them, each with scratch
// memory of its own. Pieces of either kind go in any order and at once.
struct MatMulPlan {
  int64_t packs = 0, parts = 0;
  int64_t packed_floats = 0, scratch_floats = 0;
};

struct MatMulOps {
  // Parts for so many threads. What a product computes does not depend on them.
  MatMulPlan (*plan)(const Product& product, int threads);
  // Pieces [begin, end) of the packed operands.
  void (*pack)(const Product& product, int64_t begin, int64_t end, float* packed);
  // Part `part` of `parts`.
  void (*compute)(const Product& product, const float* packed, int64_t part, int64_t parts, float* scratch);
};

const MatMulOps& BaselineMatMulOps();
const MatMulOps& Avx2MatMulOps();        // x86-64-v3
const MatMulOps& Avx512MatMulOps();      // x86-64-v4
const MatMulOps& Avx512Bf16MatMulOps();  // and AVX512-BF16

}  // namespace strata::kernels

#endif  // STRATA_KERNELS_CPU_MAT_MUL_H_
