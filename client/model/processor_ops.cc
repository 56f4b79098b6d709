#include <ATen/Parallel.h>

#include "client/model/row_ops.h"

namespace strata::model {
namespace {

int Threads() { return at::get_num_threads(); }

class Ops final : public RowOps {
 public:
  void ApplyNorm(const Norm& norm, const at::Tensor& x, const at::Tensor& out, const at::Tensor& rstd) const override {
    kernels::Norm(RowsOf(x), WeightsOf(norm, x), RowsOf(out), rstd.mutable_data_ptr<float>(), Threads());
  }
  void AddNorm(const Norm& norm, const at::Tensor& x, const at::Tensor& delta, const at::Tensor& sum,
               const at::Tensor& out, const at::Tensor& rstd) const override {
    kernels::AddNorm(RowsOf(x), RowsOf(delta), RowsOf(sum), WeightsOf(norm, x), RowsOf(out),
                     rstd.mutable_data_ptr<float>(), Threads());
  }
  void NormBackward(const Norm& norm, const at::Tensor& dy, const at::Tensor& x, const at::Tensor& rstd,
                    const at::Tensor& dx, bool accumulate) const override {
    kernels::NormBackward(RowsOf(dy), RowsOf(x), WeightsOf(norm, x), rstd.const_data_ptr<float>(), RowsOf(dx),
                          accumulate, Threads());
  }
  void Rope(const at::Tensor& x, int64_t heads, int64_t head_dim, const at::Tensor& cos, const at::Tensor& sin,
            bool inverse) const override {
    const kernels::Turns turns{
        .cos = cos.const_data_ptr<float>(), .sin = sin.const_data_ptr<float>(), .pairs = cos.size(1)};
    kernels::Rope(RowsOf(x), heads, head_dim, turns, inverse, Threads());
  }
  void Activate(kernels::Unit unit, const at::Tensor& in, const at::Tensor& out) const override {
    kernels::Activate(unit, RowsOf(in), RowsOf(out), Threads());
  }
  void ActivateBackward(kernels::Unit unit, const at::Tensor& in, const at::Tensor& dout) const override {
    kernels::ActivateBackward(unit, RowsOf(in), RowsOf(dout), Threads());
  }
  void AddBias(const at::Tensor& x, const at::Tensor& bias) const override {
    kernels::AddBias(RowsOf(x), bias.const_data_ptr<float>(), Threads());
  }
  void Add(const at::Tensor& x, const at::Tensor& delta) const override {
    kernels::Add(RowsOf(x), RowsOf(delta), Threads());
  }
  void CrossEntropy(const at::Tensor& logits, const at::Tensor& targets, const kernels::LossOptions& options,
                    const at::Tensor& scale, const at::Tensor& nll) const override {
    kernels::LossOptions scaled = options;
    if (scale.defined()) scaled.scale *= *scale.const_data_ptr<float>();
    kernels::CrossEntropy(RowsOf(logits), targets.const_data_ptr<int32_t>(), scaled, nll.mutable_data_ptr<float>(),
                          Threads());
  }
};

}  // namespace

const RowOps& ProcessorOps() {
  static const Ops ops;
  return ops;
}

}  // namespace strata::model
