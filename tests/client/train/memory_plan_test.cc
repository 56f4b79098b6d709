// What a training is said to take, and what is chosen to make it fit.
#include "client/train/memory_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/model/model_tensors.h"
#include "client/model/transformer.h"
#include "client/peft/adapter_state.h"
#include "client/train/training_loop.h"
#include "common/status/cat.h"
#include "tests/client/model/model_folder.h"
#include "tests/client/train/small_run.h"

namespace strata::train {
namespace {

using ::testing::HasSubstr;
using testing::StatusIs;

class MemoryPlanTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(model_, model::ModelFiles::Open(testing::Files(), testing::SmallModel()));
    run_.options = testing::SmallRequest().options;
    run_.options.pack = true;
    run_.options.batch_size = 64;
    run_.options.max_length = 256;
    run_.targets = testing::SmallRequest().targets;
  }
  uint64_t Peak(const StepShape& shape) { return NeedsOf(*model_, run_, shape).peak(); }

  std::unique_ptr<model::ModelFiles> model_;
  PlannedRun run_;
};

TEST_F(MemoryPlanTest, WeightsAndAdapterAreWhatTheyTurnOutToBe) {
  for (const config::BaseDType base :
       {config::BaseDType::kFp32, config::BaseDType::kBf16, config::BaseDType::kInt8, config::BaseDType::kNf4}) {
    run_.options.base_dtype = base;
    ASSERT_OK_AND_ASSIGN(auto files, model::ModelFiles::Open(testing::Files(), testing::SmallModel()));
    ASSERT_OK_AND_ASSIGN(auto model, model::Transformer::Load(std::move(files), run_.options.precision(), at::kCPU, 1));
    const double weights = static_cast<double>(NeedsOf(*model_, run_, {}).weights);
    EXPECT_NEAR(weights, static_cast<double>(model->resident_bytes()), 0.02 * weights) << config::BaseDTypeWord(base);
  }
  for (const bool use_dora : {false, true}) {
    for (Target& target : run_.targets) target.use_dora = use_dora;
    const peft::AdapterState state(run_.targets, at::kCPU);
    EXPECT_EQ(NumParameters(run_.targets), state.ToAdapter().num_parameters());
  }
}

TEST_F(MemoryPlanTest, LayersBelowTheTrainedOnesKeepNothing) {
  const std::vector<uint64_t> activations = [&] {
    std::vector<uint64_t> of;
    for (int64_t first = 0; first < model_->config().num_layers; ++first) {
      of.push_back(NeedsOf(*model_, run_, {}).activations);
      const std::string lowest = model::LayerPrefix(model::FamilyOf(model_->config()), first);
      std::erase_if(run_.targets, [&](const Target& t) { return t.module.starts_with(lowest); });
    }
    return of;
  }();
  EXPECT_TRUE(run_.targets.empty());
  const uint64_t untrained = NeedsOf(*model_, run_, {}).activations;
  ASSERT_GE(activations.size(), 2U);
  const uint64_t layer = activations[0] - activations[1];
  // More than the residual stream and the gate's two outputs in 16 bits.
  const auto& config = model_->config();
  EXPECT_GT(layer, static_cast<uint64_t>(kMicroBatchTokens * 2 * (config.hidden_size + 2 * config.intermediate_size)));
  for (size_t first = 1; first < activations.size(); ++first)
    EXPECT_EQ(activations[first - 1] - activations[first], layer) << first;
  // The adapter's columns beside those of a layer are few.
  EXPECT_NEAR(static_cast<double>(activations.back() - untrained), static_cast<double>(layer),
              0.1 * static_cast<double>(layer));
}

TEST_F(MemoryPlanTest, WithoutALimitTheOptionsDecide) {
  ASSERT_OK_AND_ASSIGN(const StepShape plain, ChooseShape(*model_, run_));
  EXPECT_FALSE(plain.recompute);
  EXPECT_EQ(plain.micro_batch_tokens, kMicroBatchTokens);
  run_.options.gradient_checkpointing = true;
  ASSERT_OK_AND_ASSIGN(const StepShape asked, ChooseShape(*model_, run_));
  EXPECT_TRUE(asked.recompute);
}

TEST_F(MemoryPlanTest, SmallerMicroBatchesComeBeforeRecomputation) {
  const auto choose = [&](uint64_t limit) {
    run_.options.max_memory = limit;
    return ChooseShape(*model_, run_);
  };
  ASSERT_OK_AND_ASSIGN(const StepShape whole, choose(Peak({})));
  EXPECT_EQ(whole.micro_batch_tokens, kMicroBatchTokens);
  ASSERT_OK_AND_ASSIGN(const StepShape smaller, choose(Peak({}) - 1));
  EXPECT_EQ(smaller.micro_batch_tokens, kMicroBatchTokens / 2);
  EXPECT_FALSE(smaller.recompute);
  const StepShape one_row{.micro_batch_tokens = 256, .recompute = false};
  const StepShape least{.micro_batch_tokens = 256, .recompute = true};
  ASSERT_LT(Peak(least), Peak(one_row));
  ASSERT_OK_AND_ASSIGN(const StepShape recomputed, choose(Peak(one_row) - 1));
  EXPECT_TRUE(recomputed.recompute);
  EXPECT_EQ(run_.options.base_dtype, config::BaseDType::kFp32);
  EXPECT_THAT(choose(Peak(least) - 1), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("max_memory")));
}

