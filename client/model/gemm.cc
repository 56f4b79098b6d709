#include "client/model/gemm.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "client/model/arena.h"
#include "client/model/ops.h"

namespace strata::model {
namespace {

void Multiply(const at::Tensor& y, const at::Tensor& x, const at::Tensor& w, bool accumulate) {
  at::Tensor out = y;
  if (accumulate) {
    out.addmm_(x, w);
  } else {
    at::mm_out(out, x, w);
  }
}

void Run(const kernels::Product& product) {
  const int threads = at::get_num_threads();
  kernels::MatMul(product, Workspace(kernels::MatMulWorkspace(product, threads)), threads);
}

void MatMul(const at::Tensor& y, const at::Tensor& x, const Operand& w, bool by_rows, bool accumulate) {
  if (!FoldsFactors(x.scalar_type(), x.device())) {
    Multiply(y, x, by_rows ? w.matrix.t() : w.matrix, accumulate);
  } else if (x.size(0) > 0) {
    Run({.x = RowsOf(x),
         .w = w.rows,
         .y = RowsOf(y),
         .added = w.added.data(),
         .num_added = static_cast<int64_t>(w.added.size()),
         .beside = w.beside.data(),
         .num_beside = static_cast<int64_t>(w.beside.size()),
         .by_rows = by_rows,
         .accumulate = accumulate});
  }
}

}  // namespace

Operand::Operand(const at::Tensor& m) : matrix(m), rows(RowsOf(m)) {}

bool FoldsFactors(at::ScalarType type, at::Device device) { return type == at::kFloat && device.is_cpu(); }

void MatMulNT(const at::Tensor& y, const at::Tensor& x, const Operand& w, bool accumulate) {
  MatMul(y, x, w, /*by_rows=*/true, accumulate);
}

void MatMulNN(const at::Tensor& y, const at::Tensor& x, const Operand& w, bool accumulate) {
  MatMul(y, x, w, /*by_rows=*/false, accumulate);
}

void AccumulateTN(const at::Tensor& y, const at::Tensor& a, const at::Tensor& b, double scale) {
  at::Tensor out = y;
  if (!FoldsFactors(a.scalar_type(), a.device())) {
    if (a.is_cuda() && a.scalar_type() != at::kFloat) {
      at::addmm_out(out, y, a.t(), b, at::kFloat, 1, scale);
    } else {
      out.add_(at::mm(a.t(), b), scale);
    }
  } else if (a.size(0) > 0) {
    Run({.x = RowsOf(a),
         .w = RowsOf(b),
         .y = RowsOf(y),
         .transposed_x = true,
         .scale = static_cast<float>(scale),
         .by_rows = false,
         .accumulate = true});
  }
}

}  // namespace strata::model
