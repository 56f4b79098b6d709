// A bf16 training step on a CUDA device: recorded or not, in the room that adapters of any rank find beside the
// weights.
#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "client/model/transformer.h"
#include "client/peft/adapter_state.h"
#include "client/peft/lora_plan.h"
#include "client/train/optimizer.h"
#include "tests/client/model/golden_batch.h"
#include "tests/testing/golden.h"
#include "tests/testing/status_matchers.h"

namespace strata::train {
namespace {

using testing::RelativeNorm;

// Rows of so many tokens each.
data::PackedBatch Batch(const std::vector<int>& lengths, int seed) {
  std::vector<data::Example> rows;
  for (const int length : lengths) {
    data::Example& row = rows.emplace_back();
    for (int i = 0; i < length; ++i) row.ids.push_back(3 + (seed * 31 + i * i * 7 + length) % 36);
    row.labels = row.ids;
  }
  return testing::PackRows(rows);
}

class CudaStep : public ::testing::TestWithParam<std::string> {
 protected:
  struct Run {
    std::unique_ptr<model::Transformer> model;
    std::unique_ptr<peft::AdapterState> state;
    double Step(const data::PackedBatch& batch, bool recompute = false) const {
      return model->TrainStep(batch, 1.0 / static_cast<double>(batch.num_targets), {}, recompute).value();
    }
    // And forgets it.
    at::Tensor Gradient() const {
      at::Tensor out = state->gradients().to(at::kCPU, /*non_blocking=*/false, /*copy=*/true);
      state->gradients().zero_();
      return out;
    }
  };

  void SetUp() override {
    const auto device = model::ResolveDevice("cuda");
    if (!device.ok()) GTEST_SKIP() << device.status().message();
  }
  static Run Start(const std::string& device, uint32_t rank, config::ComputeDType dtype) {
    Run run;
    auto files = model::ModelFiles::Open(testing::Files(), GetParam()).value();
    config::AdapterOptions options;
    options.rank = rank;
    options.alpha = 2 * rank;
    std::vector<Target> targets = peft::PlanLora(options, files->LinearModules()).value();
    const at::Device place = model::ResolveDevice(device).value();
    run.model = model::Transformer::Load(std::move(files), dtype, place, 2).value();
    run.state = std::make_unique<peft::AdapterState>(std::move(targets), place);
    run.state->InitFresh(5, 0, "");
    // B too, that the gradients of A are not zero.
    for (const peft::StateEntry& entry : run.state->entries()) {
      const at::Tensor b = run.state->B(entry);
      b.copy_(at::sin(at::arange(b.numel(), at::kFloat)).view_as(b) * 0.05);
    }
    EXPECT_OK(run.model->SetTrained(run.state->Factors()));
    return run;
  }
};

TEST_P(CudaStep, ARecordedStepHasTheSameBits) {
  const Run once = Start("cuda", 8, config::ComputeDType::kBf16);
  const Run often = Start("cuda", 8, config::ComputeDType::kBf16);
  // One shape for all: padded to 64 tokens.
  const std::vector<data::PackedBatch> batches = {Batch({20, 30}, 1), Batch({7, 40}, 2), Batch({33, 12}, 3),
                                                  Batch({20, 30}, 4)};
  for (size_t i = 0; i < batches.size(); ++i) {
    const double loss = often.Step(batches[i]);
    const at::Tensor gradient = often.Gradient();
    EXPECT_OK(once.model->SetTrained(once.state->Factors()));  // forgets what was recorded
    EXPECT_EQ(once.Step(batches[i]), loss) << i;
    EXPECT_TRUE(once.Gradient().equal(gradient)) << i;
  }
  EXPECT_EQ(once.model->recorded_steps(), 0);
  EXPECT_EQ(often.model->recorded_steps(), 1);
  EXPECT_EQ(often.Step(batches[0], /*recompute=*/true), often.Step(batches[0]));
}

TEST_P(CudaStep, FactorsThatChangedAreTakenAnew) {
  const Run run = Start("cuda", 8, config::ComputeDType::kBf16);
  const data::PackedBatch batch = Batch({20, 30}, 1);
  Optimizer optimizer({.learning_rate = 1e-2});
  double first = 0;
  double last = 0;
  for (int i = 0; i < 8; ++i) {
    last = run.Step(batch);
    if (i == 0) first = last;
    optimizer.Step(*run.state, 1e-2, optimizer.GradientNorm(*run.state));
    run.model->RefreshTrained();
  }
  EXPECT_EQ(run.model->recorded_steps(), 1);
  EXPECT_LT(last, 0.9 * first);
}

// Up to rank 16 there is room from the beginning, beyond weights move.
TEST_P(CudaStep, AnyRankAgreesWithTheProcessorsFp32) {
  const data::PackedBatch batch = Batch({20, 30, 9}, 1);
  for (const uint32_t rank : {3U, 16U, 40U, 8U}) {
    const Run here = Start("cpu", rank, config::ComputeDType::kFp32);
    const Run there = Start("cuda", rank, config::ComputeDType::kBf16);
    const double expected = here.Step(batch);
    const at::Tensor gradient = here.Gradient();
    for (int i = 0; i < 3; ++i) {
      EXPECT_NEAR(there.Step(batch), expected, 0.01 * expected) << rank;
      EXPECT_LT(RelativeNorm(there.Gradient(), gradient), 0.05) << rank;
    }
  }
}

TEST_P(CudaStep, RoomIsMadeForALaterAdapter) {
  const data::PackedBatch batch = Batch({20, 30, 9}, 1);
  const Run wide = Start("cuda", 40, config::ComputeDType::kBf16);
  const Run narrow = Start("cuda", 4, config::ComputeDType::kBf16);
  const double before = narrow.Step(batch);
  EXPECT_OK(narrow.model->SetTrained(wide.state->Factors()));
  EXPECT_EQ(narrow.Step(batch), wide.Step(batch));
  EXPECT_OK(narrow.model->SetTrained(narrow.state->Factors()));
  EXPECT_EQ(narrow.Step(batch), before);
}

INSTANTIATE_TEST_SUITE_P(Models, CudaStep,
                         ::testing::Values(testing::GoldenDir("models/llama"),
                                           testing::GoldenDir("models/small-qwen3")),
                         [](const auto& info) { return testing::CaseName(info.param); });

}  // namespace
}  // namespace strata::train
