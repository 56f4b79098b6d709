// What the options of a step promise: accumulation, recomputation, non-finite steps, and a run that goes on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <span>

#include "client/peft/adapter_state.h"
#include "client/train/training_loop.h"
#include "tests/client/model/model_folder.h"
#include "tests/client/train/small_run.h"

namespace strata::train {
namespace {

using ::testing::AllOf;
using testing::Bytes;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::Metric;
using ::testing::Not;
using testing::SmallRequest;
using testing::SmallTrainer;
using testing::StatusIs;

// In no row of the data.
constexpr int32_t kRareToken = 300;

// The losses of a run, one a step.
absl::StatusOr<std::vector<double>> Losses(NativeTrainer& trainer, const TrainRequest& request, std::string* bytes) {
  std::vector<double> losses;
  auto result = trainer.Run(request, [&](const TrainProgress& p) {
    losses.push_back(p.loss);
    return true;
  });
  if (!result.ok()) return result.status();
  *bytes = Bytes(*result->update);
  return losses;
}

TEST(GradientAccumulation, EqualsOneBatchThatManyTimesAsLarge) {
  NativeTrainer trainer = SmallTrainer();
  TrainRequest request = SmallRequest();
  request.options.adapter.dropout = 0.1;
  request.options.steps = 7;  // past the end of an epoch, whose last step is short
  request.options.batch_size = 8;
  std::string whole;
  ASSERT_OK_AND_ASSIGN(const std::vector<double> expected, Losses(trainer, request, &whole));
  request.options.batch_size = 2;
  request.options.gradient_accumulation_steps = 4;
  std::string parts;
  ASSERT_OK_AND_ASSIGN(const std::vector<double> losses, Losses(trainer, request, &parts));
  EXPECT_EQ(losses, expected);
  EXPECT_EQ(parts, whole);
}

TEST(GradientAccumulation, PackedBatchesDifferByRoundingOnly) {
  NativeTrainer trainer = SmallTrainer();
  TrainRequest request = SmallRequest();
  request.options.pack = true;
  request.options.batch_size = 8;
  std::string bytes;
  ASSERT_OK_AND_ASSIGN(const std::vector<double> expected, Losses(trainer, request, &bytes));
  request.options.batch_size = 2;
  request.options.gradient_accumulation_steps = 4;
  ASSERT_OK_AND_ASSIGN(const std::vector<double> losses, Losses(trainer, request, &bytes));
  ASSERT_EQ(losses.size(), expected.size());
  for (size_t i = 0; i < losses.size(); ++i) EXPECT_NEAR(losses[i], expected[i], 1e-5);
}

TEST(GradientAccumulation, EpochsCountItsSteps) {
  config::TrainOptions options;
  options.batch_size = 2;
  options.gradient_accumulation_steps = 3;
  options.epochs = 2;
  EXPECT_EQ(NumSteps(options, 20), 8U);  // 6 + 6 + 6 + 2 rows, twice
}

TEST(GradientCheckpointing, GivesTheSameBytes) {
  NativeTrainer trainer = SmallTrainer();
  for (const config::ComputeDType dtype : {config::ComputeDType::kFp32, config::ComputeDType::kBf16}) {
    // The first group with an adapter decides where the backward pass ends.
    for (const char* first : {"q_proj", "o_proj", "down_proj"}) {
      TrainRequest request = SmallRequest();
      request.options.dtype = dtype;
      request.options.pack = true;
      request.options.adapter.dropout = 0.2;
      while (request.targets.front().module.find(first) == std::string::npos)
        request.targets.erase(request.targets.begin());
      std::string kept;
      ASSERT_OK_AND_ASSIGN(const std::vector<double> expected, Losses(trainer, request, &kept));
      request.options.gradient_checkpointing = true;
      std::string recomputed;
      ASSERT_OK_AND_ASSIGN(const std::vector<double> losses, Losses(trainer, request, &recomputed));
      EXPECT_EQ(losses, expected);
      EXPECT_EQ(recomputed, kept);
    }
  }
}

// One training loop with its parts in the open.
class NonFinite : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(auto files, model::ModelFiles::Open(testing::Files(), request_.model_path));
    ASSERT_OK_AND_ASSIGN(
        model_, model::Transformer::Load(std::move(files), config::ComputeDType::kFp32, testing::TestDevice(), 2));
    ASSERT_OK_AND_ASSIGN(rows_, data::ReadDataset(testing::Files(), request_.data_path, nullptr, 256, {}));
    state_ = std::make_unique<peft::AdapterState>(request_.targets, testing::TestDevice());
    state_->InitFresh(1, 0, "");
    request_.options.steps = 6;
  }
  absl::StatusOr<LoopSummary> Run(const std::function<bool(const TrainProgress&)>& on_progress = nullptr) {
    notes_.clear();
    const LoopContext context{.model = *model_,
                              .state = *state_,
                              .clock = clock_,
                              .seed = 7,
                              .round = 0,
                              .site = {},
                              .on_note = [&](const TrainNote& note) { notes_.push_back(note); }};
    return RunTraining(context, request_.options, rows_.rows, on_progress);
  }
  std::vector<std::vector<float>> Buffers() const {
    std::vector<std::vector<float>> all;
    for (const at::Tensor* t : {&state_->values(), &state_->first_moments(), &state_->second_moments()})
      all.push_back(peft::ToVector(*t));
    return all;
  }
  void BreakRow(size_t row);
  // Finite, but its products are not.
  void Overflow() { state_->values().fill_(1e25F); }
  void Poison() { state_->A(state_->entries()[5])[1][2] = std::numeric_limits<float>::infinity(); }

