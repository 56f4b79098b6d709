// A group of linear modules with low-rank factors beside them: trained ones and frozen ones (C_t), without touching the
// base weight. Trained ones are columns, x A^T (scaling B)^T, which lengthen the weight's own product where it can take
// them, and are products of their own elsewhere. The CPU's kernels take them beside the weight (gemm.h). Elsewhere the
// weight stands in a wider matrix [W, scaling B; A, .], so that with s = x A^T and ds = dy (scaling B) in columns
// behind x and dy the products are y = [x, s] [W, B]^T and dx = [dy, ds] [W; A] ("K-augmentation"). Frozen ones are
// columns too, unless they can be folded into the weight as it is read. Magnitudes (dora.h) scale the outputs on top.
#ifndef STRATA_CLIENT_MODEL_SIDE_ADAPTER_H_
#define STRATA_CLIENT_MODEL_SIDE_ADAPTER_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "client/model/arena.h"
#include "client/model/dora.h"
#include "client/model/dropout.h"
#include "client/model/side_factors.h"
#include "client/model/weights.h"
#include "kernels/cuda_ops.h"
#include "kernels/ops.h"

namespace strata::model {

class SideAdapter {
 public:
  // What columns of so many ranks take of a wide matrix (weights.h, EnsureMargin).
  static int64_t PaddedRank(int64_t rank);
  SideAdapter() = default;
  // Columns of `group`; the factors' tensors are borrowed views. Trained factors come first. A module's frozen ones add
  // up; a magnitude among them counts for the pristine weight with its own factors.
  explicit SideAdapter(const LinearGroup& group, at::ScalarType dtype);
  void AddTrained(int module, SideFactors factors);
  void AddFrozen(int module, const SideFactors& factors);
  // Lays out the columns; call once after the last Add. REQUIRES: all trained factors have magnitudes, or none.
  void Finish();
  // Takes the trained factors anew after they changed.
  void Refresh();
  // The same where what ListCopies names was carried out.
  void RefreshMagnitudes();
  // What Refresh copies, for one launch that does it for a whole model. REQUIRES: a CUDA device.
  void ListCopies(std::vector<kernels::cuda::ScaledCopy>& copies) const;
  // Trained magnitudes become the norms, so that the factors count as without them.
  void ResetMagnitudes();

  // Of the columns.
  bool empty() const { return rank_ == 0; }
  bool trained() const { return trained_rank_ > 0; }
  bool has_magnitudes() const { return z_width_ > 0; }  // trained ones
  int64_t rank() const { return rank_; }
  // Columns that x and dy need behind their own, for s and ds; without them the products are separate.
  int64_t margin() const { return wide_.defined() ? rank_ : 0; }

  // What the forward pass leaves for the backward pass.
  struct Kept {
    at::Tensor s;  // x A^T [tokens, rank]
    at::Tensor z;  // outputs of the modules with trained magnitudes before these scale them; undefined without
  };
  Kept TakeKept(int64_t tokens, Arena& arena) const;
  // y = the products of x with the weight and the factors. Fills `kept`, which may be undefined where there are no
  // columns.
  void Forward(const at::Tensor& x, const at::Tensor& y, const Kept& kept, Arena& arena,
               const DropoutKey& dropout) const;
  // What a backward pass goes by.
  struct Gradient {
    at::Tensor dy;  // of what Forward found in y before trained magnitudes: what was given, or from the arena
    at::Tensor ds;  // [tokens, rank]: behind dy where there is room, else from the arena; undefined without columns
  };
  // From the gradient of what Forward left in y. Adds to the gradients of the trained magnitudes; ds waits for
  // BackwardInput.
  Gradient BeginBackward(const at::Tensor& dy, const Kept& kept, Arena& arena, const DropoutKey& dropout) const;
  // ds = dy (scaling B); dx, where it is defined, = the gradient of x.
  void BackwardInput(const Gradient& gradient, const at::Tensor& dx, Arena& arena, const DropoutKey& dropout) const;
  // Adds to the gradients of the trained factors. After BackwardInput; `s` and `x` as Forward had them.
  void BackwardFactors(const Gradient& gradient, const at::Tensor& s, const at::Tensor& x, Arena& arena,
                       const DropoutKey& dropout) const;

