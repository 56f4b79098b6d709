// The routes that ops.h chooses from: strata::kernels on the processor, strata::kernels::cuda on a device (in a build
// with STRATA_CUDA), compositions of LibTorch's own ops anywhere. What a function does says ops.h.
#ifndef STRATA_CLIENT_MODEL_ROW_OPS_H_
#define STRATA_CLIENT_MODEL_ROW_OPS_H_

#include <ATen/core/Tensor.h>
#include <ATen/ops/index_select.h>

#include "client/model/ops.h"

namespace strata::model {

class RowOps {
 public:
  virtual ~RowOps() = default;
  virtual void ApplyNorm(const Norm& norm, const at::Tensor& x, const at::Tensor& out,
                         const at::Tensor& rstd) const = 0;
  virtual void AddNorm(const Norm& norm, const at::Tensor& x, const at::Tensor& delta, const at::Tensor& sum,
                       const at::Tensor& out, const at::Tensor& rstd) const = 0;
  virtual void NormBackward(const Norm& norm, const at::Tensor& dy, const at::Tensor& x, const at::Tensor& rstd,
                            const at::Tensor& dx, bool accumulate) const = 0;
  virtual void NormBackwardAndValue(const Norm& norm, const at::Tensor& dy, const at::Tensor& x, const at::Tensor& rstd,
                                    const at::Tensor& dx) const {
    NormBackward(norm, dy, x, rstd, dx, /*accumulate=*/true);
    ApplyNorm(norm, x, dy, rstd);
  }
  virtual void Rope(const at::Tensor& x, int64_t heads, int64_t head_dim, const at::Tensor& cos, const at::Tensor& sin,
                    bool inverse) const = 0;
  virtual void Activate(kernels::Unit unit, const at::Tensor& in, const at::Tensor& out) const = 0;
  virtual void ActivateBackward(kernels::Unit unit, const at::Tensor& in, const at::Tensor& dout) const = 0;
  virtual void AddBias(const at::Tensor& x, const at::Tensor& bias) const = 0;
  virtual void Add(const at::Tensor& x, const at::Tensor& delta) const = 0;
  virtual void CrossEntropy(const at::Tensor& logits, const at::Tensor& targets, const kernels::LossOptions& options,
                            const at::Tensor& scale, const at::Tensor& nll) const = 0;
  virtual void CopyRows(const at::Tensor& from, const at::Tensor& to) const { to.copy_(from); }
  virtual void GatherRows(const at::Tensor& table, const at::Tensor& index, const at::Tensor& out) const {
    if (table.scalar_type() == out.scalar_type() && out.is_contiguous()) {
      at::Tensor same = out;
      at::index_select_out(same, table, 0, index);
    } else {
      out.copy_(at::index_select(table, 0, index));
    }
  }
  virtual void ScatterRows(const at::Tensor& in, const at::Tensor& index, const at::Tensor& out) const {
    at::Tensor(out).index_copy_(0, index.to(at::kLong), in);
  }
};

const RowOps& ProcessorOps();
const RowOps& ComposedOps();
const RowOps& CudaOps();

kernels::NormWeights WeightsOf(const Norm& norm, const at::Tensor& x);

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_ROW_OPS_H_