  TrainRequest request_ = SmallRequest();
  runtime::SystemClock clock_;
  std::unique_ptr<model::Transformer> model_;
  data::Dataset rows_;
  std::unique_ptr<peft::AdapterState> state_;
  std::vector<TrainNote> notes_;
};

TEST_F(NonFinite, StopNamesTheStepAndChangesNothing) {
  Poison();
  const auto before = Buffers();
  EXPECT_THAT(Run(), StatusIs(absl::StatusCode::kOutOfRange,
                              HasSubstr("step 1: the loss is not finite: the adapter that it starts from holds")));
  EXPECT_EQ(Buffers(), before);
  EXPECT_EQ(state_->gradients().count_nonzero().item<int64_t>(), 0);
}

// A gradient can overflow where the loss does not: an enormous scaling of a B that is still zero.
TEST_F(NonFinite, AGradientIsNamedByItsModule) {
  request_.targets[3].scaling = 1e38;
  request_.targets[3].alpha = 1e38;
  state_ = std::make_unique<peft::AdapterState>(request_.targets, testing::TestDevice());
  state_->InitFresh(1, 0, "");
  state_->A(state_->entries()[3]).mul_(1e6);
  EXPECT_THAT(Run(),
              StatusIs(absl::StatusCode::kOutOfRange,
                       HasSubstr("step 1: the gradient of " + request_.targets[3].module + " (B) is not finite")));
}

// A token whose embedding is no number stands in one row of the data.
void NonFinite::BreakRow(size_t row) {
  model::ModelFolder folder("llama");
  folder.Replace("config.json", "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false");
  std::string broken;
  folder.Edit("model.safetensors", [&](std::vector<format::TensorView>& tensors) {
    const auto embedding = std::find_if(tensors.begin(), tensors.end(), [](const format::TensorView& t) {
      return t.name == "model.embed_tokens.weight";
    });
    format::TensorView head = *embedding;
    head.name = "lm_head.weight";
    broken.assign(reinterpret_cast<const char*>(embedding->data.data()), embedding->data.size());
    const auto row_bytes = embedding->data.size() / static_cast<size_t>(embedding->shape[0]);
    std::fill_n(broken.begin() + static_cast<std::ptrdiff_t>(kRareToken * row_bytes), row_bytes, '\xff');
    embedding->data = std::as_bytes(std::span(broken));
    tensors.push_back(std::move(head));
  });
  ASSERT_OK_AND_ASSIGN(auto files, folder.Open());
  ASSERT_OK_AND_ASSIGN(
      model_, model::Transformer::Load(std::move(files), config::ComputeDType::kFp32, testing::TestDevice(), 2));
  std::vector<data::Example> rows;
  for (size_t i = 0; i < rows_.rows.size(); ++i) rows.push_back(rows_.rows[i]);
  rows[row].ids[3] = kRareToken;
  rows_.rows = data::Rows(rows);
  request_.options.shuffle = false;
}

