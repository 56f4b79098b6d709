// The matrix product in every instruction set that this processor has.
#ifndef STRATA_TESTS_KERNELS_MAT_MUL_VARIANTS_H_
#define STRATA_TESTS_KERNELS_MAT_MUL_VARIANTS_H_

#include <string>
#include <vector>

#include "kernels/cpu/mat_mul.h"

namespace strata::kernels {

struct MatMulVariant {
  std::string name;
  const MatMulOps* table;
};

inline std::vector<MatMulVariant> MatMulVariants() {
  std::vector<MatMulVariant> all = {{"baseline", &BaselineMatMulOps()}};
  if (__builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0)
    all.push_back({"avx2", &Avx2MatMulOps()});
  if (__builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512dq") != 0)
    all.push_back({"avx512", &Avx512MatMulOps()});
  return all;
}

inline void RunOn(const MatMulOps& ops, const Product& product) {
  std::vector<float> packed(static_cast<size_t>(ops.packed_floats(product)));
  std::vector<float> scratch(static_cast<size_t>(ops.scratch_floats(product)));
  const int64_t tiles = (product.y.rows + ops.tile_rows - 1) / ops.tile_rows;
  const int64_t panels = (product.y.cols + ops.panel_columns - 1) / ops.panel_columns;
  ops.pack(product, 0, tiles, packed.data());
  ops.pack_added(product, packed.data());
  ops.columns(product, packed.data(), 0, panels, scratch.data());
}

}  // namespace strata::kernels

#endif  // STRATA_TESTS_KERNELS_MAT_MUL_VARIANTS_H_
