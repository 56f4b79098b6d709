#include "client/model/side_adapter.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "client/model/gemm.h"
#include "client/model/ops.h"

namespace strata::model {
namespace {

constexpr int64_t kRankStep = 8;  // 16 bytes of bf16

// A segment's own stream: keys of one step differ by the step, the group (in `group`) and the segment.
DropoutKey KeyOf(const DropoutKey& group, size_t segment) { return group.Of(segment + 1); }

}  // namespace

SideAdapter::SideAdapter(const LinearGroup& group, at::ScalarType dtype)
    : modules_(group.modules), weight_(group.weight), in_(group.in), dtype_(dtype) {
  if (group.wide.defined() && group.wide.scalar_type() == dtype) wide_ = group.wide;
}

int64_t SideAdapter::PaddedRank(int64_t rank) { return (rank + kRankStep - 1) / kRankStep * kRankStep; }

void SideAdapter::AddTrained(int module, SideFactors factors) { AddSegment(module, std::move(factors), true); }

void SideAdapter::AddFrozen(int module, const SideFactors& factors) {
  if (factors.a.size(0) == 0) return;
  const LinearModule& m = modules_[static_cast<size_t>(module)];
  frozen_.emplace_back(module, AdditionOf(WeightOf(m.first_row, m.rows), factors));
}

void SideAdapter::AddSegment(int module, SideFactors factors, bool trained) {
  if (factors.a.size(0) == 0) return;
  const LinearModule& m = modules_[static_cast<size_t>(module)];
  Segment segment;
  segment.first_row = m.first_row;
  segment.rows = m.rows;
  segment.rank = factors.a.size(0);
  segment.factors = std::move(factors);
  segment.trained = trained;
  segments_.push_back(std::move(segment));
}

// A gain scales the weight's products alone, so that nothing can be folded into the weight beneath it.
void SideAdapter::PlaceFrozen() {
  for (const auto& [module, addition] : frozen_) {
    if (!addition.change.defined()) continue;
    const LinearModule& m = modules_[static_cast<size_t>(module)];
    if (!frozen_gain_.defined()) frozen_gain_ = at::ones({weight_.rows()}, Options(at::kFloat));
    frozen_gain_.narrow(0, m.first_row, m.rows).add_(addition.change);
  }
  const bool folds = FoldsFactors(dtype_, weight_.device()) && !frozen_gain_.defined();
  for (const auto& [module, addition] : frozen_) {
    if (folds) {
      const int64_t first_row = modules_[static_cast<size_t>(module)].first_row;
      folded_.push_back({.a = RowsOf(addition.a), .b = RowsOf(addition.b), .first_row = first_row});
    } else {
      SideFactors factors;
      factors.a = addition.a;
      factors.b = addition.b;
      AddSegment(module, std::move(factors), false);
    }
  }
}

void SideAdapter::Finish() {
  PlaceFrozen();
  std::stable_partition(segments_.begin(), segments_.end(), [](const Segment& s) { return s.trained; });
  rank_ = trained_rank_ = z_width_ = 0;
  for (Segment& s : segments_) {
    s.first_col = rank_;
    rank_ += s.rank;
    if (s.trained) trained_rank_ = rank_;
  }
  if (rank_ == 0) return;
  if (wide_.defined()) {
    padding_ = PaddedRank(rank_) - rank_;  // zeros: rows stay aligned
    rank_ += padding_;
    a_ = wide_.narrow(0, weight_.rows(), rank_).narrow(1, 0, in_);
    a_.zero_();
    wide_.narrow(0, 0, weight_.rows()).narrow(1, in_, rank_).zero_();
  } else {
    a_ = at::empty({rank_, in_}, Options(dtype_));
  }
  for (Segment& s : segments_) {
    s.b = wide_.defined() ? wide_.narrow(0, s.first_row, s.rows).narrow(1, in_ + s.first_col, s.rank)
                          : at::empty({s.rows, s.rank}, a_.options());
    Cast(s);
  }
  PlaceMagnitudes();
}

void SideAdapter::PlaceMagnitudes() {
  for (Segment& s : segments_) {
    if (!s.trained || !s.factors.magnitude.defined()) continue;
    s.first_z = z_width_;
    z_width_ += s.rows;
    if (!gain_.defined()) gain_ = at::ones({weight_.rows()}, Options(at::kFloat));
    std::vector<Addition> beneath;
    for (const auto& [module, addition] : frozen_) {
      if (modules_[static_cast<size_t>(module)].first_row == s.first_row) beneath.push_back(addition);
    }
    s.magnitude =
        Magnitude(s.factors, RowNorms(WeightOf(s.first_row, s.rows), beneath), gain_.narrow(0, s.first_row, s.rows));
    RefreshMagnitude(s);
  }
}

void SideAdapter::Cast(Segment& segment) {
  a_.narrow(0, segment.first_col, segment.rank).copy_(segment.factors.a);
  if (dtype_ == at::kFloat) {
    at::mul_out(segment.b, segment.factors.b, at::scalar_tensor(segment.factors.scaling, segment.b.options()));
  } else {
    segment.b.copy_(segment.factors.b * segment.factors.scaling);
  }
}

void SideAdapter::RefreshMagnitude(Segment& segment) {
  const at::Tensor products = at::empty({segment.rank, segment.rows}, a_.options());
  ModuleForward(segment, AOf(segment), products);
  segment.magnitude.Refresh(products);
}

void SideAdapter::Refresh() {
  for (Segment& s : segments_) {
    if (s.trained) Cast(s);
  }
  RefreshMagnitudes();
}

void SideAdapter::RefreshMagnitudes() {
  for (Segment& s : segments_) {
    if (s.trained && s.magnitude) RefreshMagnitude(s);
  }
}

void SideAdapter::ListCopies(std::vector<kernels::cuda::ScaledCopy>& copies) const {
  for (const Segment& s : segments_) {
    if (!s.trained) continue;
    copies.push_back({.from = s.factors.a.const_data_ptr<float>(),
                      .to = AOf(s).mutable_data_ptr(),
                      .rows = s.rank,
                      .cols = in_,
                      .to_stride = a_.stride(0)});
    copies.push_back({.from = s.factors.b.const_data_ptr<float>(),
                      .to = s.b.mutable_data_ptr(),
                      .rows = s.rows,
                      .cols = s.rank,
                      .to_stride = s.b.stride(0),
                      .scale = static_cast<float>(s.factors.scaling)});
  }
}

void SideAdapter::ResetMagnitudes() {
  for (Segment& s : segments_) {
    if (s.magnitude) s.magnitude.Reset();
  }
}

// Counted from the module's own first row.
std::vector<kernels::LowRank> SideAdapter::FoldedInto(const Segment& segment) const {
  std::vector<kernels::LowRank> own;
  for (kernels::LowRank folded : folded_) {
    if (folded.first_row != segment.first_row) continue;
    folded.first_row = 0;
    own.push_back(folded);
  }
  return own;
}

void SideAdapter::ModuleForward(const Segment& segment, const at::Tensor& x, const at::Tensor& y) const {
  MatMulNT(y, x, {WeightOf(segment.first_row, segment.rows), FoldedInto(segment)}, false);
  if (frozen_gain_.defined()) MultiplyInto(y, y, frozen_gain_.narrow(0, segment.first_row, segment.rows));
  for (const Segment& frozen : segments_) {
    if (frozen.trained || frozen.first_row != segment.first_row) continue;
    const at::Tensor s = at::empty({x.size(0), frozen.rank}, a_.options());
    MatMulNT(s, x, AOf(frozen), false);
    MatMulNT(y, s, frozen.b, true);
  }
}

void SideAdapter::ModuleBackward(const Segment& segment, const at::Tensor& dy, const at::Tensor& dx) const {
  at::Tensor scaled = dy;
  if (frozen_gain_.defined()) {
    scaled = at::empty(dy.sizes(), dy.options());
    MultiplyInto(scaled, dy, frozen_gain_.narrow(0, segment.first_row, segment.rows));
  }
  MatMulNN(dx, scaled, {WeightOf(segment.first_row, segment.rows), FoldedInto(segment)}, true);
  for (const Segment& frozen : segments_) {
    if (frozen.trained || frozen.first_row != segment.first_row) continue;
    const at::Tensor ds = at::empty({dy.size(0), frozen.rank}, a_.options());
    MatMulNN(ds, dy, frozen.b, false);
    MatMulNN(dx, ds, AOf(frozen), true);
  }
}

SideAdapter::Kept SideAdapter::TakeKept(int64_t tokens, Arena& arena) const {
  Kept kept{.s = arena.Take({tokens, rank_}, dtype_), .z = {}};
  if (z_width_ > 0) kept.z = arena.Take({tokens, z_width_}, dtype_);
  return kept;
}

bool SideAdapter::StandsBeside(const at::Tensor& left, const DropoutKey& dropout) const {
  const bool taken = wide_.defined() ? HasMargin(left) : TakesColumns(dtype_, weight_.device());
  return taken && dropout.probability == 0 && !frozen_gain_.defined();
}

at::Tensor SideAdapter::Lengthened(const at::Tensor& left) const {
  return left.as_strided({left.size(0), left.size(1) + rank_}, left.strides());
}

void SideAdapter::Forward(const at::Tensor& x, const at::Tensor& y, const Kept& kept, Arena& arena,
                          const DropoutKey& dropout) const {
  const bool beside = StandsBeside(x, dropout);
  std::vector<kernels::Beside> columns;
  if (beside && wide_.defined() && rank_ > 0) {
    const at::Tensor both = Lengthened(x);
    const NarrowProduct s = {.y = both.narrow(1, in_, rank_), .x = x, .w = a_, .copy = kept.s};
    MultiplyNarrow({&s, 1}, /*by_rows=*/true);
    MatMulNT(y, both, wide_.narrow(0, 0, weight_.rows()).narrow(1, 0, in_ + rank_), false);
    return KeepProducts(y, kept);
  }
  if (beside && rank_ > 0) {
    MatMulNT(kept.s, x, a_, false);
    for (const Segment& seg : segments_)
      columns.push_back({.x = RowsOf(seg.ColumnsOf(kept.s)), .w = RowsOf(seg.b), .first_col = seg.first_row});
  }
  MatMulNT(y, x, {weight_, folded_, columns}, false);
  if (rank_ == 0) return;
  if (!beside && AddColumns(x, y, kept, arena, dropout)) return;
  KeepProducts(y, kept);
}

void SideAdapter::KeepProducts(const at::Tensor& y, const Kept& kept) const {
  for (const Segment& seg : segments_) {
    if (!seg.magnitude) continue;
    seg.ZOf(kept.z).copy_(seg.RowsOf(y));
    MultiplyInto(seg.RowsOf(y), seg.RowsOf(y), seg.magnitude.gain());
  }
}

bool SideAdapter::AddColumns(const at::Tensor& x, const at::Tensor& y, const Kept& kept, Arena& arena,
                             const DropoutKey& dropout) const {
  if (frozen_gain_.defined()) MultiplyInto(y, y, frozen_gain_);
  const int64_t dropped_rank = dropout.probability > 0 ? trained_rank_ : 0;
  if (dropped_rank < rank_) {
    MatMulNT(kept.s.narrow(1, dropped_rank, rank_ - dropped_rank), x, a_.narrow(0, dropped_rank, rank_ - dropped_rank),
             false);
  }
  for (const Segment& seg : segments_) {
    if (seg.first_col >= dropped_rank) MatMulNT(seg.RowsOf(y), seg.ColumnsOf(kept.s), seg.b, true);
  }
  if (dropped_rank > 0) ForwardDropped(x, y, kept, arena, dropout);
  return dropped_rank > 0;
}

// Dropout comes before the magnitude too: with d the dropped x, y = w x - w d + gain (w d + s).
void SideAdapter::ForwardDropped(const at::Tensor& x, const at::Tensor& y, const Kept& kept, Arena& arena,
                                 const DropoutKey& dropout) const {
  ArenaScope scope(arena);
  const at::Tensor dropped = arena.Take(x.sizes(), dtype_);
  for (size_t i = 0; i < segments_.size() && segments_[i].trained; ++i) {
    const Segment& seg = segments_[i];
    ApplyDropout(x, dropped, KeyOf(dropout, i));
    MatMulNT(seg.ColumnsOf(kept.s), dropped, AOf(seg), false);
    if (!seg.magnitude) {
      MatMulNT(seg.RowsOf(y), seg.ColumnsOf(kept.s), seg.b, true);
      continue;
    }
    const at::Tensor z = seg.ZOf(kept.z);
    ModuleForward(seg, dropped, z);
    seg.RowsOf(y).sub_(z);
    MatMulNT(z, seg.ColumnsOf(kept.s), seg.b, true);
    seg.RowsOf(y).add_(z * seg.magnitude.gain());
  }
}

SideAdapter::Gradient SideAdapter::BeginBackward(const at::Tensor& dy, const Kept& kept, Arena& arena,
                                                 const DropoutKey& dropout) const {
  Gradient gradient = {.dy = dy, .ds = {}};
  for (const Segment& seg : segments_) {
    if (seg.magnitude) seg.magnitude.Backward(seg.RowsOf(dy), seg.ZOf(kept.z), arena);
  }
  if (z_width_ > 0 && dropout.probability == 0) {
    gradient.dy = arena.Take(dy.sizes(), dtype_);
    MultiplyInto(gradient.dy, dy, gain_);
  }
  if (rank_ == 0) return gradient;
  const at::Tensor& left = gradient.dy;
  const bool behind = wide_.defined() && HasMargin(left);
  gradient.ds = behind ? Lengthened(left).narrow(1, left.size(1), rank_) : arena.Take({left.size(0), rank_}, dtype_);
  return gradient;
}

// Dropout lets a trained magnitude scale what its factors see alone.
at::Tensor SideAdapter::GradientOf(const Segment& segment, const at::Tensor& dy, const DropoutKey& dropout) const {
  at::Tensor rows = segment.RowsOf(dy);
  if (!segment.magnitude || dropout.probability == 0) return rows;
  return (rows * segment.magnitude.gain()).to(dtype_);
}

// Outside a segment's rows its columns are zeros, that are worth skipping where the segments' places allow it.
void SideAdapter::MultiplyWideFactors(const at::Tensor& dy, const at::Tensor& ds) const {
  std::vector<NarrowProduct> products;
  for (const Segment& seg : segments_) products.push_back({.y = seg.ColumnsOf(ds), .x = seg.RowsOf(dy), .w = seg.b});
  const bool whole =
      !HasNarrowKernel(dtype_, dy.device()) || std::any_of(segments_.begin(), segments_.end(), [](const Segment& seg) {
        return seg.rank % kRankStep > 0 || seg.rows % kRankStep > 0;
      });
  if (whole) products = {{.y = ds, .x = dy, .w = wide_.narrow(0, 0, weight_.rows()).narrow(1, in_, rank_)}};
  MultiplyNarrow(products, /*by_rows=*/false);
}

void SideAdapter::BackwardInput(const Gradient& gradient, const at::Tensor& dx, Arena& arena,
                                const DropoutKey& dropout) const {
  const auto& [dy, ds] = gradient;
  const int64_t dropped_rank = dropout.probability > 0 ? trained_rank_ : 0;
  const bool beside = rank_ > 0 && StandsBeside(dy, dropout);
  const bool wide = beside && wide_.defined();
  if (wide) {
    MultiplyWideFactors(dy, ds);
  } else if (padding_ > 0) {
    ds.narrow(1, rank_ - padding_, padding_).zero_();
  }
  for (const Segment& seg : segments_) {
    if (!wide) MatMulNN(seg.ColumnsOf(ds), GradientOf(seg, dy, dropout), seg.b, false);
  }
  if (!dx.defined()) return;
  if (wide) {
    const int64_t rows = weight_.rows() + rank_;
    return MatMulNN(dx, Lengthened(dy), wide_.narrow(0, 0, rows).narrow(1, 0, in_), false);
  }
  if (beside) {
    const kernels::Beside columns = {.x = RowsOf(ds), .w = RowsOf(a_)};
    return MatMulNN(dx, dy, {weight_, folded_, {&columns, 1}}, false);
  }
  MatMulNN(dx, dy, {weight_, folded_}, false);
  if (rank_ == 0) return;
  if (frozen_gain_.defined()) {
    const ArenaScope scope(arena);
    const at::Tensor scaled = arena.Take(dy.sizes(), dtype_);
    MultiplyInto(scaled, dy, frozen_gain_ - 1);
    MatMulNN(dx, scaled, {weight_, {}}, true);
  }
  if (dropped_rank < rank_) {
    MatMulNN(dx, ds.narrow(1, dropped_rank, rank_ - dropped_rank), a_.narrow(0, dropped_rank, rank_ - dropped_rank),
             true);
  }
  if (dropped_rank == 0) return;
  ArenaScope scope(arena);
  const at::Tensor share = arena.Take(dx.sizes(), dtype_);
  for (size_t i = 0; i < segments_.size() && segments_[i].trained; ++i) {
    const Segment& seg = segments_[i];
    MatMulNN(share, seg.ColumnsOf(ds), AOf(seg), false);
    if (seg.magnitude) ModuleBackward(seg, (seg.RowsOf(dy) * (seg.magnitude.gain() - 1)).to(dtype_), share);
    ApplyDropout(share, share, KeyOf(dropout, i));
    model::Add(dx, share);
  }
}

void SideAdapter::BackwardFactors(const Gradient& gradient, const at::Tensor& s, const at::Tensor& x, Arena& arena,
                                  const DropoutKey& dropout) const {
  const bool dropped = dropout.probability > 0;
  std::vector<FactorProduct> products;
  for (const Segment& seg : segments_) {
    if (!seg.trained) continue;
    const at::Tensor rows = GradientOf(seg, gradient.dy, dropout);
    const FactorProduct product = {seg.factors.grad_b, rows, seg.ColumnsOf(s), seg.factors.scaling};
    if (dropped && seg.magnitude) {
      AccumulateEach({&product, 1});  // its rows are a copy
    } else {
      products.push_back(product);
    }
  }
  for (const Segment& seg : segments_) {
    if (seg.trained && !dropped) products.push_back({seg.factors.grad_a, seg.ColumnsOf(gradient.ds), x});
  }
  AccumulateEach(products);
  if (!dropped) return;
  const ArenaScope scope(arena);
  const at::Tensor input = arena.Take(x.sizes(), dtype_);
  for (size_t i = 0; i < segments_.size() && segments_[i].trained; ++i) {
    const Segment& seg = segments_[i];
    ApplyDropout(x, input, KeyOf(dropout, i));
    AccumulateTN(seg.factors.grad_a, seg.ColumnsOf(gradient.ds), input, 1);
  }
}

}  // namespace strata::model
