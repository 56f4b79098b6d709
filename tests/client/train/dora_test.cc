// What the golden adapters do not show of DoRA: its start, dropout, frozen adapters with magnitudes by either route,
// and a trained one on top of them.
#include "client/model/dora.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "client/model/transformer.h"
#include "client/peft/adapter_state.h"
#include "client/peft/lora_plan.h"
#include "common/adapter/adapter.h"
#include "tests/client/model/golden_batch.h"
#include "tests/client/model/test_device.h"
#include "tests/testing/golden.h"
#include "tests/testing/status_matchers.h"

namespace strata::train {
namespace {

using ::testing::HasSubstr;
using testing::MaxDifference;
using testing::RelativeNorm;
using testing::StatusIs;

constexpr double kScale = 1.0 / 16;
constexpr model::DropoutKey kDropout = {.probability = 0.3, .key = 5};

class DoraTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(auto files,
                         model::ModelFiles::Open(testing::Files(), testing::GoldenDir("models/small-qwen3")));
    modules_ = files->LinearModules();
    ASSERT_OK_AND_ASSIGN(
        model_, model::Transformer::Load(std::move(files), config::ComputeDType::kFp32, testing::TestDevice(), 2));
    data::Example row;
    for (int i = 0; i < 24; ++i) row.ids.push_back(3 + i * 5 % 31);
    row.labels = row.ids;
    batch_ = testing::PackRows({row});
  }
  static adapter::Adapter Golden(const std::string& name) {
    return std::move(adapter::ReadPeft(testing::Files(), testing::GoldenDir("lora/" + name))->first);
  }
  static std::vector<model::NamedFactors> Frozen(const std::vector<std::string>& names) {
    std::vector<model::NamedFactors> all;
    for (const std::string& name : names) {
      absl::StatusOr<std::vector<model::NamedFactors>> factors =
          peft::FrozenFactors(Golden(name), testing::TestDevice());
      all.insert(all.end(), std::make_move_iterator(factors->begin()), std::make_move_iterator(factors->end()));
    }
    return all;
  }
  // A trained copy of the golden adapter; with magnitudes or without.
  void Train(const std::string& name, bool use_dora) {
    const adapter::Adapter adapter = Golden(name);
    std::vector<Target> targets = peft::PlanFromAdapter(adapter, modules_).value();
    for (Target& target : targets) target.use_dora = use_dora;
    state_ = std::make_unique<peft::AdapterState>(targets, testing::TestDevice());
    ASSERT_OK(state_->Assign(adapter));
    ASSERT_OK(model_->SetTrained(state_->Factors()));
  }
  double Step(const model::DropoutKey& dropout, bool recompute = false) {
    state_->gradients().zero_();
    return model_->TrainStep(batch_, kScale, dropout, recompute).value() * kScale;
  }
  at::Tensor Logits() { return model_->Inspect(batch_).value().logits; }

  std::vector<config::ModuleShape> modules_;
  std::unique_ptr<model::Transformer> model_;
  std::unique_ptr<peft::AdapterState> state_;
  data::PackedBatch batch_;
};

TEST(RowNorms, FollowFromProductsWithoutTheSum) {
  const at::Tensor w = at::linspace(-1, 1, 7 * 300).view({300, 7}).cos();
  model::SideFactors factors;
  factors.a = at::linspace(0, 3, 2 * 7).view({2, 7}).sin();
  factors.b = at::linspace(1, 9, 2 * 300).view({300, 2}).sin();
  factors.scaling = 1.5;
  factors.magnitude = at::ones({300});
  const at::Tensor gain = at::empty({300});
  model::Magnitude magnitude(factors, model::RowNorms(w, {}), gain);
  magnitude.Refresh(at::mm(factors.a, w.t()));
  const at::Tensor norms = (w + 1.5 * at::mm(factors.b, factors.a)).to(at::kDouble).norm(2, 1);
  // Not the gains themselves: they weigh the smallest norms most, where the squares cancel.
  EXPECT_LT(RelativeNorm(1 / gain, norms), 1e-6);
  const model::Addition lora{.change = {}, .a = factors.a, .b = 1.5 * factors.b};
  EXPECT_LT(RelativeNorm(model::RowNorms(w, {&lora, 1}), norms), 1e-6);
  magnitude.Reset();
  EXPECT_LT(RelativeNorm(factors.magnitude, norms), 1e-6);
  EXPECT_TRUE(gain.eq(1).all().item<bool>());
}

// A pruned row has no direction: it is left as it is instead of becoming 0 / 0.
TEST(RowNorms, ARowOfZerosIsLeftAlone) {
  const at::Tensor w = at::tensor({3.0F, 4.0F, 0.0F, 0.0F}).view({2, 2});
  model::SideFactors factors;
  factors.a = at::ones({1, 2});
  factors.b = at::zeros({2, 1});
  factors.magnitude = at::tensor({10.0F, 0.0F});
  const model::Addition addition = model::AdditionOf(w, factors);
  model::AddInPlace(w, {&addition, 1});
  EXPECT_TRUE(w.equal(at::tensor({6.0F, 8.0F, 0.0F, 0.0F}).view({2, 2})));
}

TEST_F(DoraTest, StartsAsTheModelItself) {
  const at::Tensor pristine = Logits();
  config::AdapterOptions options;
  options.use_dora = true;
  state_ = std::make_unique<peft::AdapterState>(peft::PlanLora(options, modules_).value(), testing::TestDevice());
  state_->InitFresh(1, 0, "");
  ASSERT_OK(model_->SetTrained(state_->Factors()));
  ASSERT_OK(model_->ResetMagnitudes());
  // Zeros lengthen a device's products, which LibTorch may sum up in another order then.
  EXPECT_LE(MaxDifference(Logits(), pristine), testing::TestDeviceName() == "cpu" ? 0 : 2e-6);
  Step({});
  for (const peft::StateEntry& entry : state_->entries()) {
    EXPECT_TRUE(state_->Value(entry, peft::Part::kMagnitude).gt(0).all().item<bool>());
    EXPECT_GT(state_->Gradient(entry, peft::Part::kMagnitude).norm().item<double>(), 0) << entry.target.module;
  }
}

