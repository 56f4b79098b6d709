// Single-thread parts of the matrix product behind kernels/ops.h, compiled once per instruction set.
#ifndef STRATA_KERNELS_CPU_MAT_MUL_H_
#define STRATA_KERNELS_CPU_MAT_MUL_H_

#include <cstdint>

#include "kernels/ops.h"

namespace strata::kernels {

struct MatMulOps {
  int64_t tile_rows, panel_columns;
  int64_t group;  // panels that are packed together
  // Floats that `pack` writes, and of scratch memory of one call of `columns`.
  int64_t (*packed_floats)(const Product& product);
  int64_t (*scratch_floats)(const Product& product);
  // Row tiles [begin, end) of x into `packed`.
  void (*pack)(const Product& product, int64_t begin, int64_t end, float* packed);
  // The factors of w behind them.
  void (*pack_added)(const Product& product, float* packed);
  // Column panels [begin, end) of y. `scratch` is the thread's own.
  void (*columns)(const Product& product, const float* packed, int64_t begin, int64_t end, float* scratch);
};

const MatMulOps& BaselineMatMulOps();
const MatMulOps& Avx2MatMulOps();    // x86-64-v3
const MatMulOps& Avx512MatMulOps();  // x86-64-v4

}  // namespace strata::kernels

#endif  // STRATA_KERNELS_CPU_MAT_MUL_H_
