// The matrix product in every instruction set that this processor has.
#ifndef STRATA_TESTS_KERNELS_MAT_MUL_VARIANTS_H_
#define STRATA_TESTS_KERNELS_MAT_MUL_VARIANTS_H_

#include <vector>

#include "kernels/cpu/mat_mul.h"
#include "tests/kernels/variants.h"

namespace strata::kernels {

using MatMulVariant = Variant<MatMulOps>;

inline std::vector<MatMulVariant> MatMulVariants() {
  return VariantsOf(BaselineMatMulOps(), Avx2MatMulOps(), Avx512MatMulOps(), &Avx512Bf16MatMulOps());
}

inline void RunOn(const MatMulOps& ops, const Product& product) {
  const MatMulPlan plan = ops.plan(product, 2);
  std::vector<float> packed(static_cast<size_t>(plan.packed_floats));
  std::vector<float> scratch(static_cast<size_t>(plan.scratch_floats));
  ops.pack(product, 0, plan.packs, packed.data());
  for (int64_t part = 0; part < plan.parts; ++part)
    ops.compute(product, packed.data(), part, plan.parts, scratch.data());
}

}  // namespace strata::kernels

#endif  // STRATA_TESTS_KERNELS_MAT_MUL_VARIANTS_H_
