#include "client/model/side_adapter.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "client/model/dropout.h"
#include "client/model/gemm.h"
#include "client/model/ops.h"

namespace strata::model {
namespace {

// A segment's own stream: keys of one step differ by the step, the group (in `key`) and the segment.
uint64_t SegmentKey(uint64_t key, size_t segment) { return key * 0x9E3779B97F4A7C15ULL + segment + 1; }

}  // namespace

SideAdapter::SideAdapter(const LinearGroup& group, at::ScalarType dtype)
    : modules_(group.modules), in_(group.in), dtype_(dtype), device_(group.weight.device()) {}

void SideAdapter::AddTrained(int module, SideFactors factors) { Add(module, std::move(factors), true); }

void SideAdapter::AddFrozen(int module, SideFactors factors) { Add(module, std::move(factors), false); }

void SideAdapter::Add(int module, SideFactors factors, bool trained) {
  if (factors.a.size(0) == 0) return;
  const LinearModule& m = modules_[static_cast<size_t>(module)];
  if (!trained && FoldsFactors(dtype_, device_)) {
    Fold(m, factors);
    return;
  }
  Segment segment;
  segment.first_row = m.first_row;
  segment.rows = m.rows;
  segment.rank = factors.a.size(0);
  segment.factors = std::move(factors);
  segment.trained = trained;
  segments_.push_back(std::move(segment));
}

void SideAdapter::Fold(const LinearModule& module, const SideFactors& factors) {
  folded_factors_.push_back(factors.a);
  folded_factors_.push_back(factors.b * factors.scaling);
  folded_.push_back({.a = RowsOf(factors.a), .b = RowsOf(folded_factors_.back()), .first_row = module.first_row});
}

void SideAdapter::Finish() {
  std::stable_partition(segments_.begin(), segments_.end(), [](const Segment& s) { return s.trained; });
  rank_ = trained_rank_ = 0;
  for (Segment& s : segments_) {
    s.first_col = rank_;
    rank_ += s.rank;
    if (s.trained) trained_rank_ = rank_;
  }
  if (rank_ == 0) return;
  a_ = at::empty({rank_, in_}, at::TensorOptions().dtype(dtype_).device(device_));
  for (Segment& s : segments_) {
    s.b = at::empty({s.rows, s.rank}, a_.options());
    Cast(s);
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

void SideAdapter::Refresh() {
  for (Segment& s : segments_) {
    if (s.trained) Cast(s);
  }
}

void SideAdapter::Forward(const at::Tensor& x, const at::Tensor& y, const at::Tensor& s, Arena& arena,
                          const DropoutKey& dropout) const {
  const int64_t dropped_rank = dropout.probability > 0 ? trained_rank_ : 0;
  if (dropped_rank < rank_) {
    MatMulNT(s.narrow(1, dropped_rank, rank_ - dropped_rank), x, a_.narrow(0, dropped_rank, rank_ - dropped_rank),
             false);
  }
  if (dropped_rank > 0) {
    ArenaScope scope(arena);
    const at::Tensor dropped = arena.Take(x.sizes(), dtype_);
    for (size_t i = 0; i < segments_.size() && segments_[i].trained; ++i) {
      const Segment& seg = segments_[i];
      ApplyDropout(x, dropped, SegmentKey(dropout.key, i), dropout.probability);
      MatMulNT(s.narrow(1, seg.first_col, seg.rank), dropped, a_.narrow(0, seg.first_col, seg.rank), false);
    }
  }
  for (const Segment& seg : segments_)
    MatMulNT(y.narrow(1, seg.first_row, seg.rows), s.narrow(1, seg.first_col, seg.rank), seg.b, true);
}

void SideAdapter::BackwardInput(const at::Tensor& dy, const at::Tensor& s, const at::Tensor& ds, const at::Tensor& dx,
                                Arena& arena, const DropoutKey& dropout) const {
  for (const Segment& seg : segments_) {
    const at::Tensor rows = dy.narrow(1, seg.first_row, seg.rows);
    MatMulNN(ds.narrow(1, seg.first_col, seg.rank), rows, seg.b, false);
    if (seg.trained) AccumulateTN(seg.factors.grad_b, rows, s.narrow(1, seg.first_col, seg.rank), seg.factors.scaling);
  }
  if (!dx.defined()) return;
  const int64_t dropped_rank = dropout.probability > 0 ? trained_rank_ : 0;
  if (dropped_rank < rank_) {
    MatMulNN(dx, ds.narrow(1, dropped_rank, rank_ - dropped_rank), a_.narrow(0, dropped_rank, rank_ - dropped_rank),
             true);
  }
  if (dropped_rank == 0) return;
  ArenaScope scope(arena);
  const at::Tensor share = arena.Take(dx.sizes(), dtype_);
  for (size_t i = 0; i < segments_.size() && segments_[i].trained; ++i) {
    const Segment& seg = segments_[i];
    MatMulNN(share, ds.narrow(1, seg.first_col, seg.rank), a_.narrow(0, seg.first_col, seg.rank), false);
    ApplyDropout(share, share, SegmentKey(dropout.key, i), dropout.probability);
    model::Add(dx, share);
  }
}

void SideAdapter::BackwardFactors(const at::Tensor& ds, const at::Tensor& x, Arena& arena,
                                  const DropoutKey& dropout) const {
  ArenaScope scope(arena);
  const bool drop = dropout.probability > 0;
  const at::Tensor dropped = drop ? arena.Take(x.sizes(), dtype_) : x;
  for (size_t i = 0; i < segments_.size() && segments_[i].trained; ++i) {
    const Segment& seg = segments_[i];
    if (drop) ApplyDropout(x, dropped, SegmentKey(dropout.key, i), dropout.probability);
    AccumulateTN(seg.factors.grad_a, ds.narrow(1, seg.first_col, seg.rank), dropped, 1);
  }
}

}  // namespace strata::model
