// The native trainer on a small model: fresh and warm rounds, C_t by either route, reproducibility, schedules.
#include "client/train/native_trainer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "client/peft/adapter_state.h"
#include "client/peft/lora_plan.h"
#include "client/peft/warm_start.h"
#include "client/train/evaluation.h"
#include "client/train/schedule.h"
#include "common/adapter/adapter.h"
#include "tests/client/model/golden_batch.h"
#include "tests/client/train/small_run.h"
#include "tests/testing/golden.h"
#include "tests/testing/status_matchers.h"

namespace strata::train {
namespace {

using testing::Bytes;
using ::testing::HasSubstr;
using testing::Metric;
using testing::SmallModel;
using testing::SmallRequest;
using testing::SmallTrainer;

std::shared_ptr<const adapter::Adapter> SomeAdapter(const std::string& name) {
  auto read = adapter::ReadPeft(testing::Files(), testing::GoldenDir("lora/" + name));
  EXPECT_THAT(read, testing::IsOk());
  return std::make_shared<const adapter::Adapter>(std::move(read->first));
}

at::Tensor Matrix(const format::TensorView& view) {
  at::Tensor out = at::empty(view.shape, at::kDouble);
  EXPECT_OK(format::ToDouble(view, {out.data_ptr<double>(), static_cast<size_t>(out.numel())}));
  return out;
}
at::Tensor Product(const adapter::Factors& f) { return at::mm(Matrix(f.b), Matrix(f.a)) * f.scaling; }

TEST(NativeTrainerTest, LearnsAndIsReproducible) {
  NativeTrainer trainer = SmallTrainer();
  const TrainRequest request = SmallRequest();
  uint32_t steps = 0;
  ASSERT_OK_AND_ASSIGN(const TrainResult first, trainer.Run(request, [&](const TrainProgress& p) {
    EXPECT_EQ(p.of, 3U);
    EXPECT_EQ(p.step, ++steps);
    return true;
  }));
  EXPECT_EQ(steps, 3U);
  EXPECT_LT(Metric(first, "loss_after"), Metric(first, "loss_before"));
  EXPECT_GT(first.num_examples, 10U);
  EXPECT_GT(Metric(first, "heldout_tokens"), 0);
  ASSERT_OK_AND_ASSIGN(const TrainResult again, trainer.Run(request, nullptr));
  NativeTrainer other = SmallTrainer();
  ASSERT_OK_AND_ASSIGN(const TrainResult elsewhere, other.Run(request, nullptr));
  EXPECT_EQ(Bytes(*first.update), Bytes(*again.update));
  EXPECT_EQ(Bytes(*first.update), Bytes(*elsewhere.update));
}

TEST(NativeTrainerTest, PackingAndDtypeChangeOnlyRounding) {
  NativeTrainer trainer = SmallTrainer();
  TrainRequest request = SmallRequest();
  ASSERT_OK_AND_ASSIGN(const TrainResult rows, trainer.Run(request, nullptr));
  request.options.pack = true;
  ASSERT_OK_AND_ASSIGN(const TrainResult packed, trainer.Run(request, nullptr));
  EXPECT_NEAR(Metric(rows, "train_loss_last"), Metric(packed, "train_loss_last"), 1e-4);
  request.options.dtype = config::ComputeDType::kBf16;
  ASSERT_OK_AND_ASSIGN(const TrainResult low, trainer.Run(request, nullptr));
  EXPECT_NEAR(Metric(rows, "train_loss_last"), Metric(low, "train_loss_last"), 0.05);
  ASSERT_OK_AND_ASSIGN(const TrainResult low_again, trainer.Run(request, nullptr));
  EXPECT_EQ(Bytes(*low.update), Bytes(*low_again.update));
}

TEST(NativeTrainerTest, LearnsOverAQuantisedBase) {
  if (testing::TestDeviceName() != "cpu" && !model::HasCudaKernels()) GTEST_SKIP() << "no kernels for it in this build";
  for (const config::BaseDType base : {config::BaseDType::kInt8, config::BaseDType::kNf4}) {
    NativeTrainer trainer = SmallTrainer();
    TrainRequest request = SmallRequest();
    request.options.steps = 30;
    request.options.base_dtype = base;
    ASSERT_OK_AND_ASSIGN(const TrainResult first, trainer.Run(request, nullptr));
    EXPECT_LT(Metric(first, "loss_after"), Metric(first, "loss_before") - 0.5) << config::BaseDTypeWord(base);
    EXPECT_LT(Metric(first, "train_loss_last"), Metric(first, "train_loss_first") - 0.5);
    request.options.gradient_checkpointing = true;
    ASSERT_OK_AND_ASSIGN(const TrainResult again, trainer.Run(request, nullptr));
    EXPECT_EQ(Bytes(*first.update), Bytes(*again.update));
  }
}

// What a round adds stands beside the codes: C_t of two blobs, and none again.
TEST(NativeTrainerTest, AFrozenAdapterStandsBesideQuantisedWeights) {
  ASSERT_OK_AND_ASSIGN(auto files, model::ModelFiles::Open(testing::Files(), SmallModel()));
  ASSERT_OK_AND_ASSIGN(
      auto model,
      model::Transformer::Load(std::move(files), {config::ComputeDType::kBf16, config::BaseDType::kNf4}, at::kCPU, 2));
  const data::PackedBatch batch =
      testing::PackRows({{.ids = {3, 8, 13, 18, 23}, .labels = {3, 8, 13, 18, 23}, .position_ids = {}}});
  ASSERT_OK_AND_ASSIGN(const auto pristine, model->Inspect(batch));
  ASSERT_OK_AND_ASSIGN(const auto frozen, peft::FrozenFactors(*SomeAdapter("llama-plain"), at::kCPU));
  ASSERT_OK(model->SetBase(frozen, model::BaseRoute::kByDtype));
  ASSERT_OK_AND_ASSIGN(const auto adapted, model->Inspect(batch));
  EXPECT_GT(testing::MaxDifference(adapted.logits, pristine.logits), 0.05);
  ASSERT_OK(model->SetBase({}, model::BaseRoute::kByDtype));
  ASSERT_OK(model->SetTrained(frozen));
  ASSERT_OK_AND_ASSIGN(const auto trained, model->Inspect(batch));
  EXPECT_LT(testing::MaxDifference(adapted.logits, trained.logits), 5e-5);
}

TEST(NativeTrainerTest, DropoutIsReproducibleAndChangesTheRun) {
  NativeTrainer trainer = SmallTrainer();
  TrainRequest request = SmallRequest();
  ASSERT_OK_AND_ASSIGN(const TrainResult plain, trainer.Run(request, nullptr));
  request.options.adapter.dropout = 0.2;
  ASSERT_OK_AND_ASSIGN(const TrainResult first, trainer.Run(request, nullptr));
  ASSERT_OK_AND_ASSIGN(const TrainResult again, trainer.Run(request, nullptr));
  EXPECT_EQ(Bytes(*first.update), Bytes(*again.update));
  EXPECT_NE(Bytes(*first.update), Bytes(*plain.update));
  EXPECT_NEAR(Metric(first, "train_loss_last"), Metric(plain, "train_loss_last"), 0.5);
}

TEST(NativeTrainerTest, SideColumnsEqualMergedWeightsInFp32) {
  ASSERT_OK_AND_ASSIGN(auto files, model::ModelFiles::Open(testing::Files(), SmallModel()));
  ASSERT_OK_AND_ASSIGN(
      auto model, model::Transformer::Load(std::move(files), config::ComputeDType::kFp32, testing::TestDevice(), 2));
  data::Example row;
  for (int i = 0; i < 40; ++i) row.ids.push_back(3 + i * 5 % 200);
  row.labels = row.ids;
  const data::PackedBatch batch = testing::PackRows({row});
  ASSERT_OK_AND_ASSIGN(const auto pristine, model->Inspect(batch));
  std::vector<model::NamedFactors> base;
  for (const char* name : {"llama-plain", "llama-pattern"}) {
    ASSERT_OK_AND_ASSIGN(auto part, peft::FrozenFactors(*SomeAdapter(name), testing::TestDevice()));
    base.insert(base.end(), part.begin(), part.end());
  }
  ASSERT_OK(model->SetBase(base, model::BaseRoute::kSide));
  ASSERT_OK_AND_ASSIGN(const auto side, model->Inspect(batch));
  ASSERT_OK(model->SetBase(base, model::BaseRoute::kMerge));
  ASSERT_OK_AND_ASSIGN(const auto merged, model->Inspect(batch));
  EXPECT_GT(testing::MaxDifference(side.logits, pristine.logits), 0.05);
  EXPECT_LT(testing::MaxDifference(side.logits, merged.logits), 5e-5);
  ASSERT_OK(model->SetBase({}, model::BaseRoute::kByDtype));
  ASSERT_OK_AND_ASSIGN(const auto back, model->Inspect(batch));
  EXPECT_EQ(testing::MaxDifference(back.logits, pristine.logits), 0) << "merging must start from the pristine weights";
}

TEST(NativeTrainerTest, WarmStartTrainsTheStrongestDirections) {
  NativeTrainer trainer = SmallTrainer();
  TrainRequest request = SmallRequest();
  request.base = {SomeAdapter("llama-pattern"), SomeAdapter("llama-plain")};
  ASSERT_OK_AND_ASSIGN(const TrainResult fresh, trainer.Run(request, nullptr));
  request.start = config::Start::kWarm;
  ASSERT_OK_AND_ASSIGN(const TrainResult warm, trainer.Run(request, nullptr));
  // Both begin at W0 + C_t.
  EXPECT_NEAR(Metric(fresh, "loss_before"), Metric(warm, "loss_before"), 1e-5);
  EXPECT_LT(Metric(warm, "loss_after"), Metric(warm, "loss_before"));
  // W0 + C_t + the increment computes what the site computed after its last step.
  ASSERT_OK_AND_ASSIGN(auto files, model::ModelFiles::Open(testing::Files(), SmallModel()));
  ASSERT_OK_AND_ASSIGN(
      auto model, model::Transformer::Load(std::move(files), config::ComputeDType::kFp32, testing::TestDevice(), 2));
  std::vector<model::NamedFactors> all;
  for (const auto& blob : request.base) {
    ASSERT_OK_AND_ASSIGN(auto part, peft::FrozenFactors(*blob, testing::TestDevice()));
    all.insert(all.end(), part.begin(), part.end());
  }
  ASSERT_OK_AND_ASSIGN(auto part, peft::FrozenFactors(*warm.update, testing::TestDevice()));
  all.insert(all.end(), part.begin(), part.end());
  ASSERT_OK(model->SetBase(all, model::BaseRoute::kByDtype));
  ASSERT_OK_AND_ASSIGN(data::Dataset rows, data::ReadDataset(testing::Files(), request.data_path, nullptr, 256, {}));
  const auto held_out = rows.rows.Split(request.holdout, request.seed).second;
  ASSERT_OK_AND_ASSIGN(const EvaluationResult evaluation, EvaluateRows(*model, held_out, nullptr));
  EXPECT_NEAR(evaluation.loss, Metric(warm, "loss_after"), 1e-5);
}

TEST(WarmStartTest, IncrementIsTheExactDifferenceOfTheProducts) {
  const auto base = SomeAdapter("llama-pattern");
  TrainRequest request = SmallRequest();
  peft::AdapterState state(request.targets, at::kCPU);
  ASSERT_OK_AND_ASSIGN(const auto frozen, peft::SplitWarm({base}, state, 1, 2, "beta"));
  const peft::WarmOrigin origin = peft::RememberOrigin(state);
  const adapter::Adapter before = state.ToAdapter();
  // What is trained and what is frozen add up to C_t.
  for (const adapter::Factors& f : base->modules()) {
    at::Tensor sum = Product(*before.Find(f.module));
    for (const model::NamedFactors& named : frozen) {
      if (named.module == f.module)
        sum += at::mm(named.factors.b.to(at::kDouble), named.factors.a.to(at::kDouble)) * named.factors.scaling;
    }
    EXPECT_LT((sum - Product(f)).norm().item<double>(), 1e-6 * Product(f).norm().item<double>()) << f.module;
  }
  for (int64_t i = 0; i < state.values().numel(); ++i)
    state.values().data_ptr<float>()[i] += 1e-4F * static_cast<float>(i % 17 - 8);
  const adapter::Adapter after = state.ToAdapter();
  const adapter::Adapter increment = peft::Increment(state, origin);
  for (const adapter::Factors& f : increment.modules()) {
    const at::Tensor expected = Product(*after.Find(f.module)) - Product(*before.Find(f.module));
    EXPECT_LT((Product(f) - expected).norm().item<double>(), 1e-6 * expected.norm().item<double>()) << f.module;
  }
}

TEST(NativeTrainerTest, EvaluatesWithoutTraining) {
  NativeTrainer trainer = SmallTrainer();
  TrainRequest request = SmallRequest();
  request.base = {SomeAdapter("llama-plain")};
  request.train = false;
  ASSERT_OK_AND_ASSIGN(const TrainResult result, trainer.Run(request, nullptr));
  EXPECT_EQ(result.update, nullptr);
  EXPECT_GT(Metric(result, "loss_before"), 0);
}

TEST(NativeTrainerTest, SaysWhatIsWrong) {
  NativeTrainer trainer = SmallTrainer();
  TrainRequest request = SmallRequest();
  EXPECT_THAT(trainer.Run(request, [](const TrainProgress&) { return false; }),
              testing::StatusIs(absl::StatusCode::kCancelled, HasSubstr("after step 1")));
  request.targets[0].in += 1;
  EXPECT_THAT(trainer.Run(request, nullptr),
              testing::StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("q_proj")));
  request = SmallRequest();
  request.targets[0].module = "model.layers.9.self_attn.q_proj";
  EXPECT_THAT(trainer.Run(request, nullptr),
              testing::StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("layers.9")));
  request = SmallRequest();
  request.data_path = "/nowhere.jsonl";
  EXPECT_THAT(trainer.Run(request, nullptr), testing::StatusIs(absl::StatusCode::kNotFound, HasSubstr("alpha")));
  request = SmallRequest();
  request.options.optimizer.learning_rate = 1e30;
  request.options.steps = 10;
  EXPECT_THAT(trainer.Run(request, nullptr),
              testing::StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("learning_rate")));
}

