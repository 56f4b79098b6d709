#include "kernels/cuda_ops.h"

#include "client/model/cuda_launch.h"
#include "client/model/row_ops.h"

namespace strata::model {
namespace {

namespace cuda = kernels::cuda;

class Ops final : public RowOps {
 public:
  void ApplyNorm(const Norm& norm, const at::Tensor& x, const at::Tensor& out, const at::Tensor& rstd) const override {
    Launch(x, [&](void* stream) {
      return cuda::Norm(RowsOf(x), WeightsOf(norm, x), RowsOf(out), rstd.mutable_data_ptr<float>(), stream);
    });
  }
  void AddNorm(const Norm& norm, const at::Tensor& x, const at::Tensor& delta, const at::Tensor& sum,
               const at::Tensor& out, const at::Tensor& rstd) const override {
    Launch(x, [&](void* stream) {
      return cuda::AddNorm(RowsOf(x), RowsOf(delta), RowsOf(sum), WeightsOf(norm, x), RowsOf(out),
                           rstd.mutable_data_ptr<float>(), stream);
    });
  }
  void NormBackward(const Norm& norm, const at::Tensor& dy, const at::Tensor& x, const at::Tensor& rstd,
                    const at::Tensor& dx, bool accumulate) const override {
    Launch(x, [&](void* stream) {
      return cuda::NormBackward(RowsOf(dy), RowsOf(x), WeightsOf(norm, x), rstd.const_data_ptr<float>(), RowsOf(dx),
                                accumulate, stream);
    });
  }
  void NormBackwardAndValue(const Norm& norm, const at::Tensor& dy, const at::Tensor& x, const at::Tensor& rstd,
                            const at::Tensor& dx) const override {
    Launch(x, [&](void* stream) {
      return cuda::NormBackwardAndValue(RowsOf(dy), RowsOf(x), WeightsOf(norm, x), rstd.const_data_ptr<float>(),
                                        RowsOf(dx), stream);
    });
  }
  void Rope(const at::Tensor& x, int64_t heads, int64_t head_dim, const at::Tensor& cos, const at::Tensor& sin,
            bool inverse) const override {
    const kernels::Turns turns = {cos.const_data_ptr<float>(), sin.const_data_ptr<float>(), cos.size(1)};
    Launch(x, [&](void* stream) { return cuda::Rope(RowsOf(x), heads, head_dim, turns, inverse, stream); });
  }
  void Activate(kernels::Unit unit, const at::Tensor& in, const at::Tensor& out) const override {
    Launch(out, [&](void* stream) { return cuda::Activate(unit, RowsOf(in), RowsOf(out), stream); });
  }
  void ActivateBackward(kernels::Unit unit, const at::Tensor& in, const at::Tensor& dout) const override {
    Launch(dout, [&](void* stream) { return cuda::ActivateBackward(unit, RowsOf(in), RowsOf(dout), stream); });
  }
  void AddBias(const at::Tensor& x, const at::Tensor& bias) const override {
    Launch(x, [&](void* stream) { return cuda::AddBias(RowsOf(x), bias.const_data_ptr<float>(), stream); });
  }
  void Add(const at::Tensor& x, const at::Tensor& delta) const override {
    Launch(x, [&](void* stream) { return cuda::Add(RowsOf(x), RowsOf(delta), stream); });
  }
  void CrossEntropy(const at::Tensor& logits, const at::Tensor& targets, const kernels::LossOptions& options,
                    const at::Tensor& scale, const at::Tensor& nll) const override {
    Launch(logits, [&](void* stream) {
      return cuda::CrossEntropy(RowsOf(logits), targets.const_data_ptr<int32_t>(), options,
                                scale.defined() ? scale.const_data_ptr<float>() : nullptr,
                                nll.mutable_data_ptr<float>(), stream);
    });
  }
  void CopyRows(const at::Tensor& from, const at::Tensor& to) const override {
    Launch(to, [&](void* stream) { return cuda::Copy(RowsOf(from), RowsOf(to), stream); });
  }
  void GatherRows(const at::Tensor& table, const at::Tensor& index, const at::Tensor& out) const override {
    if (table.scalar_type() != out.scalar_type()) return RowOps::GatherRows(table, index, out);
    Launch(out, [&](void* stream) {
      return cuda::GatherRows(RowsOf(table), index.const_data_ptr<int32_t>(), RowsOf(out), stream);
    });
  }
  void ScatterRows(const at::Tensor& in, const at::Tensor& index, const at::Tensor& out) const override {
    Launch(out, [&](void* stream) {
      return cuda::ScatterRows(RowsOf(in), index.const_data_ptr<int32_t>(), RowsOf(out), stream);
    });
  }
};

}  // namespace

const RowOps& CudaOps() {
  static const Ops ops;
  return ops;
}

}  // namespace strata::model
