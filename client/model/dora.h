// Weight-decomposed adapters (DoRA, arXiv 2402.09353): the rows of a weight become m * (w + s B A) / ||w + s B A|| with
// a magnitude m of their own. The norm counts as a constant in the gradient (section 4.3), as in PEFT. A row whose norm
// is 0 is left as it is.
#ifndef STRATA_CLIENT_MODEL_DORA_H_
#define STRATA_CLIENT_MODEL_DORA_H_

#include <ATen/core/Tensor.h>

#include <span>
#include <utility>

#include "client/model/arena.h"
#include "client/model/held_matrix.h"
#include "client/model/side_factors.h"

namespace strata::model {

// What an adapter adds to rows w of a weight: change * w + b a.
struct Addition {
  at::Tensor change;  // fp32 [rows]; undefined: none
  at::Tensor a, b;    // fp32 [rank, in], [rows, rank], the scaling in b
};

// Of factors, with a magnitude or without, beside the rows `weight` [rows, in].
Addition AdditionOf(const HeldMatrix& weight, const SideFactors& factors);
// Norms of the rows of a weight with what is added to it, fp64 [rows]; widened and summed up a few rows at a time.
at::Tensor RowNorms(const HeldMatrix& weight, std::span<const Addition> added);
// weight += what `added` say of it as it was. In place, in its own type.
void AddInPlace(const at::Tensor& weight, std::span<const Addition> added);

// out = a b, a [rows, n], b [rows, n] or [n]; types may differ. On the processor a few rows at a time: LibTorch widens
// operands of two types whole, in memory that it then keeps.
void MultiplyInto(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b);

// The trained magnitude of one module.
class Magnitude {
 public:
  Magnitude() = default;  // there is none
  // `norms`: RowNorms of the module without its trained factors. `gain` [rows], fp32: where the gains are kept.
  Magnitude(SideFactors factors, const at::Tensor& norms, at::Tensor gain)
      : factors_(std::move(factors)), squares_(norms.square()), gain_(std::move(gain)) {}
  explicit operator bool() const { return gain_.defined(); }

  // Works norms and gains out anew. `products` [rank, rows]: what the module without its trained factors makes of the
  // rows of a; ||w + s B A||^2 follows from it, ||w||^2 and A A^T, without the sum itself.
  void Refresh(const at::Tensor& products);
  // The magnitude becomes the norm, and all gains 1. REQUIRES: Refresh since the factors changed.
  void Reset();

  // m / ||w + s B A||.
  const at::Tensor& gain() const { return gain_; }
  // Adds to the magnitude's gradient: sum over tokens of dy z / norm, z [tokens, rows] what the gain is applied to.
  void Backward(const at::Tensor& dy, const at::Tensor& z, Arena& arena) const;

 private:
  SideFactors factors_;
  at::Tensor squares_;  // fp64: ||w||^2
  at::Tensor norms_;    // fp32: ||w + s B A||, in one place for good, as gain_: recorded steps read both
  at::Tensor gain_;
};

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_DORA_H_