TEST_F(NonFinite, WeightsThatAreNoNumbersAreNamed) {
  BreakRow(0);
  const auto damage =
      StatusIs(absl::StatusCode::kOutOfRange,
               AllOf(HasSubstr("tensor 'model.embed_tokens.weight' of /m/model.safetensors holds elements that are not "
                               "finite"),
                     Not(HasSubstr("learning_rate"))));
  EXPECT_THAT(Run(), damage);
  request_.options.on_non_finite = config::NonFinitePolicy::kHalveScale;
  EXPECT_THAT(Run(), damage);
  request_.options.on_non_finite = config::NonFinitePolicy::kSkip;
  request_.options.steps = 1;
  EXPECT_THAT(Run(), damage);
}

TEST_F(NonFinite, SkipPassesOverTheStep) {
  BreakRow(9);  // of the third step
  request_.options.steps = 2;
  const std::vector<float> start = Buffers()[0];
  ASSERT_OK(Run());
  const auto after_two = Buffers();

  const auto again = [&](uint32_t steps, std::vector<uint32_t>* reported) {
    state_ = std::make_unique<peft::AdapterState>(request_.targets, testing::TestDevice());
    state_->InitFresh(1, 0, "");
    EXPECT_EQ(Buffers()[0], start);
    request_.options.steps = steps;
    return Run([reported](const TrainProgress& p) {
      reported->push_back(p.step);
      return std::isfinite(p.loss);
    });
  };
  request_.options.on_non_finite = config::NonFinitePolicy::kSkip;
  std::vector<uint32_t> reported;
  ASSERT_OK(again(3, &reported));
  EXPECT_EQ(Buffers(), after_two) << "neither parameters nor moments know of the third step";
  reported.clear();
  ASSERT_OK_AND_ASSIGN(const LoopSummary summary, again(5, &reported));
  EXPECT_THAT(reported, ElementsAre(1, 2, 4, 5));
  EXPECT_EQ(summary.position.steps, 5U);
  EXPECT_EQ(summary.position.updates, 4U);
  ASSERT_EQ(notes_.size(), 1U);
  EXPECT_EQ(notes_[0].kind, TrainNote::Kind::kNonFinite);
  EXPECT_EQ(notes_[0].step, 3U);
}

TEST_F(NonFinite, SkippingEveryStepIsAnError) {
  request_.options.on_non_finite = config::NonFinitePolicy::kSkip;
  Poison();
  EXPECT_THAT(Run(), StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("nothing was trained")));
  EXPECT_EQ(notes_.size(), 6U);
}

TEST_F(NonFinite, HalveScaleTakesTheUpdateBackUntilTheNextStepIsFinite) {
  request_.options.on_non_finite = config::NonFinitePolicy::kHalveScale;
  request_.options.optimizer.learning_rate = 1e20;
  std::vector<TrainProgress> steps;
  ASSERT_OK_AND_ASSIGN(const LoopSummary summary, Run([&](const TrainProgress& p) {
                         steps.push_back(p);
                         return true;
                       }));
  EXPECT_EQ(summary.position.updates, 6U);
  ASSERT_GT(notes_.size(), 0U);
  EXPECT_EQ(notes_[0].step, 2U) << "the first update is what was too large";
  EXPECT_EQ(summary.position.rate_scale, std::ldexp(1.0, -static_cast<int>(notes_.size())));
  EXPECT_EQ(steps.size(), 6U + notes_.size());
  EXPECT_EQ(steps[1].step, 1U);
  EXPECT_EQ(steps[1].loss, steps[0].loss) << "the step is done again from where it was";
  EXPECT_EQ(steps[1].learning_rate, steps[0].learning_rate / 2);
  EXPECT_EQ(steps.back().learning_rate, 1e20 * summary.position.rate_scale);
}

