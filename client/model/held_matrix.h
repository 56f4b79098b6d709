// A frozen matrix as memory holds it: fp32, bf16, fp16, int8 or NF4.
#ifndef STRATA_CLIENT_MODEL_HELD_MATRIX_H_
#define STRATA_CLIENT_MODEL_HELD_MATRIX_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/ops.h"

namespace strata::model {

// A value; copies share the memory.
class HeldMatrix {
 public:
  HeldMatrix() = default;
  // fp32, bf16 or fp16 [rows, cols], with unit stride along a row.
  HeldMatrix(at::Tensor matrix)  // NOLINT(google-explicit-constructor): a tensor is a matrix
      : memory_(std::move(matrix)), rows_(memory_.size(0)), cols_(memory_.size(1)) {}
  // int8 [rows, cols] and fp32 [rows], contiguous.
  HeldMatrix(at::Tensor codes, at::Tensor scales) : HeldMatrix(std::move(codes)) { scales_ = std::move(scales); }
  // NF4 matrices of `cols` columns below one another; `memory` holds what they look into.
  HeldMatrix(at::Tensor memory, std::vector<kernels::Nf4> parts, int64_t cols);

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  at::Device device() const { return memory_.device(); }
  bool quantised() const { return scales_.defined() || !parts_.empty(); }

  // REQUIRES: not quantised.
  const at::Tensor& tensor() const { return memory_; }
  // What the kernels' product reads; looks into this object.
  kernels::Rows View() const;
  // Rows [first, first + count). REQUIRES: whole matrices in NF4.
  HeldMatrix Narrow(int64_t first, int64_t count) const;
  // A copy of rows [first, first + count) in fp32. REQUIRES: of a quantised one on a CUDA device, STRATA_CUDA.
  at::Tensor Widened(int64_t first, int64_t count) const;

 private:
  at::Tensor memory_, scales_;
  std::vector<kernels::Nf4> parts_;
  int64_t rows_ = 0, cols_ = 0;
};

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_HELD_MATRIX_H_
