// The transformer against what HF transformers computed, in fp32, to the limits argued in the golden README.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <iostream>

#include "client/model/ops.h"
#include "client/model/transformer.h"
#include "tests/client/model/golden_batch.h"
#include "tests/client/model/test_device.h"
#include "tests/testing/golden.h"
#include "tests/testing/status_matchers.h"

namespace strata::model {
namespace {

using testing::AtTokens;
using testing::MaxDifference;
using testing::RelativeNorm;

std::unique_ptr<Transformer> Load(const std::string& path, config::ComputeDType dtype = config::ComputeDType::kFp32) {
  auto files = ModelFiles::Open(testing::Files(), path);
  EXPECT_THAT(files, testing::IsOk());
  if (!files.ok()) return nullptr;
  auto model = Transformer::Load(*std::move(files), dtype, testing::TestDevice(), 2);
  EXPECT_THAT(model, testing::IsOk());
  return model.ok() ? *std::move(model) : nullptr;
}

double MeanLoss(Transformer& model, const data::PackedBatch& batch) {
  const auto sums = model.Evaluate(batch);
  EXPECT_THAT(sums, testing::IsOk());
  double sum = 0;
  for (const double nll : *sums) sum += nll;
  return sum / static_cast<double>(batch.num_targets);
}

class ModelGolden : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    model_ = Load(GetParam());
    ASSERT_NE(model_, nullptr);
    expected_ = testing::OpenGolden(GetParam() + "/expected.safetensors");
    mask_ = testing::Tensor(expected_, "attention_mask");
    rows_ = testing::GoldenRows(testing::Tensor(expected_, "input_ids"), mask_, testing::Tensor(expected_, "labels"));
  }
  std::unique_ptr<Transformer> model_;
  format::Safetensors expected_;
  at::Tensor mask_;
  std::vector<data::Example> rows_;
};

TEST_P(ModelGolden, HiddenStatesLogitsLossAndContinuation) {
  const data::PackedBatch batch = testing::PackRows(rows_);
  ASSERT_OK_AND_ASSIGN(const Inspection seen, model_->Inspect(batch));
  for (size_t i = 0; i < seen.hidden.size(); ++i) {
    const at::Tensor expected = AtTokens(testing::Tensor(expected_, "hidden." + std::to_string(i)), mask_);
    EXPECT_LT(RelativeNorm(seen.hidden[i], expected), 5e-6) << "hidden." << i;
  }
  const at::Tensor logits = AtTokens(testing::Tensor(expected_, "logits"), mask_);
  std::cout << testing::CaseName(GetParam()) << ": logits differ by " << MaxDifference(seen.logits, logits)
            << ", relative norm " << RelativeNorm(seen.logits, logits) << "\n";
  EXPECT_LT(MaxDifference(seen.logits, logits), 5e-5);
  EXPECT_LT(RelativeNorm(seen.logits, logits), 5e-6);

  const at::Tensor ours = at::log_softmax(seen.logits, -1);
  const at::Tensor expected_logprobs = testing::Tensor(expected_, "logprobs");
  size_t token = 0;
  for (size_t b = 0; b < rows_.size(); ++b) {
    for (size_t t = 0; t + 1 < rows_[b].ids.size(); ++t) {
      const double got = ours[static_cast<int64_t>(token + t)][rows_[b].ids[t + 1]].item<double>();
      EXPECT_NEAR(got, expected_logprobs[static_cast<int64_t>(b)][rows_[b].position_ids[t]].item<double>(), 5e-5);
    }
    token += rows_[b].ids.size();
  }
  EXPECT_NEAR(MeanLoss(*model_, batch), testing::Tensor(expected_, "loss").item<double>(), 5e-6);

  const at::Tensor prompt = testing::Tensor(expected_, "greedy_prompt");
  const at::Tensor continuation = testing::Tensor(expected_, "greedy_ids");
  data::Example row;
  for (int64_t t = 0; t < prompt.size(1); ++t) row.ids.push_back(static_cast<int32_t>(prompt[0][t].item<int64_t>()));
  for (int64_t t = 0; t < continuation.size(1); ++t) {
    row.labels = row.ids;
    ASSERT_OK_AND_ASSIGN(const Inspection step, model_->Inspect(testing::PackRows({row})));
    row.ids.push_back(static_cast<int32_t>(step.logits[-1].argmax().item<int64_t>()));
    ASSERT_EQ(row.ids.back(), continuation[0][t].item<int64_t>()) << "continuation, token " << t;
  }
}