TEST_F(MemoryPlanTest, ABaseOfFewerBytesIsTheLastResort) {
  const StepShape least{.micro_batch_tokens = 256, .recompute = true};
  const auto peak = [&](config::BaseDType base) {
    run_.options.base_dtype = base;
    return Peak(least);
  };
  const auto chosen = [&](uint64_t limit) -> std::string_view {
    run_.options.base_dtype.reset();
    run_.options.max_memory = limit;
    return ChooseShape(*model_, run_).ok() ? config::BaseDTypeWord(*run_.options.base_dtype) : "none fits";
  };
  const uint64_t fp32 = peak(config::BaseDType::kFp32), bf16 = peak(config::BaseDType::kBf16),
                 int8 = peak(config::BaseDType::kInt8), nf4 = peak(config::BaseDType::kNf4);
  EXPECT_EQ(chosen(fp32), "fp32");
  EXPECT_EQ(chosen(fp32 - 1), "bf16");
  EXPECT_EQ(chosen(bf16 - 1), "int8");
  EXPECT_EQ(chosen(int8 - 1), "nf4");
  EXPECT_EQ(chosen(nf4 - 1), "none fits");
  run_.options.device = "cuda:0";
  const uint64_t on_device = peak(config::BaseDType::kFp32);
  EXPECT_EQ(chosen(on_device), "fp32");
  // Elsewhere in memory that all layers share, which this small model is dwarfed by.
  EXPECT_EQ(chosen(on_device - 1), "none fits");
}

TEST_F(MemoryPlanTest, FrozenFactorsCountAsTheModelTakesThem) {
  const auto with = [&](config::ComputeDType compute, config::BaseDType base) {
    run_.options.dtype = compute;
    run_.options.base_dtype = base;
    return NeedsOf(*model_, run_, {});
  };
  const auto fp32 = config::ComputeDType::kFp32;
  const uint64_t merged_before = with(fp32, config::BaseDType::kFp32).activations;
  const uint64_t folded_before = with(fp32, config::BaseDType::kInt8).activations;
  run_.frozen = run_.targets;
  const uint64_t factors = sizeof(float) * NumParameters(run_.frozen);
  uint64_t scaled = 0;
  for (const Target& t : run_.frozen) scaled += sizeof(float) * static_cast<uint64_t>(t.rank * t.out);
  const MemoryNeeds merged = with(fp32, config::BaseDType::kFp32);
  EXPECT_EQ(merged.frozen, factors);
  EXPECT_EQ(merged.activations, merged_before);
  const MemoryNeeds folded = with(fp32, config::BaseDType::kInt8);
  EXPECT_EQ(folded.frozen, factors + scaled);
  EXPECT_EQ(folded.activations, folded_before);
  // On a device they are columns.
  run_.options.device = "cuda:0";
  const MemoryNeeds columns = with(config::ComputeDType::kBf16, config::BaseDType::kBf16);
  EXPECT_EQ(columns.frozen, factors + scaled + factors / 2);
  run_.frozen.clear();
  const MemoryNeeds without = with(config::ComputeDType::kBf16, config::BaseDType::kBf16);
  EXPECT_GT(columns.activations, without.activations);
  EXPECT_EQ(columns.peak() - without.peak(), columns.frozen + columns.activations - without.activations);
}

TEST_F(MemoryPlanTest, ARunCountsWhatItIsGivenToFreeze) {
  NativeTrainer trainer = testing::SmallTrainer();
  TrainRequest request = testing::SmallRequest();
  request.options.base_dtype = config::BaseDType::kFp32;
  run_ = {.options = request.options, .targets = request.targets};
  run_.options.device = DeviceOf(testing::TestDeviceName());
  request.options.max_memory = Peak({.micro_batch_tokens = 1, .recompute = true});
  ASSERT_OK_AND_ASSIGN(TrainResult first, trainer.Run(request, nullptr));
  request.base = {std::shared_ptr<const adapter::Adapter>(std::move(first.update))};
  EXPECT_THAT(trainer.Run(request, nullptr), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("max_memory")));
  // A warm start takes them for its own.
  request.start = config::Start::kWarm;
  EXPECT_OK(trainer.Run(request, nullptr).status());
}

TEST_F(MemoryPlanTest, LayersOnTheHostVisitTwoPlaces) {
  run_.options.device = "cuda:0";
  const auto weights = [&](int64_t host_layers) {
    return static_cast<int64_t>(NeedsOf(*model_, run_, {.host_layers = host_layers}).weights);
  };
  // As many as have a place spare nothing.
  EXPECT_EQ(weights(1), weights(0));
  EXPECT_EQ(weights(2), weights(0));
  EXPECT_LT(weights(3), weights(2));
  EXPECT_EQ(weights(2) - weights(3), weights(3) - weights(4));
  EXPECT_GT(NeedsOf(*model_, run_, {.host_layers = 3}).host, 0U);
  run_.options.host_layers = 1000;
  EXPECT_THAT(ChooseShape(*model_, run_), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("found 1000")));
  run_.options.device = "cpu";
  EXPECT_THAT(ChooseShape(*model_, run_), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("CUDA devices")));
}

