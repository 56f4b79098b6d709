// LoRA against what HF PEFT computed: logits, loss, every gradient, and two runs of 20 AdamW steps, in fp32, to the
// limits argued in the golden README.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <iostream>

#include "client/model/transformer.h"
#include "client/peft/adapter_state.h"
#include "client/peft/lora_plan.h"
#include "client/train/optimizer.h"
#include "common/adapter/adapter.h"
#include "tests/client/model/golden_batch.h"
#include "tests/client/model/test_device.h"
#include "tests/testing/golden.h"
#include "tests/testing/status_matchers.h"

namespace strata::train {
namespace {

using testing::MaxDifference;
using testing::RelativeNorm;
using testing::Tensor;

class LoraGolden : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(auto read, adapter::ReadPeft(testing::Files(), GetParam()));
    ASSERT_OK_AND_ASSIGN(auto files,
                         model::ModelFiles::Open(testing::Files(), GetParam() + "/" + read.second.base_model));
    modules_ = files->LinearModules();
    ASSERT_OK_AND_ASSIGN(
        model_, model::Transformer::Load(std::move(files), config::ComputeDType::kFp32, testing::TestDevice(), 2));
    adapter_ = std::make_unique<adapter::Adapter>(std::move(read.first));
    options_ = read.second.options;
    ASSERT_OK_AND_ASSIGN(targets_, peft::PlanFromAdapter(*adapter_, modules_));
    Restart();
  }
  void Restart() {
    state_ = std::make_unique<peft::AdapterState>(targets_, testing::TestDevice());
    ASSERT_OK(state_->Assign(*adapter_));
    ASSERT_OK(model_->SetTrained(state_->Factors()));
  }
  // Each trained tensor under PEFT's name.
  template <typename F>
  void ForEachPart(const F& f) {
    for (const peft::StateEntry& e : state_->entries()) {
      f(adapter::PeftTensorName(e.target.module, true), e, peft::Part::kA);
      f(adapter::PeftTensorName(e.target.module, false), e, peft::Part::kB);
      if (e.target.use_dora) f(adapter::PeftMagnitudeName(e.target.module), e, peft::Part::kMagnitude);
    }
  }
  // As the adapter was read.
  at::Tensor Start(const peft::StateEntry& entry, peft::Part part) const {
    const adapter::Factors& f = *adapter_->Find(entry.target.module);
    const format::TensorView& view = part == peft::Part::kA ? f.a : part == peft::Part::kB ? f.b : f.magnitude;
    at::Tensor out = at::empty(view.shape, at::kFloat);
    EXPECT_OK(format::ToFloat(view, {out.data_ptr<float>(), static_cast<size_t>(out.numel())}));
    return out;
  }
  void Trajectory(const std::string& tag, double weight_decay);

  std::vector<config::ModuleShape> modules_;
  std::unique_ptr<model::Transformer> model_;
  std::unique_ptr<adapter::Adapter> adapter_;
  config::AdapterOptions options_;
  std::vector<Target> targets_;
  std::unique_ptr<peft::AdapterState> state_;
};

TEST_P(LoraGolden, OptionsPlanWhatTheFileHolds) {
  ASSERT_OK_AND_ASSIGN(const std::vector<Target> planned, peft::PlanLora(options_, modules_));
  EXPECT_OK(peft::CheckSamePlan(planned, targets_));
}

TEST_P(LoraGolden, LogitsLossAndGradients) {
  const format::Safetensors expected = testing::OpenGolden(GetParam() + "/expected.safetensors");
  const at::Tensor mask = Tensor(expected, "attention_mask");
  const auto rows = testing::GoldenRows(Tensor(expected, "input_ids"), mask, Tensor(expected, "labels"));
  const data::PackedBatch batch = testing::PackRows(rows);
  ASSERT_OK_AND_ASSIGN(const model::Inspection seen, model_->Inspect(batch));
  EXPECT_LT(MaxDifference(seen.logits, testing::AtTokens(Tensor(expected, "logits"), mask)), 5e-5);

  const double scale = 1 / static_cast<double>(batch.num_targets);
  ASSERT_OK_AND_ASSIGN(const double sum, model_->TrainStep(batch, scale, {}));
  EXPECT_NEAR(sum * scale, Tensor(expected, "loss").item<double>(), 5e-6);
  double worst = 0;
  ForEachPart([&](const std::string& name, const peft::StateEntry& e, peft::Part part) {
    const at::Tensor gradient = state_->Gradient(e, part);
    const at::Tensor wanted = Tensor(expected, "grad." + name);
    worst = std::max(worst, RelativeNorm(gradient, wanted));
    EXPECT_LT(RelativeNorm(gradient, wanted), 2e-5) << name;
    EXPECT_LT(MaxDifference(gradient, wanted), 5e-6) << name;
  });
  std::cout << "gradients: largest relative difference " << worst << "\n";
  Optimizer optimizer({});
  EXPECT_NEAR(GradientNorm(*state_), Tensor(expected, "grad_norm").item<double>(), 2e-5);
}

void LoraGolden::Trajectory(const std::string& tag, double weight_decay) {
  const format::Safetensors golden = testing::OpenGolden(GetParam() + "/trajectory.safetensors");
  const at::Tensor ids = Tensor(golden, "input_ids");
  const at::Tensor mask = Tensor(golden, "attention_mask");
  const at::Tensor labels = Tensor(golden, "labels");
  const at::Tensor losses = Tensor(golden, "loss." + tag);
  const at::Tensor norms = Tensor(golden, "grad_norm." + tag);
  Restart();
  Optimizer optimizer({.learning_rate = 1e-3, .weight_decay = weight_decay, .max_grad_norm = 1});
  double worst = 0;
  for (int64_t step = 0; step < ids.size(0); ++step) {
    const data::PackedBatch batch = testing::PackRows(testing::GoldenRows(ids[step], mask[step], labels[step]));
    const double scale = 1 / static_cast<double>(batch.num_targets);
    ASSERT_OK_AND_ASSIGN(const double sum, model_->TrainStep(batch, scale, {}));
    worst = std::max(worst, std::abs(sum * scale - losses[step].item<double>()));
    EXPECT_NEAR(sum * scale, losses[step].item<double>(), 2e-5) << tag << ", step " << step;
    const double norm = GradientNorm(*state_);
    EXPECT_NEAR(norm, norms[step].item<double>(), 1e-4 * norm) << tag << ", step " << step;
    optimizer.Step(*state_, 1e-3, norm);
    model_->RefreshTrained();
  }
  ForEachPart([&](const std::string& name, const peft::StateEntry& e, peft::Part part) {
    const at::Tensor value = state_->Value(e, part);
    const at::Tensor wanted = Tensor(golden, "final." + tag + "." + name);
    const double moved = (wanted - Start(e, part)).norm().item<double>();
    EXPECT_LT((value.cpu() - wanted).norm().item<double>(), 2e-3 * moved) << name;
    EXPECT_LT(MaxDifference(value, wanted), 5e-4) << name;
  });
  std::cout << tag << ": largest difference of a loss " << worst << "\n";
}

TEST_P(LoraGolden, TwentySteps) { Trajectory("wd0", 0); }
TEST_P(LoraGolden, TwentyStepsWithDecay) { Trajectory("wd1", 0.01); }

INSTANTIATE_TEST_SUITE_P(Adapters, LoraGolden, ::testing::ValuesIn(testing::GoldenCases("lora")),
                         [](const auto& info) { return testing::CaseName(info.param); });

}  // namespace
}  // namespace strata::train
