// Columns that stand in a wide matrix beside those that are products of their own: the same adapter, in bf16, which the
// processor's own kernels do not fold.
#include "client/model/side_adapter.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace strata::model {
namespace {

constexpr int64_t kTokens = 12, kIn = 24, kMargin = 24;
constexpr int64_t kRows[] = {10, 6};

at::Tensor Wave(at::IntArrayRef shape, double phase) {
  at::Tensor out = at::empty(shape, at::kFloat);
  for (int64_t i = 0; i < out.numel(); ++i)
    out.mutable_data_ptr<float>()[i] = static_cast<float>(std::sin(0.7310001 * static_cast<double>(i) + phase));
  return out;
}

// Left operands with room behind each row that holds no numbers.
at::Tensor Left(at::IntArrayRef shape, double phase) {
  const at::Tensor whole = at::full({shape[0], shape[1] + kMargin}, NAN, at::kBFloat16);
  at::Tensor own = whole.narrow(1, 0, shape[1]);
  own.copy_(Wave(shape, phase));
  return own;
}

LinearGroup Group(bool wide) {
  LinearGroup group;
  group.in = kIn;
  group.modules = {{.name = "q", .first_row = 0, .rows = kRows[0]},
                   {.name = "k", .first_row = kRows[0], .rows = kRows[1]}};
  const int64_t rows = kRows[0] + kRows[1];
  at::Tensor weight = at::empty({rows, kIn}, at::kBFloat16);
  if (wide) {
    group.wide = at::full({rows + kMargin, kIn + kMargin}, NAN, at::kBFloat16);
    weight = group.wide.narrow(0, 0, rows).narrow(1, 0, kIn);
  }
  weight.copy_(Wave({rows, kIn}, 0.2));
  group.weight = weight;
  return group;
}

struct Case {
  std::vector<int64_t> trained;  // ranks of q's and k's factors
  std::vector<int64_t> frozen;
  bool dora = false;
  double dropout = 0;
};

struct Outcome {
  at::Tensor y, dx;
  std::vector<at::Tensor> gradients;
};

Outcome PassOf(const Case& c, bool wide) {
  const LinearGroup group = Group(wide);
  SideAdapter side(group, at::kBFloat16);
  Outcome out;
  double phase = 1;
  for (const auto* ranks : {&c.trained, &c.frozen}) {
    const bool trained = ranks == &c.trained;
    for (size_t m = 0; m < ranks->size(); ++m) {
      SideFactors f;
      f.a = Wave({(*ranks)[m], kIn}, phase += 1);
      f.b = Wave({kRows[m], (*ranks)[m]}, phase += 1);
      f.scaling = 0.5;
      if (trained) {
        f.grad_a = at::zeros_like(f.a);
        f.grad_b = at::zeros_like(f.b);
        out.gradients.push_back(f.grad_a);
        out.gradients.push_back(f.grad_b);
        if (c.dora) {
          f.magnitude = Wave({kRows[m]}, phase += 1) + 3;
          f.grad_magnitude = at::zeros_like(f.magnitude);
          out.gradients.push_back(f.grad_magnitude);
        }
      }
      trained ? side.AddTrained(static_cast<int>(m), f) : side.AddFrozen(static_cast<int>(m), f);
    }
  }
  side.Finish();
  Arena arena(at::kCPU);
  const DropoutKey dropout{.probability = c.dropout, .key = 77};
  const int64_t rows = kRows[0] + kRows[1];
  const at::Tensor x = Left({kTokens, kIn}, 0.4);
  out.y = at::full({kTokens, rows}, NAN, at::kBFloat16);
  const SideAdapter::Kept kept = side.TakeKept(kTokens, arena);
  kept.s.fill_(NAN);
  side.Forward(x, out.y, kept, arena, dropout);
  const SideAdapter::Gradient gradient = side.BeginBackward(Left({kTokens, rows}, 0.9), kept, arena, dropout);
  gradient.ds.fill_(NAN);
  out.dx = at::full({kTokens, kIn}, NAN, at::kBFloat16);
  side.BackwardInput(gradient, out.dx, arena, dropout);
  side.BackwardFactors(gradient, kept.s, x, arena, dropout);
  return out;
}

class WideMatrix : public ::testing::TestWithParam<Case> {};

TEST_P(WideMatrix, GivesWhatSeparateProductsGive) {
  const Outcome wide = PassOf(GetParam(), true);
  const Outcome apart = PassOf(GetParam(), false);
  const auto near = [](const at::Tensor& a, const at::Tensor& b) {
    const double size = b.to(at::kDouble).norm().item<double>();
    return (a.to(at::kDouble) - b.to(at::kDouble)).norm().item<double>() < 0.01 * size + 1e-12;
  };
  EXPECT_TRUE(near(wide.y, apart.y));
  EXPECT_TRUE(near(wide.dx, apart.dx));
  for (size_t i = 0; i < wide.gradients.size(); ++i) EXPECT_TRUE(near(wide.gradients[i], apart.gradients[i])) << i;
}

INSTANTIATE_TEST_SUITE_P(Adapters, WideMatrix,
                         ::testing::Values(Case{.trained = {8, 8}, .frozen = {}}, Case{.trained = {3, 4}, .frozen = {}},
                                           Case{.trained = {3, 4}, .frozen = {2, 2}},
                                           Case{.trained = {3}, .frozen = {4, 2}},
                                           Case{.trained = {3, 4}, .frozen = {2, 2}, .dropout = 0.3},
                                           Case{.trained = {3, 4}, .frozen = {}, .dropout = 0.3},
                                           Case{.trained = {3, 4}, .frozen = {2}, .dora = true},
                                           Case{.trained = {3, 4}, .frozen = {2}, .dora = true, .dropout = 0.3},
                                           Case{.trained = {}, .frozen = {5, 2}}));

TEST(Margin, RoomIsMadeAndTheWeightMovesUnchanged) {
  LinearGroup group = Group(true);
  EXPECT_TRUE(HasMargin(group, kMargin));
  EXPECT_FALSE(HasMargin(group, kMargin + 1));
  const at::Tensor before = group.weight.tensor().clone();
  EnsureMargin(group, kMargin + 8);
  EXPECT_TRUE(HasMargin(group, kMargin + 8));
  EXPECT_TRUE(group.weight.tensor().equal(before));
  EXPECT_EQ(group.weight.tensor().data_ptr(), group.wide.data_ptr());
  LinearGroup plain = Group(false);
  EXPECT_TRUE(HasMargin(plain, 1000));  // stands in no wide matrix
}

}  // namespace
}  // namespace strata::model
