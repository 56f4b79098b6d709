// Matrix products of the step. On the CPU fp32 activations, and bf16 ones where the processor multiplies them
// (processor.h), go through our own kernel, which reads weights of any type as they lie and, in fp32, adds low-rank
// factors to them on the way (kernels/ops.h, Product). On a CUDA device weights of another type than the activations
// are decoded tile by tile before ATen multiplies; products with a rank's few columns (on Hopper) and the gradients of
// factors are kernels of ours (kernels/cuda_ops.h). Everything else: ATen.
#ifndef STRATA_CLIENT_MODEL_GEMM_H_
#define STRATA_CLIENT_MODEL_GEMM_H_

#include <ATen/core/Tensor.h>

#include <span>

#include "client/model/held_matrix.h"
#include "kernels/ops.h"

namespace strata::model {

// Bytes on a CUDA device for tiles of weights of another type than activations, once one was met.
inline constexpr int64_t kDecodedBytes = int64_t{64} << 20;

// The right operand: a matrix, factors that are added to it while it is read, and what stands beside both operands.
struct Operand {
  Operand(const at::Tensor& m);  // NOLINT(google-explicit-constructor): mostly a bare matrix
  // Quantised only where TakesColumns or on a CUDA device, in a build with STRATA_CUDA; with what stands beside only
  // where TakesColumns, with factors where FoldsFactors. `m` is borrowed.
  Operand(const HeldMatrix& m, std::span<const kernels::LowRank> a, std::span<const kernels::Beside> b = {})
      : matrix(m.tensor()), rows(m.View()), added(a), beside(b) {}

  const at::Tensor& matrix;  // means nothing where `rows` are quantised
  kernels::Rows rows;
  std::span<const kernels::LowRank> added;
  std::span<const kernels::Beside> beside;
};

// Whether products of activations of this type and place can take columns beside, and weights of another type: our own
// kernel.
bool TakesColumns(at::ScalarType type, at::Device device);
// Whether they can take factors that are added to the weights, too.
bool FoldsFactors(at::ScalarType type, at::Device device);

// While it lives, this thread's products y = x w^T read w as it lies where they can (kernels/ops.h, few_rows): for
// passes over one token of each sequence, which spend their time on reading w.
class FewRows {
 public:
  explicit FewRows(bool few);
  ~FewRows();
  FewRows(const FewRows&) = delete;
  FewRows& operator=(const FewRows&) = delete;

 private:
  bool before_;
};

// One of a step's gradients of factors: y += scale a^T b.
struct FactorProduct {
  at::Tensor y, a, b;
  double scale = 1;
};

// Matrices are two-dimensional views with unit stride along a row, fp32, bf16 or fp16, accumulated in fp32; w of any
// type where it may be quantised, else all of one type. y (+)= x w^T. x [t, k], w [n, k], y [t, n].
void MatMulNT(const at::Tensor& y, const at::Tensor& x, const Operand& w, bool accumulate);
// y (+)= x w. x [t, n], w [n, k], y [t, k].
void MatMulNN(const at::Tensor& y, const at::Tensor& x, const Operand& w, bool accumulate);
// A product y = x w^T or x w with a rank's few columns; `copy`, if defined, gets what y gets.
struct NarrowProduct {
  at::Tensor y, x, w, copy = {};
};
// Whether there is a kernel for them.
bool HasNarrowKernel(at::ScalarType type, at::Device device);
// Each of them, by_rows as MatMulNT, else as MatMulNN, in few launches where there is a kernel for it. All of one type,
// place and t; none reads what another writes.
void MultiplyNarrow(std::span<const NarrowProduct> products, bool by_rows);

// y += scale * a^T b. a [t, m], b [t, n], y [m, n] always fp32.
void AccumulateTN(const at::Tensor& y, const at::Tensor& a, const at::Tensor& b, double scale);

// Each of them as AccumulateTN, at once or in few launches where there is a kernel for it: one of a and b has a rank's
// columns. All of one type and place; no two share a y.
void AccumulateEach(std::span<const FactorProduct> products);

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_GEMM_H_
