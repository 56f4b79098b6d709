#include "client/data/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <set>
#include <string>

#include "common/runtime/posix_file_system.h"
#include "tests/testing/status_matchers.h"

namespace strata::data {
namespace {

using ::strata::testing::IsOk;
using ::strata::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr int32_t kBos = 1, kEos = 2;

// A letter a token; "$" is EOS.
class Letters : public Tokenizer {
 public:
  explicit Letters(std::optional<int32_t> eos = kEos) : eos_(eos) {}
  std::vector<int32_t> Encode(std::string_view text, bool add_special) const override {
    std::vector<int32_t> ids;
    if (add_special) ids.push_back(kBos);
    for (const char c : text) ids.push_back(c == '$' ? kEos : static_cast<unsigned char>(c));
    return ids;
  }
  std::string Decode(const std::vector<int32_t>& /*ids*/, bool /*skip_special*/) const override { return ""; }
  int32_t vocab_size() const override { return 256; }
  std::optional<int32_t> eos_id() const override { return eos_; }
  std::optional<int32_t> bos_id() const override { return kBos; }
  std::string Canonical() const override { return ""; }

 private:
  std::optional<int32_t> eos_;
};

absl::StatusOr<Dataset> Parse(std::string_view text, uint32_t max_length = 100, int64_t vocab_size = 256) {
  static const Letters letters;
  return ParseJsonl(text, "rows.jsonl", &letters, vocab_size, {.max_length = max_length});
}

TEST(Dataset, TextGetsSpecialTokensAndEos) {
  const auto dataset = Parse(R"({"text": "ab", "note": "other keys are nobody's business"})");
  ASSERT_THAT(dataset, IsOk());
  ASSERT_EQ(dataset->rows.size(), 1);
  EXPECT_THAT(dataset->rows[0].ids, ElementsAre(kBos, 'a', 'b', kEos));
  EXPECT_EQ(dataset->rows[0].labels, dataset->rows[0].ids);
  EXPECT_EQ(dataset->rows[0].num_targets(), 3);  // the first token is none
}

TEST(Dataset, EosIsNotDoubledAndNotInvented) {
  EXPECT_THAT(Parse(R"({"text": "a$"})")->rows[0].ids, ElementsAre(kBos, 'a', kEos));
  const Letters without_eos(std::nullopt);
  const auto dataset = ParseJsonl(R"({"text": "a"})", "x", &without_eos, 0, {});
  EXPECT_THAT(dataset->rows[0].ids, ElementsAre(kBos, 'a'));
}

TEST(Dataset, PromptIsMasked) {
  const auto dataset = Parse(R"({"prompt": "ab", "completion": "cd"})");
  ASSERT_THAT(dataset, IsOk());
  EXPECT_THAT(dataset->rows[0].ids, ElementsAre(kBos, 'a', 'b', 'c', 'd', kEos));
  EXPECT_THAT(dataset->rows[0].labels, ElementsAre(-100, -100, -100, 'c', 'd', kEos));
}

TEST(Dataset, IdsAreTakenAsTheyAre) {
  const auto dataset = Parse(
      "{\"input_ids\": [3, 4, 5], \"labels\": [-100, 4, -100], \"position_ids\": [0, 1, 7]}\r\n\n  \r\n{\"input_ids\": "
      "[8, 9]}");
  ASSERT_THAT(dataset, IsOk());
  ASSERT_EQ(dataset->rows.size(), 2);
  EXPECT_THAT(dataset->rows[0].labels, ElementsAre(-100, 4, -100));
  EXPECT_THAT(dataset->rows[0].position_ids, ElementsAre(0, 1, 7));
  EXPECT_THAT(dataset->rows[1].labels, ElementsAre(8, 9));
}

TEST(Dataset, WhatTheMaskCallsPaddingIsLeftOut) {
  const auto dataset =
      Parse(R"({"input_ids": [3, 4, 5, 0, 0], "attention_mask": [1, 1, 1, 0, 0]})"
            "\n"
            R"({"input_ids": [0, 3, 4, 5, 0], "labels": [0, 3, -100, 5, 0], "position_ids": [9, 1, 2, 4, 9],)"
            R"( "attention_mask": [0, 1, 1, 1, 0]})"
            "\n"
            R"({"input_ids": [3, 4], "attention_mask": [1, 1]})"
            "\n"
            R"({"input_ids": [3, 4], "attention_mask": [0, 0]})",
            3);
  ASSERT_THAT(dataset, IsOk());
  ASSERT_EQ(dataset->rows.size(), 3);
  EXPECT_THAT(dataset->rows[0].ids, ElementsAre(3, 4, 5));
  EXPECT_THAT(dataset->rows[0].labels, ElementsAre(3, 4, 5));
  EXPECT_THAT(dataset->rows[1].ids, ElementsAre(3, 4, 5));
  EXPECT_THAT(dataset->rows[1].labels, ElementsAre(3, -100, 5));
  EXPECT_THAT(dataset->rows[1].position_ids, ElementsAre(1, 2, 4));
  EXPECT_THAT(dataset->rows[2].ids, ElementsAre(3, 4));
  EXPECT_EQ(dataset->num_empty, 1);
  EXPECT_EQ(dataset->num_truncated, 0) << "padding counts for nothing";
}

TEST(Dataset, IdsNeedNoTokenizerButTextDoes) {
  EXPECT_THAT(ParseJsonl(R"({"input_ids": [1, 2]})", "x", nullptr, 0, {}), IsOk());
  EXPECT_THAT(ParseJsonl(R"({"text": "a"})", "x", nullptr, 0, {}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("x:1: a row of text")));
}

TEST(Dataset, LongRowsAreCutAndEmptyOnesLeftOutAndCounted) {
  const auto dataset = Parse(
      "{\"text\": \"abcdef\"}\n{\"prompt\": \"abcdef\", \"completion\": \"g\"}\n{\"input_ids\": []}\n{\"input_ids\": "
      "[5]}\n"
      "{\"input_ids\": [1, 2, 3], \"labels\": [1, -100, -100]}\n",
      4);
  ASSERT_THAT(dataset, IsOk());
  ASSERT_EQ(dataset->rows.size(), 1);
  EXPECT_THAT(dataset->rows[0].ids, ElementsAre(kBos, 'a', 'b', 'c'));
  EXPECT_EQ(dataset->num_truncated, 2);
  EXPECT_EQ(dataset->num_empty, 4);
}

TEST(Dataset, LongRowsAreSplitAndCounted) {
  static const Letters letters;
  const auto dataset = ParseJsonl(
      "{\"text\": \"abcdef\"}\n{\"prompt\": \"abcdef\", \"completion\": \"g\"}\n{\"input_ids\": [7, 8]}\n"
      "{\"input_ids\": [1, 2, 3, 4, 5, 6], \"labels\": [1, 2, -100, -100, -100, 6], "
      "\"position_ids\": [0, 1, 2, 9, 10, 11]}\n",
      "rows.jsonl", &letters, 256, {.max_length = 4, .split_long_rows = true});
  ASSERT_THAT(dataset, IsOk());
  ASSERT_EQ(dataset->rows.size(), 6);
  EXPECT_THAT(dataset->rows[0].ids, ElementsAre(kBos, 'a', 'b', 'c'));
  EXPECT_THAT(dataset->rows[1].ids, ElementsAre('d', 'e', 'f', kEos));
  // The prompt's first piece has no target.
  EXPECT_THAT(dataset->rows[2].ids, ElementsAre('d', 'e', 'f', 'g'));
  EXPECT_EQ(dataset->rows[2].num_targets(), 1);
  EXPECT_THAT(dataset->rows[3].ids, ElementsAre(7, 8));
  EXPECT_THAT(dataset->rows[4].labels, ElementsAre(1, 2, kIgnored, kIgnored));
  EXPECT_THAT(dataset->rows[5].ids, ElementsAre(5, 6));
  EXPECT_THAT(dataset->rows[5].position_ids, ElementsAre(10, 11));
  EXPECT_EQ(dataset->num_split, 3);
  EXPECT_EQ(dataset->num_truncated, 0);
  EXPECT_EQ(dataset->num_empty, 0);
  EXPECT_THAT(NotesOn(*dataset), ElementsAre("3 rows are longer than max_length and were split"));
}

TEST(Dataset, EveryFaultIsNamedWithItsLine) {
  const auto dataset = Parse(
      "nonsense\n"
      "[1]\n"
      "\n"
      "{\"words\": \"a\"}\n"
      "{\"text\": 7}\n"
      "{\"text\": \"a\", \"input_ids\": [1]}\n"
      "{\"prompt\": \"a\"}\n"
      "{\"input_ids\": [1, 2.5]}\n"
      "{\"input_ids\": [1, 256]}\n"
      "{\"input_ids\": [1, 99999999999999999999]}\n"
      "{\"input_ids\": [1, -1]}\n"
      "{\"input_ids\": [1], \"labels\": [1, 2]}\n"
      "{\"input_ids\": [1], \"position_ids\": []}\n"
      "{\"text\": \"\xff\"}\n"
      "{\"text\": \"a good one\"}\n"
      "{\"input_ids\": [1, 2, 3], \"attention_mask\": [1, 0, 1]}\n"
      "{\"input_ids\": [1, 2], \"attention_mask\": [1]}\n"
      "{\"input_ids\": [1, 2], \"attention_mask\": [1, 2]}\n");
  ASSERT_THAT(dataset, StatusIs(absl::StatusCode::kInvalidArgument));
  const std::string message(dataset.status().message());
  for (const char* fault :
       {"rows.jsonl:1: no valid JSON", "rows.jsonl:2: an object is expected", "rows.jsonl:4: none of the forms",
        "rows.jsonl:5: 'text' must be a string, found number", "rows.jsonl:6: more than one of the forms",
        "rows.jsonl:7: 'completion' is missing", "rows.jsonl:8: 'input_ids'[1] must be an integer",
        "rows.jsonl:9: 'input_ids'[1] is 256, outside [0, 256)", "rows.jsonl:10: 'input_ids'[1]",
        "rows.jsonl:11: 'input_ids'[1] is -1", "rows.jsonl:12: 1 input_ids, but 2 labels",
        "rows.jsonl:13: 1 input_ids, but 0 position_ids", "rows.jsonl:14: no valid JSON",
        "rows.jsonl:16: 'attention_mask'[1] is 0 between ones", "rows.jsonl:17: 2 input_ids, but 1 of attention_mask",
        "rows.jsonl:18: 'attention_mask'[1] is 2, outside [0, 2)"}) {
    EXPECT_THAT(message, HasSubstr(fault));
  }
  EXPECT_THAT(message, Not(HasSubstr(":15:")));
}

TEST(Dataset, FaultsBeyondTwentyAreCounted) {
  std::string text;
  for (int i = 0; i < 25; ++i) text += "x\n";
  const std::string message(Parse(text).status().message());
  EXPECT_THAT(message, AllOf(HasSubstr("rows.jsonl:20:"), HasSubstr("5 more bad rows"), Not(HasSubstr(":21:"))));
}

TEST(Dataset, TokensBeyondTheModelsVocabularyAreFaults) {
  EXPECT_THAT(Parse(R"({"text": "z"})", 100, 100), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("id 122")));
}

TEST(Dataset, ReadsFiles) {
  const std::string path = ::testing::TempDir() + "/dataset_test.jsonl";
  runtime::PosixFileSystem files;
  const Letters letters;
  std::ofstream(path) << "{\"text\": \"a\"}\n";
  EXPECT_EQ(ReadDataset(files, path, &letters, 0, {})->rows.size(), 1);
  std::ofstream(path) << "";
  const auto empty = ReadDataset(files, path, &letters, 0, {});
  ASSERT_THAT(empty, IsOk());
  EXPECT_THAT(empty->rows, IsEmpty());
  std::filesystem::remove(path);
  EXPECT_THAT(ReadDataset(files, path, &letters, 0, {}), StatusIs(absl::StatusCode::kNotFound, HasSubstr(path)));
}

std::vector<Example> Numbered(int n) {
  std::vector<Example> rows(n);
  for (int i = 0; i < n; ++i) rows[i].ids = rows[i].labels = {i, i + 1};
  return rows;
}

std::set<int32_t> FirstIds(const Rows& rows) {
  std::set<int32_t> ids;
  for (size_t i = 0; i < rows.size(); ++i) ids.insert(rows[i].ids[0]);
  return ids;
}

TEST(Split, SideDependsOnTheRowAlone) {
  const auto [train, held_out] = Rows(Numbered(2000)).Split(0.1, 7);
  EXPECT_EQ(train.size() + held_out.size(), 2000);
  EXPECT_NEAR(static_cast<double>(held_out.size()), 200, 45);
  auto shuffled = Numbered(2000);
  std::reverse(shuffled.begin(), shuffled.end());
  EXPECT_EQ(FirstIds(Rows(shuffled).Split(0.1, 7).second), FirstIds(held_out));
  EXPECT_NE(FirstIds(Rows(shuffled).Split(0.1, 8).second), FirstIds(held_out));
}

TEST(Split, NothingAndEverything) {
  EXPECT_THAT(Rows(Numbered(50)).Split(0, 1).second, IsEmpty());
  EXPECT_THAT(Rows(Numbered(50)).Split(1, 1).first, IsEmpty());
}

TEST(BatchOrder, FileOrderWithAShortLastBatch) {
  const BatchOrder order(5, 2, false, 0, 0, "");
  EXPECT_EQ(order.steps_per_epoch(), 3);
  EXPECT_THAT(order.Rows(0), ElementsAre(0, 1));
  EXPECT_THAT(order.Rows(2), ElementsAre(4));
  EXPECT_THAT(order.Rows(3), ElementsAre(0, 1));
}

std::vector<uint32_t> Epoch(const BatchOrder& order, uint64_t epoch) {
  std::vector<uint32_t> rows;
  for (uint64_t step = 0; step < order.steps_per_epoch(); ++step) {
    const auto batch = order.Rows(epoch * order.steps_per_epoch() + step);
    rows.insert(rows.end(), batch.begin(), batch.end());
  }
  return rows;
}

TEST(BatchOrder, EveryEpochIsAnotherPermutation) {
  const BatchOrder order(100, 8, true, 3, 1, "site-a");
  auto first = Epoch(order, 0);
  const auto second = Epoch(order, 1);
  EXPECT_NE(first, second);
  EXPECT_EQ(Epoch(BatchOrder(100, 8, true, 3, 1, "site-a"), 1), second);  // whatever was asked before
  EXPECT_NE(Epoch(BatchOrder(100, 8, true, 3, 1, "site-b"), 0), first);
  EXPECT_NE(Epoch(BatchOrder(100, 8, true, 3, 2, "site-a"), 0), first);
  EXPECT_NE(Epoch(BatchOrder(100, 8, true, 4, 1, "site-a"), 0), first);
  std::sort(first.begin(), first.end());
  std::vector<uint32_t> all(100);
  std::iota(all.begin(), all.end(), 0U);
  EXPECT_EQ(first, all);
}

TEST(BatchOrder, NoRows) {
  const BatchOrder order(0, 4, true, 0, 0, "");
  EXPECT_EQ(order.steps_per_epoch(), 0);
  EXPECT_THAT(order.Rows(3), IsEmpty());
}

TEST(Pack, TargetsStayInsideTheirDocument) {
  Example a, b;
  a.ids = {10, 11, 12};
  a.labels = {10, -100, 12};
  b.ids = {20, 21};
  b.labels = {20, 21};
  b.position_ids = {5, 6};
  const PackedBatch packed = Pack({&a, &b});
  EXPECT_THAT(packed.ids, ElementsAre(10, 11, 12, 20, 21));
  EXPECT_THAT(packed.targets, ElementsAre(-100, 12, -100, 21, -100));
  EXPECT_THAT(packed.positions, ElementsAre(0, 1, 2, 5, 6));
  EXPECT_THAT(packed.starts, ElementsAre(0, 3, 5));
  EXPECT_EQ(packed.num_targets, 2);
  EXPECT_EQ(packed.num_targets, a.num_targets() + b.num_targets());
}

}  // namespace
}  // namespace strata::data