TEST_P(ModelGolden, PackingChangesNothing) {
  if (model_->config().rope.depends_on_length()) {
    GTEST_SKIP() << "the longest row of a batch decides over the frequencies";
  }
  const double packed = MeanLoss(*model_, testing::PackRows(rows_));
  double sum = 0;
  int64_t targets = 0;
  for (const data::Example& row : rows_) {
    const data::PackedBatch alone = testing::PackRows({row});
    sum += MeanLoss(*model_, alone) * static_cast<double>(alone.num_targets);
    targets += alone.num_targets;
  }
  EXPECT_NEAR(packed, sum / static_cast<double>(targets), 1e-6);
}

TEST_P(ModelGolden, ComposedOpsAgreeWithTheFusedOnes) {
  const data::PackedBatch batch = testing::PackRows(rows_);
  const double fused = MeanLoss(*model_, batch);
  UseComposedOps(true);
  const double composed = MeanLoss(*model_, batch);
  UseComposedOps(false);
  EXPECT_NEAR(fused, composed, 1e-6);
}

// bf16 rounds weights and activations to 8 bits: each logit (standard deviation 1.2) is off by about sqrt(layers *
// roundings) * 2^-9 of its size.
TEST_P(ModelGolden, Bf16StaysNear) {
  const auto model = Load(GetParam(), config::ComputeDType::kBf16);
  ASSERT_NE(model, nullptr);
  const data::PackedBatch batch = testing::PackRows(rows_);
  ASSERT_OK_AND_ASSIGN(const Inspection seen, model->Inspect(batch));
  EXPECT_LT(RelativeNorm(seen.logits, AtTokens(testing::Tensor(expected_, "logits"), mask_)), 0.03);
  EXPECT_NEAR(MeanLoss(*model, batch), testing::Tensor(expected_, "loss").item<double>(), 0.02);
}

INSTANTIATE_TEST_SUITE_P(Models, ModelGolden, ::testing::ValuesIn(testing::GoldenCases("models")),
                         [](const auto& info) { return testing::CaseName(info.param); });

// The files of the repository's subset and of the whole set.
std::vector<std::string> GgufCases() {
  std::vector<std::string> files;
  for (const std::string& folder : testing::GoldenCases("gguf")) {
    if (!std::filesystem::is_directory(folder)) continue;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      if (entry.path().extension() == ".gguf") files.push_back(entry.path().string());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

class GgufGolden : public ::testing::TestWithParam<std::string> {};

// The stored values are the same, so the limits are those of fp32.
TEST_P(GgufGolden, LogitsAndLoss) {
  const auto model = Load(GetParam());
  ASSERT_NE(model, nullptr);
  const format::Safetensors expected =
      testing::OpenGolden(std::filesystem::path(GetParam()).replace_extension("expected.safetensors"));
  const at::Tensor mask = testing::Tensor(expected, "attention_mask");
  const auto rows =
      testing::GoldenRows(testing::Tensor(expected, "input_ids"), mask, testing::Tensor(expected, "labels"));
  const data::PackedBatch batch = testing::PackRows(rows);
  ASSERT_OK_AND_ASSIGN(const Inspection seen, model->Inspect(batch));
  EXPECT_LT(MaxDifference(seen.logits, AtTokens(testing::Tensor(expected, "logits"), mask)), 5e-5);
  EXPECT_NEAR(MeanLoss(*model, batch), testing::Tensor(expected, "loss").item<double>(), 5e-6);
}

INSTANTIATE_TEST_SUITE_P(Files, GgufGolden, ::testing::ValuesIn(GgufCases()), [](const auto& info) {
  const std::filesystem::path path = info.param;
  return testing::CaseName(path.parent_path().filename().string() + "_" + path.stem().string());
});

TEST(Devices, WordsAndFallback) {
  EXPECT_THAT(ResolveDevice("auto"), testing::IsOk());
  EXPECT_THAT(ResolveDevice("gpu"), testing::StatusIs(absl::StatusCode::kInvalidArgument));
  const auto far = ResolveDevice("cuda:99");
  EXPECT_THAT(far, testing::StatusIs(absl::StatusCode::kFailedPrecondition, ::testing::HasSubstr("needed a driver")));
}

}  // namespace
}  // namespace strata::model
