// Texts of the golden models: what is written does not depend on what is written beside it.
#include "client/generate/generator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/client/model/golden_batch.h"
#include "tests/testing/golden.h"
#include "tests/testing/status_matchers.h"

namespace strata::generate {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;

// "<id>" a token.
class Numbers : public data::Tokenizer {
 public:
  std::vector<int32_t> Encode(std::string_view, bool) const override { return {}; }
  std::string Decode(const std::vector<int32_t>& ids, bool) const override {
    std::string text;
    for (const int32_t id : ids) text += "<" + std::to_string(id) + ">";
    return text;
  }
  int32_t vocab_size() const override { return 1 << 20; }
  std::optional<int32_t> eos_id() const override { return std::nullopt; }
  std::optional<int32_t> bos_id() const override { return std::nullopt; }
  std::string Canonical() const override { return ""; }
};

using Prompts = std::vector<std::vector<int32_t>>;

class GeneratorTest : public ::testing::Test {
 protected:
  void SetUp() override { Load("llama"); }
  void Load(const std::string& name) {
    auto files = model::ModelFiles::Open(testing::Files(), testing::GoldenDir("models/" + name));
    ASSERT_THAT(files, IsOk());
    auto model = model::Transformer::Load(*std::move(files), config::ComputeDType::kFp32, at::kCPU, 1);
    ASSERT_THAT(model, IsOk());
    model_ = *std::move(model);
  }

  absl::StatusOr<std::vector<Generated>> Texts(const Prompts& prompts, const GenerateOptions& options) {
    std::vector<Generated> texts;
    std::vector<std::string> streamed(prompts.size());
    GenerateEvents events;
    events.keep_going = [&] { return --steps_left_ != 0; };
    events.on_text = [&](size_t prompt, std::string_view piece) {
      streamed[prompt] += piece;
      return absl::OkStatus();
    };
    events.on_done = [&](size_t prompt, const Generated& text) {
      EXPECT_EQ(prompt, texts.size());
      EXPECT_EQ(streamed[prompt], text.text);
      texts.push_back(text);
      return absl::OkStatus();
    };
    const absl::Status status = Generate(*model_, Numbers(), prompts, options, events);
    if (!status.ok()) return status;
    return texts;
  }

