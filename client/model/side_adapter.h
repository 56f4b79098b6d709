// Low-rank factors beside a group of linear modules: trained ones and frozen ones (C_t), without touching the base
// weight. Trained ones are columns, added as x A^T (scaling B)^T; frozen ones too, unless the product can fold them
// into the weight as it reads it (gemm.h).
#ifndef STRATA_CLIENT_MODEL_SIDE_ADAPTER_H_
#define STRATA_CLIENT_MODEL_SIDE_ADAPTER_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "client/model/arena.h"
#include "client/model/weights.h"
#include "kernels/ops.h"

namespace strata::model {

// Factors of one module, kept by their owner. Frozen: the gradients are undefined.
struct SideFactors {
  at::Tensor a, b;            // fp32 [rank, in], [rows, rank]
  at::Tensor grad_a, grad_b;  // fp32, same shapes; added to by Backward
  double scaling = 1;
};

// LoRA dropout of one module and step: masks are drawn element by element from a Philox key, so that the backward pass
// draws them again.
struct DropoutKey {
  double probability = 0;  // 0: off
  uint64_t key = 0;
};

class SideAdapter {
 public:
  SideAdapter() = default;
  // Columns of `group`; the factors' tensors are borrowed views. Trained factors come first.
  explicit SideAdapter(const LinearGroup& group, at::ScalarType dtype);
  void AddTrained(int module, SideFactors factors);
  void AddFrozen(int module, SideFactors factors);
  // Lays out the columns; call once after the last Add.
  void Finish();
  // Casts the trained factors anew after they changed.
  void Refresh();

  // What the group's products add to its weight.
  std::span<const kernels::LowRank> folded() const { return folded_; }
  // Of the columns.
  bool empty() const { return rank_ == 0; }
  bool trained() const { return trained_rank_ > 0; }
  int64_t rank() const { return rank_; }

  // s = x A^T [rows, rank], which the caller keeps for the backward pass; y += s (scaling B)^T.
  void Forward(const at::Tensor& x, const at::Tensor& y, const at::Tensor& s, Arena& arena,
               const DropoutKey& dropout) const;
  // Adds to the B gradients of the trained factors; ds = dy (scaling B) [rows, rank]; dx += ds A when dx is defined.
  void BackwardInput(const at::Tensor& dy, const at::Tensor& s, const at::Tensor& ds, const at::Tensor& dx,
                     Arena& arena, const DropoutKey& dropout) const;
  // Adds to the A gradients of the trained factors. `x` as in Forward, `ds` as BackwardInput left it.
  void BackwardFactors(const at::Tensor& ds, const at::Tensor& x, Arena& arena, const DropoutKey& dropout) const;

 private:
  struct Segment {
    int64_t first_row = 0, rows = 0, first_col = 0, rank = 0;
    SideFactors factors;
    at::Tensor b;  // [rows, rank], scaled, compute dtype
    bool trained = false;
  };
  void Add(int module, SideFactors factors, bool trained);
  void Fold(const LinearModule& module, const SideFactors& factors);
  void Cast(Segment& segment);

  std::vector<LinearModule> modules_;
  int64_t in_ = 0;
  at::ScalarType dtype_ = at::kFloat;
  at::Device device_ = at::kCPU;
  std::vector<Segment> segments_;  // trained, then frozen
  int64_t rank_ = 0, trained_rank_ = 0;
  at::Tensor a_;  // [rank, in], compute dtype
  std::vector<kernels::LowRank> folded_;
  std::vector<at::Tensor> folded_factors_;  // the memory of folded_
};

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_SIDE_ADAPTER_H_