TEST_F(NonFinite, HalveScaleEndsWhereThereIsNothingToTakeBack) {
  request_.options.on_non_finite = config::NonFinitePolicy::kHalveScale;
  Overflow();
  const auto before = Buffers();
  EXPECT_THAT(Run(), StatusIs(absl::StatusCode::kOutOfRange,
                              AllOf(HasSubstr("no update to take back; weights and adapter are finite"),
                                    HasSubstr("look at the adapters that it starts from"))));
  EXPECT_EQ(Buffers(), before);
}

TEST_F(NonFinite, AStartThatOverflowsIsNotBlamedOnTheLearningRate) {
  Overflow();
  EXPECT_THAT(Run(), StatusIs(absl::StatusCode::kOutOfRange,
                              AllOf(HasSubstr("step 1: the loss is not finite; weights and adapter are finite"),
                                    ::testing::Not(HasSubstr("learning_rate")))));
}

TEST_F(NonFinite, HalveScaleGivesUp) {
  request_.options.on_non_finite = config::NonFinitePolicy::kHalveScale;
  request_.options.optimizer.learning_rate = 1e30;
  EXPECT_THAT(Run(), StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("halved 20 times")));
  EXPECT_EQ(notes_.size(), 20U);
}

// The daemon's side: an assignment that a new process finds begun.
class Resumed : public ::testing::Test {
 protected:
  Resumed() {
    folder_ = std::filesystem::temp_directory_path() / ("strata-resumed-" + std::to_string(getpid()));
    std::filesystem::remove_all(folder_);
    request_.work_directory = folder_;
    request_.run = "a1";
    request_.options.steps = 8;
    request_.options.checkpoint_steps = 3;
    request_.options.adapter.dropout = 0.1;
  }
  ~Resumed() override { std::filesystem::remove_all(folder_); }
  // A process that ends in step `stop`; 0: that comes to its end.
  absl::StatusOr<TrainResult> Run(uint32_t stop = 0) {
    NativeTrainer trainer = SmallTrainer();
    first_ = 0;
    return trainer.Run(request_, [&](const TrainProgress& p) {
      if (first_ == 0) first_ = p.step;
      losses_[p.step] = p.loss;
      return p.step != stop;
    });
  }
  TrainRequest request_ = SmallRequest();
  std::string folder_;
  uint32_t first_ = 0;  // the first step that the last process did
  std::map<uint32_t, double> losses_;
};

TEST_F(Resumed, AnAssignmentGoesOnBitForBit) {
  for (const config::Start start : {config::Start::kFresh, config::Start::kWarm}) {
    request_.start = start;
    request_.run = "";
    ASSERT_OK_AND_ASSIGN(const TrainResult whole, Run());
    const auto expected = std::exchange(losses_, {});
    request_.run = start == config::Start::kFresh ? "a1" : "b2";
    EXPECT_THAT(Run(5), StatusIs(absl::StatusCode::kCancelled));
    ASSERT_OK_AND_ASSIGN(const TrainResult rest, Run());
    EXPECT_EQ(first_, 4U);
    EXPECT_EQ(losses_, expected);
    EXPECT_EQ(Bytes(*rest.update), Bytes(*whole.update));
    for (const char* name : {"loss_before", "loss_after", "train_loss_first", "train_loss_last", "tokens"})
      EXPECT_EQ(Metric(rest, name), Metric(whole, name)) << name;
  }
}

TEST_F(Resumed, AnotherAssignmentBeginsAnew) {
  EXPECT_THAT(Run(5), StatusIs(absl::StatusCode::kCancelled));
  request_.run = "c3";
  ASSERT_OK(Run());
  EXPECT_EQ(first_, 1U);
}

}  // namespace
}  // namespace strata::train