// On a device, for which nothing but its name is needed: a model of six layers.
class HostLayersPlanTest : public MemoryPlanTest {
 protected:
  void SetUp() override {
    MemoryPlanTest::SetUp();
    folder_.Replace("config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 6");
    folder_.Edit("model.safetensors", [](std::vector<format::TensorView>& tensors) {
      const std::string last = "layers.1.";
      const size_t count = tensors.size();
      for (size_t i = 0; i < count; ++i) {
        const size_t at = tensors[i].name.find(last);
        if (at == std::string::npos) continue;
        for (int layer = 2; layer < kLayers; ++layer) {
          format::TensorView copy = tensors[i];
          copy.name.replace(at, last.size(), Cat("layers.", layer, "."));
          tensors.push_back(std::move(copy));
        }
      }
    });
    ASSERT_OK_AND_ASSIGN(model_, model::ModelFiles::Open(folder_.files(), "/m"));
    ASSERT_EQ(model_->config().num_layers, kLayers);
    run_.options.device = "cuda:0";
    run_.options.base_dtype = config::BaseDType::kFp32;
    run_.cuda_kernels = true;
  }
  uint64_t PeakWith(int64_t host_layers) {
    return Peak({.micro_batch_tokens = 256, .recompute = true, .host_layers = host_layers});
  }
  absl::StatusOr<StepShape> Choose(uint64_t limit) {
    run_.options.max_memory = limit;
    return ChooseShape(*model_, run_);
  }

  static constexpr int64_t kLayers = 6;
  model::ModelFolder folder_{"llama"};
};

// Two layers have places on the device in any case, so that three are the fewest that spare memory.
TEST_F(HostLayersPlanTest, NoMoreLayersGoToTheHostThanItTakes) {
  ASSERT_OK_AND_ASSIGN(const StepShape none, Choose(PeakWith(0)));
  EXPECT_EQ(none.host_layers, 0);
  for (int64_t n = 3; n <= kLayers; ++n) {
    SCOPED_TRACE(n);
    ASSERT_LT(PeakWith(n), PeakWith(n - 1));
    for (const uint64_t limit : {PeakWith(n), PeakWith(n - 1) - 1}) {
      ASSERT_OK_AND_ASSIGN(const StepShape chosen, Choose(limit));
      EXPECT_EQ(chosen.host_layers, n);
      EXPECT_TRUE(chosen.recompute);
      EXPECT_EQ(chosen.micro_batch_tokens, 256U);
      EXPECT_THAT(FittedNote(chosen, run_.options.precision()).detail, HasSubstr(Cat("host_layers ", n)));
    }
  }
  EXPECT_THAT(Choose(PeakWith(kLayers) - 1), StatusIs(absl::StatusCode::kResourceExhausted));
}

TEST_F(HostLayersPlanTest, WhatIsAskedForIsTheFewest) {
  run_.options.host_layers = 5;
  ASSERT_OK_AND_ASSIGN(const StepShape asked, Choose(PeakWith(0)));
  EXPECT_EQ(asked.host_layers, 5);
  ASSERT_OK_AND_ASSIGN(const StepShape more, Choose(PeakWith(5) - 1));
  EXPECT_EQ(more.host_layers, 6);
}

TEST_F(HostLayersPlanTest, WithoutKernelsOrADeviceNoLayerGoesThere) {
  const uint64_t limit = PeakWith(0) - 1;
  run_.cuda_kernels = false;
  EXPECT_THAT(Choose(limit), StatusIs(absl::StatusCode::kResourceExhausted));
  run_.cuda_kernels = true;
  EXPECT_OK(Choose(limit));
  run_.options.device = "cpu";
  EXPECT_THAT(Choose(PeakWith(0) - 1), StatusIs(absl::StatusCode::kResourceExhausted));
}

TEST_F(MemoryPlanTest, ALimitChangesNoLossBeyondRounding) {
  NativeTrainer trainer = testing::SmallTrainer();
  TrainRequest request = testing::SmallRequest();
  request.options.pack = true;
  request.options.max_length = 16;
  request.options.batch_size = 24;
  ASSERT_OK_AND_ASSIGN(const TrainResult free, trainer.Run(request, nullptr));
  run_ = {.options = request.options, .targets = request.targets};
  request.options.max_memory = Peak({.micro_batch_tokens = 32, .recompute = true});
  ASSERT_OK_AND_ASSIGN(const TrainResult fitted, trainer.Run(request, nullptr));
  EXPECT_NEAR(testing::Metric(fitted, "train_loss_last"), testing::Metric(free, "train_loss_last"), 1e-4);
}

}  // namespace
}  // namespace strata::train