// Values printed by transformers' get_scheduler for base rate 1: warm-up 3 of 10 steps.
TEST(ScheduleTest, AsTransformers) {
  const double cosine[] = {0,
                           1.0 / 3,
                           2.0 / 3,
                           1,
                           0.9504844339512095,
                           0.8117449009293668,
                           0.6112604669781572,
                           0.3887395330218429,
                           0.1882550990706332,
                           0.04951556604879043};
  for (uint64_t step = 0; step < 10; ++step) {
    const double linear = step < 3 ? static_cast<double>(step) / 3 : static_cast<double>(10 - step) / 7;
    EXPECT_DOUBLE_EQ(ScheduleFactor(config::Schedule::kLinear, step, 3, 10), linear);
    EXPECT_NEAR(ScheduleFactor(config::Schedule::kCosine, step, 3, 10), cosine[step], 1e-15);
    EXPECT_DOUBLE_EQ(ScheduleFactor(config::Schedule::kConstant, step, 3, 10),
                     step < 3 ? static_cast<double>(step) / 3 : 1);
  }
  EXPECT_EQ(ScheduleFactor(config::Schedule::kLinear, 0, 0, 5), 1);
  EXPECT_EQ(ScheduleFactor(config::Schedule::kLinear, 5, 0, 5), 0);
}

TEST(PlanTest, InitialisationIsUniformWithinPeftsBound) {
  peft::AdapterState state(SmallRequest().targets, testing::TestDevice());
  state.InitFresh(3, 0, "x");
  for (const peft::StateEntry& e : state.entries()) {
    const double bound = 1 / std::sqrt(static_cast<double>(e.target.in));
    const at::Tensor a = state.A(e).to(at::kDouble);
    EXPECT_LE(a.abs().max().item<double>(), bound);
    EXPECT_NEAR(a.std().item<double>(), bound / std::sqrt(3.0), 0.1 * bound);
    EXPECT_EQ(state.B(e).abs().max().item<double>(), 0);
  }
}

}  // namespace
}  // namespace strata::train
