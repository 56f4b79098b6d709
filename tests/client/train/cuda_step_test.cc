// A training step on a CUDA device: recorded or not, in the room that adapters of any rank find beside the weights, in
// 16 bits of both kinds, with dropout, and with layers that stay on the host.
#include <gtest/gtest.h>

#include <memory>
#include <tuple>
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

class CudaStep : public ::testing::TestWithParam<std::tuple<std::string, config::ComputeDType>> {
 protected:
  struct Run {
    std::unique_ptr<model::Transformer> model;
    std::unique_ptr<peft::AdapterState> state;
    double Step(const data::PackedBatch& batch, bool recompute = false, const model::DropoutKey& dropout = {}) const {
      return model->TrainStep(batch, 1.0 / static_cast<double>(batch.num_targets), dropout, recompute).value();
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
  static config::ComputeDType DType() { return std::get<1>(GetParam()); }
  struct How {
    uint32_t rank = 8;
    config::Precision precision = config::ComputeDType::kFp32;
    int64_t host_layers = 0;
    bool use_dora = false;
  };
  static Run Start(const std::string& device, const How& how) {
    Run run;
    auto files = model::ModelFiles::Open(testing::Files(), std::get<0>(GetParam())).value();
    config::AdapterOptions options;
    options.rank = how.rank;
    options.alpha = 2 * how.rank;
    options.use_dora = how.use_dora;
    std::vector<Target> targets = peft::PlanLora(options, files->LinearModules()).value();
    const at::Device place = model::ResolveDevice(device).value();
    run.model = model::Transformer::Load(std::move(files), how.precision, place, 2, how.host_layers).value();
    run.state = std::make_unique<peft::AdapterState>(std::move(targets), place);
    run.state->InitFresh(5, 0, "");
    // B too, that the gradients of A are not zero.
    for (const peft::StateEntry& entry : run.state->entries()) {
      const at::Tensor b = run.state->B(entry);
      b.copy_(at::sin(at::arange(b.numel(), at::kFloat)).view_as(b) * 0.05);
    }
    EXPECT_OK(run.model->SetTrained(run.state->Factors()));
    if (how.use_dora) {
      EXPECT_OK(run.model->ResetMagnitudes());
    }
    return run;
  }
};

TEST_P(CudaStep, ARecordedStepHasTheSameBits) {
  const Run once = Start("cuda", {.precision = DType()});
  const Run often = Start("cuda", {.precision = DType()});
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

TEST_P(CudaStep, ARecordedStepDrawsItsOwnMasks) {
  const Run once = Start("cuda", {.precision = DType()});
  const Run often = Start("cuda", {.precision = DType()});
  const data::PackedBatch batch = Batch({20, 30}, 1);
  std::vector<double> losses;
  for (const uint64_t key : {11U, 12U, 13U, 11U}) {
    const model::DropoutKey dropout = {.probability = 0.2, .key = key};
    losses.push_back(often.Step(batch, /*recompute=*/false, dropout));
    const at::Tensor gradient = often.Gradient();
    EXPECT_OK(once.model->SetTrained(once.state->Factors()));
    EXPECT_EQ(once.Step(batch, /*recompute=*/false, dropout), losses.back()) << key;
    EXPECT_TRUE(once.Gradient().equal(gradient)) << key;
  }
  EXPECT_EQ(often.model->recorded_steps(), 1);
  EXPECT_NE(losses[0], losses[1]);
  EXPECT_NE(losses[1], losses[2]);
  EXPECT_EQ(losses[0], losses[3]);
}

// The processor's step has the same masks.
TEST_P(CudaStep, DropoutAgreesWithTheProcessorsFp32) {
  const data::PackedBatch batch = Batch({20, 30, 9}, 1);
  const model::DropoutKey dropout = {.probability = 0.2, .key = 99};
  const Run here = Start("cpu", {});
  const double expected = here.Step(batch, /*recompute=*/false, dropout);
  const at::Tensor gradient = here.Gradient();
  const Run there = Start("cuda", {.precision = DType()});
  EXPECT_NEAR(there.Step(batch, /*recompute=*/false, dropout), expected, 0.01 * expected);
  EXPECT_LT(RelativeNorm(there.Gradient(), gradient), 0.05);
  const Run wide = Start("cuda", {});
  EXPECT_NEAR(wide.Step(batch, /*recompute=*/false, dropout), expected, 1e-5 * expected);
  EXPECT_LT(RelativeNorm(wide.Gradient(), gradient), 1e-4);
}

// Neither how many nor when a layer comes changes a bit, over weights of any kind, with magnitudes too.
TEST_P(CudaStep, LayersOnTheHostChangeNothing) {
  // Of as many tokens as the shape of a recorded step has: sums over padding would be others.
  const std::vector<data::PackedBatch> batches = {Batch({24, 40}, 1), Batch({9, 55}, 2), Batch({44, 20}, 3)};
  for (const config::BaseDType base : {config::BaseDType::kNf4, config::BaseDType::kInt8}) {
    for (const bool use_dora : {false, true}) {
      const config::Precision precision(DType(), base);
      const Run whole = Start("cuda", {.precision = precision, .use_dora = use_dora});
      const auto layers = whole.model->config().num_layers;
      for (int64_t count = 1; count <= layers; ++count) {
        const Run apart = Start("cuda", {.precision = precision, .host_layers = count, .use_dora = use_dora});
        Optimizer optimizer({.learning_rate = 1e-2});
        Optimizer same({.learning_rate = 1e-2});
        const Run fresh = Start("cuda", {.precision = precision, .use_dora = use_dora});
        for (size_t i = 0; i < batches.size(); ++i) {
          const bool recompute = i == 1;
          EXPECT_EQ(apart.Step(batches[i], recompute), fresh.Step(batches[i], recompute)) << count << " " << i;
          EXPECT_TRUE(apart.state->gradients().equal(fresh.state->gradients())) << count << " " << i;
          optimizer.Step(*apart.state, 1e-2, GradientNorm(*apart.state));
          same.Step(*fresh.state, 1e-2, GradientNorm(*fresh.state));
          apart.model->RefreshTrained();
          fresh.model->RefreshTrained();
          EXPECT_EQ(apart.model->Evaluate(batches[i]).value(), fresh.model->Evaluate(batches[i]).value());
        }
      }
    }
  }
}

// What is evaluated, and what a cache continues, with a frozen adapter with magnitudes beneath.
TEST_P(CudaStep, AnAdapterBeneathAndACacheOverLayersOnTheHost) {
  const config::Precision precision(DType(), config::BaseDType::kNf4);
  const Run frozen = Start("cuda", {.rank = 4, .precision = precision, .use_dora = true});
  std::vector<std::vector<double>> losses;
  std::vector<at::Tensor> logits;
  for (const int64_t count : {0, 1, 2}) {
    const Run run = Start("cuda", {.precision = precision, .host_layers = count});
    EXPECT_OK(run.model->SetBase(frozen.state->Factors(), model::BaseRoute::kByDtype));
    losses.push_back(run.model->Evaluate(Batch({20, 30}, 1)).value());
    const auto cache = run.model->NewCache({.num_sequences = 1, .capacity = 16}).value();
    for (const std::vector<int32_t>& ids : {std::vector<int32_t>{3, 9, 12}, {7}, {8}})
      logits.push_back(run.model->Continue({{.sequence = 0, .ids = ids}}, *cache).value());
  }
  EXPECT_EQ(losses[0], losses[1]);
  EXPECT_EQ(losses[0], losses[2]);
  for (size_t i = 3; i < logits.size(); ++i) EXPECT_TRUE(logits[i].equal(logits[i % 3])) << i;
}

TEST_P(CudaStep, LayersOnTheHostInTheirOwnType) {
  const data::PackedBatch batch = Batch({20, 30, 9}, 1);
  const Run here = Start("cpu", {});
  const double expected = here.Step(batch);
  const at::Tensor gradient = here.Gradient();
  const Run there = Start("cuda", {.precision = DType(), .host_layers = here.model->config().num_layers});
  EXPECT_GT(here.model->resident_bytes(), there.model->resident_bytes());
  EXPECT_NEAR(there.Step(batch), expected, 0.01 * expected);
  EXPECT_LT(RelativeNorm(there.Gradient(), gradient), 0.05);
  const Run wide = Start("cuda", {.host_layers = 1});
  EXPECT_NEAR(wide.Step(batch), expected, 1e-5 * expected);
  EXPECT_LT(RelativeNorm(wide.Gradient(), gradient), 1e-4);
  EXPECT_THAT(wide.model->SetBase({}, model::BaseRoute::kMerge), testing::StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_P(CudaStep, ARecordedStepReadsTheMagnitudesOfNow) {
  const Run once = Start("cuda", {.precision = DType(), .use_dora = true});
  const Run often = Start("cuda", {.precision = DType(), .use_dora = true});
  const data::PackedBatch batch = Batch({20, 30}, 1);
  Optimizer one({.learning_rate = 1e-2});
  Optimizer other({.learning_rate = 1e-2});
  for (int i = 0; i < 4; ++i) {
    EXPECT_OK(once.model->SetTrained(once.state->Factors()));  // forgets what was recorded
    EXPECT_EQ(once.Step(batch), often.Step(batch)) << i;
    EXPECT_TRUE(once.state->gradients().equal(often.state->gradients())) << i;
    one.Step(*once.state, 1e-2, GradientNorm(*once.state));
    other.Step(*often.state, 1e-2, GradientNorm(*often.state));
    once.model->RefreshTrained();
    often.model->RefreshTrained();
  }
  EXPECT_EQ(often.model->recorded_steps(), 1);
}

TEST_P(CudaStep, FactorsThatChangedAreTakenAnew) {
  const Run run = Start("cuda", {.precision = DType()});
  const data::PackedBatch batch = Batch({20, 30}, 1);
  Optimizer optimizer({.learning_rate = 1e-2});
  double first = 0;
  double last = 0;
  for (int i = 0; i < 8; ++i) {
    last = run.Step(batch);
    if (i == 0) first = last;
    optimizer.Step(*run.state, 1e-2, GradientNorm(*run.state));
    run.model->RefreshTrained();
  }
  EXPECT_EQ(run.model->recorded_steps(), 1);
  EXPECT_LT(last, 0.9 * first);
}

// Up to rank 16 there is room from the beginning, beyond weights move.
TEST_P(CudaStep, AnyRankAgreesWithTheProcessorsFp32) {
  const data::PackedBatch batch = Batch({20, 30, 9}, 1);
  for (const uint32_t rank : {3U, 16U, 40U, 8U}) {
    const Run here = Start("cpu", {.rank = rank});
    const Run there = Start("cuda", {.rank = rank, .precision = DType()});
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
  const Run wide = Start("cuda", {.rank = 40, .precision = DType()});
  const Run narrow = Start("cuda", {.rank = 4, .precision = DType()});
  const double before = narrow.Step(batch);
  EXPECT_OK(narrow.model->SetTrained(wide.state->Factors()));
  EXPECT_EQ(narrow.Step(batch), wide.Step(batch));
  EXPECT_OK(narrow.model->SetTrained(narrow.state->Factors()));
  EXPECT_EQ(narrow.Step(batch), before);
}

INSTANTIATE_TEST_SUITE_P(
    Models, CudaStep,
    ::testing::Combine(::testing::Values(testing::GoldenDir("models/llama"), testing::GoldenDir("models/small-qwen3"),
                                         testing::GoldenDir("models/small-gemma2")),
                       ::testing::Values(config::ComputeDType::kBf16, config::ComputeDType::kFp16)),
    [](const auto& info) {
      return testing::CaseName(std::get<0>(info.param)) + "_" +
             std::string(config::ComputeDTypeWord(std::get<1>(info.param)));
    });

}  // namespace
}  // namespace strata::train