// A magnitude equal to the norm changes nothing, with dropout or without, but has a gradient.
TEST_F(DoraTest, WithItsNormsForMagnitudesItIsLora) {
  for (const model::DropoutKey& dropout : {model::DropoutKey{}, kDropout}) {
    Train("small-qwen3-dora", false);
    const double loss = Step(dropout);
    const auto lora = std::move(state_);
    Train("small-qwen3-dora", true);
    ASSERT_OK(model_->ResetMagnitudes());
    EXPECT_NEAR(Step(dropout), loss, 2e-6);
    for (size_t i = 0; i < state_->entries().size(); ++i) {
      for (const peft::Part part : {peft::Part::kA, peft::Part::kB}) {
        const at::Tensor expected = lora->Gradient(lora->entries()[i], part);
        EXPECT_LT(RelativeNorm(state_->Gradient(state_->entries()[i], part), expected), 2e-5);
      }
    }
  }
}

// Norms do not depend on magnitudes, so that these have a gradient which differences of the loss show, through every
// module above. Losses of about 6 carry rounding of some 1e-6, a difference of two over 0.04 so 1e-4; the curve itself
// bends by less than 5e-3.
TEST_F(DoraTest, GradientsOfMagnitudesAreSlopesOfTheLoss) {
  for (const model::DropoutKey& dropout : {model::DropoutKey{}, kDropout}) {
    Train("small-qwen3-dora", true);
    Step(dropout);
    const at::Tensor gradients = state_->gradients().clone();
    for (const peft::StateEntry& entry : state_->entries()) {
      const at::Tensor magnitude = state_->Value(entry, peft::Part::kMagnitude);
      const at::Tensor gradient = gradients.narrow(0, entry.offset_magnitude, entry.target.out);
      const double slope = gradient.norm().item<double>();
      const at::Tensor origin = magnitude.clone();
      const auto loss_at = [&](double distance) {
        magnitude.copy_(origin + gradient * (distance / slope));
        model_->RefreshTrained();
        return Step(dropout);
      };
      const double difference = (loss_at(0.02) - loss_at(-0.02)) / 0.04;
      loss_at(0);
      EXPECT_NEAR(difference, slope, 2e-4 + 5e-3 * slope) << entry.target.module << " " << dropout.probability;
    }
  }
}

TEST_F(DoraTest, RecomputationGivesTheSameBytes) {
  for (const model::DropoutKey& dropout : {model::DropoutKey{}, kDropout}) {
    Train("small-qwen3-dora", true);
    const double loss = Step(dropout);
    const at::Tensor kept = state_->gradients().clone();
    EXPECT_EQ(Step(dropout, /*recompute=*/true), loss);
    EXPECT_TRUE(state_->gradients().equal(kept));
  }
}

// What a frozen magnitude adds counts for the pristine weights, whatever else is added.
TEST_F(DoraTest, FrozenMagnitudesAddUpByEitherRoute) {
  const at::Tensor pristine = Logits();
  const auto base = Frozen({"small-qwen3-plain", "small-qwen3-dora"});
  ASSERT_OK(model_->SetBase(base, model::BaseRoute::kSide));
  const at::Tensor side = Logits();
  ASSERT_OK(model_->SetBase(base, model::BaseRoute::kMerge));
  const at::Tensor merged = Logits();
  EXPECT_GT(MaxDifference(side, pristine), 0.05);
  EXPECT_LT(MaxDifference(side, merged), 5e-5);
  ASSERT_OK(model_->SetBase({}, model::BaseRoute::kByDtype));
  Train("small-qwen3-dora", true);
  const at::Tensor trained = Logits();
  ASSERT_OK(model_->SetTrained({}));
  ASSERT_OK(model_->SetBase(Frozen({"small-qwen3-dora"}), model::BaseRoute::kMerge));
  EXPECT_LT(MaxDifference(Logits(), trained), 5e-5);
}

TEST_F(DoraTest, TrainsOnTopOfFrozenAdaptersByEitherRoute) {
  for (const auto& names : {std::vector<std::string>{"small-qwen3-plain"},
                            std::vector<std::string>{"small-qwen3-plain", "small-qwen3-dora"}}) {
    for (const model::DropoutKey& dropout : {model::DropoutKey{}, kDropout}) {
      ASSERT_OK(model_->SetBase(Frozen(names), model::BaseRoute::kMerge));
      Train("small-qwen3-dora", true);
      const double loss = Step(dropout);
      const at::Tensor expected = state_->gradients().clone();
      ASSERT_OK(model_->SetBase(Frozen(names), model::BaseRoute::kSide));
      EXPECT_NEAR(Step(dropout), loss, 2e-6);
      EXPECT_LT(RelativeNorm(state_->gradients(), expected), 2e-5) << names.size() << " " << dropout.probability;
    }
  }
}

TEST_F(DoraTest, AMagnitudeOfAnotherLengthIsRefused) {
  auto factors = Frozen({"small-qwen3-dora"});
  factors[0].factors.magnitude = at::ones({3});
  EXPECT_THAT(model_->SetBase(factors, model::BaseRoute::kSide),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rows, found 3")));
}

}  // namespace
}  // namespace strata::train
