// Single-thread row ranges behind kernels/ops.h, compiled once per instruction set.
#ifndef STRATA_KERNELS_CPU_ROW_OPS_H_
#define STRATA_KERNELS_CPU_ROW_OPS_H_

#include <cstdint>

#include "kernels/ops.h"

namespace strata::kernels {

// Each works on rows [begin, end) of its operands; meanings as in ops.h.
struct RowOps {
  void (*norm)(const Rows& x, const Rows* delta, const Rows* sum, const NormWeights& norm, const Rows& out, float* rstd,
               int64_t begin, int64_t end);
  void (*norm_backward)(const Rows& dy, const Rows& x, const NormWeights& norm, const float* rstd, const Rows& dx,
                        bool accumulate, int64_t begin, int64_t end);
  void (*rope)(const Rows& x, int64_t heads, int64_t head_dim, const Turns& turns, bool inverse, int64_t begin,
               int64_t end);
  void (*activate)(Unit unit, const Rows& in, const Rows& out, int64_t begin, int64_t end);
  void (*activate_backward)(Unit unit, const Rows& in, const Rows& dout, int64_t begin, int64_t end);
  void (*dropout)(const Rows& x, uint64_t key, double probability, const Rows& out, int64_t begin, int64_t end);
  void (*add_bias)(const Rows& x, const float* bias, int64_t begin, int64_t end);
  void (*add)(const Rows& x, const Rows& delta, int64_t begin, int64_t end);
  void (*cross_entropy)(const Rows& logits, const int32_t* targets, const LossOptions& options, float* nll,
                        int64_t begin, int64_t end);
  double (*sum_squares)(const float* values, int64_t count);
  void (*adamw)(float* p, float* gradient, float* m, float* v, int64_t count, const AdamWStep& step);
  void (*round_to_bf16)(const float* source, uint16_t* out, int64_t count);
};

const RowOps& BaselineRowOps();
const RowOps& Avx2RowOps();    // x86-64-v3
const RowOps& Avx512RowOps();  // x86-64-v4

}  // namespace strata::kernels

#endif  // STRATA_KERNELS_CPU_ROW_OPS_H_