 private:
  struct Segment {
    int64_t first_row = 0, rows = 0, first_col = 0, rank = 0;
    SideFactors factors;
    at::Tensor b;  // [rows, rank], scaled, compute dtype
    bool trained = false;
    Magnitude magnitude;
    int64_t first_z = 0;
    at::Tensor RowsOf(const at::Tensor& y) const { return y.narrow(1, first_row, rows); }
    at::Tensor ColumnsOf(const at::Tensor& s) const { return s.narrow(1, first_col, rank); }
    at::Tensor ZOf(const at::Tensor& z) const { return z.narrow(1, first_z, rows); }
  };
  void AddSegment(int module, SideFactors factors, bool trained);
  void PlaceFrozen();
  void PlaceMagnitudes();
  void Cast(Segment& segment);
  void RefreshMagnitude(Segment& segment);
  // y = x w^T with w the segment's module without its trained factors; dx += dy w.
  void ModuleForward(const Segment& segment, const at::Tensor& x, const at::Tensor& y) const;
  void ModuleBackward(const Segment& segment, const at::Tensor& dy, const at::Tensor& dx) const;
  std::vector<kernels::LowRank> FoldedInto(const Segment& segment) const;
  // Whether the columns lengthen the weight's product with `left` (x or dy).
  bool StandsBeside(const at::Tensor& left, const DropoutKey& dropout) const;
  bool HasMargin(const at::Tensor& left) const { return left.stride(0) >= left.size(1) + rank_; }
  // `left` and the columns behind it.
  at::Tensor Lengthened(const at::Tensor& left) const;
  // To y, which holds the weight's products. Whether trained magnitudes are done with as well.
  bool AddColumns(const at::Tensor& x, const at::Tensor& y, const Kept& kept, Arena& arena,
                  const DropoutKey& dropout) const;
  at::Tensor GradientOf(const Segment& segment, const at::Tensor& dy, const DropoutKey& dropout) const;
  // ds = dy (scaling B), of a wide matrix.
  void MultiplyWideFactors(const at::Tensor& dy, const at::Tensor& ds) const;
  // Forward's end: products before their magnitudes are kept, then scaled.
  void KeepProducts(const at::Tensor& y, const Kept& kept) const;
  void ForwardDropped(const at::Tensor& x, const at::Tensor& y, const Kept& kept, Arena& arena,
                      const DropoutKey& dropout) const;

  at::Tensor AOf(const Segment& s) const { return a_.narrow(0, s.first_col, s.rank); }
  HeldMatrix WeightOf(int64_t first_row, int64_t rows) const { return weight_.Narrow(first_row, rows); }
  at::TensorOptions Options(at::ScalarType type) const {
    return at::TensorOptions().dtype(type).device(weight_.device());
  }

  std::vector<LinearModule> modules_;
  HeldMatrix weight_;
  at::Tensor wide_;  // the weight's; undefined on the CPU
  int64_t in_ = 0;
  at::ScalarType dtype_ = at::kFloat;
  std::vector<std::pair<int, Addition>> frozen_;  // with the index of the module
  std::vector<Segment> segments_;                 // trained, then frozen
  // rank_ counts what pads a wide matrix's columns too, behind the last segment's.
  int64_t rank_ = 0, padding_ = 0, trained_rank_ = 0, z_width_ = 0;
  at::Tensor a_;  // [rank, in], compute dtype; of a wide matrix the rows below the weight
  std::vector<kernels::LowRank> folded_;
  // fp32, of all rows: what frozen magnitudes make of the weight's products, 1 + changes (undefined: there are none),
  // and the trained ones' gains.
  at::Tensor frozen_gain_, gain_;
};

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_SIDE_ADAPTER_H_