  std::unique_ptr<model::Transformer> model_;
  int steps_left_ = 0;  // 0: no end
};

const Prompts kPrompts = {{1, 5, 9}, {7}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, {300, 4}, {1, 5, 9}};

TEST_F(GeneratorTest, TextsDoNotDependOnTheirCompany) {
  GenerateOptions options{.max_new_tokens = 20, .sampling = {.temperature = 1}, .seed = 3};
  options.batch_size = 1;
  ASSERT_OK_AND_ASSIGN(const auto alone, Texts(kPrompts, options));
  options.batch_size = 3;
  ASSERT_OK_AND_ASSIGN(const auto together, Texts(kPrompts, options));
  ASSERT_EQ(alone.size(), kPrompts.size());
  for (size_t i = 0; i < alone.size(); ++i) EXPECT_EQ(alone[i].text, together[i].text) << i;
  EXPECT_NE(alone[0].text, alone[4].text) << "the same prompt again draws anew";
  ASSERT_OK_AND_ASSIGN(const auto again, Texts(kPrompts, options));
  EXPECT_EQ(again[2].text, together[2].text);
  options.seed = 4;
  ASSERT_OK_AND_ASSIGN(const auto other, Texts(kPrompts, options));
  EXPECT_NE(other[2].text, together[2].text);
}

TEST_F(GeneratorTest, GreedyTextsAreTheReferences) {
  for (const char* name : {"llama", "small-gemma2", "small-gpt2", "small-qwen3", "small-mistral",
                           // its text grows beyond the positions that have the short factors
                           "small-phi3-longrope"}) {
    Load(name);
    const auto expected =
        testing::OpenGolden(testing::GoldenDir("models/" + std::string(name) + "/expected.safetensors"));
    const auto ids = [&](const char* tensor) {
      const at::Tensor row = testing::Tensor(expected, tensor)[0];
      std::vector<int32_t> out;
      for (int64_t t = 0; t < row.size(0); ++t) out.push_back(static_cast<int32_t>(row[t].item<int64_t>()));
      return out;
    };
    const std::vector<int32_t> greedy = ids("greedy_ids");
    ASSERT_OK_AND_ASSIGN(const auto texts,
                         Texts({{5, 6}, ids("greedy_prompt"), {7}}, {.max_new_tokens = greedy.size()}));
    EXPECT_EQ(texts[1].text, Numbers().Decode(greedy, true)) << name;
    EXPECT_EQ(texts[1].num_tokens, greedy.size());
    EXPECT_EQ(texts[1].finish, FinishReason::kLength);
  }
}

TEST_F(GeneratorTest, EndTokensAndStopStringsEndAText) {
  const GenerateOptions free{.max_new_tokens = 12, .sampling = {.temperature = 1}, .seed = 1};
  ASSERT_OK_AND_ASSIGN(const auto whole, Texts({{1, 5, 9}}, free));
  std::vector<int32_t> ids;
  for (size_t at = 0; at < whole[0].text.size(); at = whole[0].text.find('>', at) + 1) {
    ids.push_back(std::stoi(whole[0].text.substr(at + 1)));
  }
  ASSERT_EQ(ids.size(), 12);
  ASSERT_EQ(std::count(ids.begin(), ids.begin() + 6, ids[5]), 1);
  const std::string before = Numbers().Decode({ids.begin(), ids.begin() + 5}, true);

  GenerateOptions ending = free;
  ending.end_ids = {9999, ids[5]};
  ASSERT_OK_AND_ASSIGN(const auto ended, Texts({{1, 5, 9}}, ending));
  EXPECT_EQ(ended[0].text, before);
  EXPECT_EQ(ended[0].num_tokens, 6);
  EXPECT_EQ(ended[0].finish, FinishReason::kStop);

  GenerateOptions stopping = free;
  stopping.stops = {"no such", "><" + std::to_string(ids[5]) + ">"};
  ASSERT_OK_AND_ASSIGN(const auto stopped, Texts({{1, 5, 9}}, stopping));
  EXPECT_EQ(stopped[0].text + ">", before);
  EXPECT_EQ(stopped[0].num_tokens, 6);
  EXPECT_EQ(stopped[0].finish, FinishReason::kStop);
}

TEST_F(GeneratorTest, PromptsFitTheContext) {
  const auto context = static_cast<size_t>(model_->config().max_positions);
  ASSERT_OK_AND_ASSIGN(const auto texts, Texts({std::vector<int32_t>(context - 3, 1)}, {.max_new_tokens = 50}));
  EXPECT_EQ(texts[0].num_tokens, 3);
  EXPECT_EQ(texts[0].finish, FinishReason::kLength);
  EXPECT_THAT(
      Texts({{1}, std::vector<int32_t>(context, 1)}, {}),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("prompt 2: a prompt of 256 tokens; from 1 to 255")));
  EXPECT_THAT(Texts({{}}, {}), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Texts({{320}}, {}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("vocabulary of 320")));
  EXPECT_THAT(Texts({}, {}), IsOk());
}

TEST_F(GeneratorTest, StopsWhenAsked) {
  steps_left_ = 4;
  EXPECT_THAT(Texts({{1}}, {.max_new_tokens = 50}), StatusIs(absl::StatusCode::kCancelled));
}

// A longest text that stretches the frequencies must not do so for others.
TEST_F(GeneratorTest, DynamicScalingSeesOneTextAtATime) {
  Load("small-llama-dynamic");
  const auto original = static_cast<size_t>(model_->config().rope.original_max_positions);
  const GenerateOptions options{.max_new_tokens = 8};
  const std::vector<int32_t> longer(original + 4, 3);
  ASSERT_OK_AND_ASSIGN(const auto alone, Texts({{1, 5, 9}}, options));
  ASSERT_OK_AND_ASSIGN(const auto beside, Texts({longer, {1, 5, 9}}, options));
  EXPECT_EQ(beside[1].text, alone[0].text);
}

}  // namespace
}  // namespace strata::generate
