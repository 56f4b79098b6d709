#include "client/data/rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zstd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "client/data/dataset.h"
#include "client/data/lines.h"
#include "common/runtime/posix_file_system.h"
#include "tests/testing/status_matchers.h"

namespace strata::data {
namespace {

using ::strata::testing::IsOk;
using ::strata::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class RowsOnDisk : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = ::testing::TempDir() + "/rows_test";
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string Write(const std::string& name, const std::string& content) const {
    std::ofstream(folder_ + "/" + name, std::ios::binary) << content;
    return folder_ + "/" + name;
  }
  static std::string Compressed(const std::string& text) {
    std::string out(ZSTD_compressBound(text.size()), '\0');
    out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
    return out;
  }
  std::vector<std::string> AllLines(const std::string& path) {
    auto mapping = files_.Map(path);
    EXPECT_THAT(mapping, IsOk());
    const std::unique_ptr<Lines> lines = LinesOf(*std::move(mapping), path);
    std::vector<std::string> all;
    while (true) {
      const auto line = lines->Next();
      EXPECT_THAT(line, IsOk());
      if (!line.ok() || !line->has_value()) return all;
      all.emplace_back(**line);
    }
  }
  std::string folder_;
  runtime::PosixFileSystem files_;
};

Example Row(int32_t first, size_t length) {
  Example row;
  for (size_t i = 0; i < length; ++i) row.ids.push_back(first + static_cast<int32_t>(i));
  row.labels = row.ids;
  if (first % 2 == 0) row.labels[0] = kIgnored;
  if (first % 3 == 0) row.position_ids.assign(length, 7);
  return row;
}

TEST_F(RowsOnDisk, WhatIsSpilledReadsBackAndLeavesNoFile) {
  const std::string scratch = folder_ + "/scratch";
  RowsBuilder builder(&files_, {.scratch = scratch, .max_resident_bytes = 1000});
  for (int32_t i = 0; i < 500; ++i) ASSERT_THAT(builder.Add(Row(i, 1 + i % 17)), IsOk());
  absl::StatusOr<Rows> rows;
  {
    RowsBuilder last(std::move(builder));
    rows = std::move(last).Finish();
  }
  ASSERT_THAT(rows, IsOk());
  EXPECT_TRUE(rows->is_spilled());
  EXPECT_TRUE(std::filesystem::is_empty(scratch));
  ASSERT_EQ(rows->size(), 500);
  for (const int32_t i : {0, 1, 6, 250, 499}) {
    const Example expected = Row(i, 1 + i % 17), row = (*rows)[i];
    EXPECT_EQ(row.ids, expected.ids);
    EXPECT_EQ(row.labels, expected.labels);
    EXPECT_EQ(row.position_ids, expected.position_ids);
  }
}

TEST_F(RowsOnDisk, SpilledAndResidentDatasetsAreTheSame) {
  std::string text;
  for (int i = 0; i < 300; ++i) text += "{\"input_ids\": [" + std::to_string(i) + ", 5, 6]}\n";
  const std::string path = Write("rows.jsonl", text), packed = Write("rows.jsonl.zst", Compressed(text));
  const auto resident = ReadDataset(files_, path, nullptr, 0, {});
  DatasetOptions options{.scratch = folder_ + "/scratch"};
  options.max_resident_bytes = 500;
  const auto spilled = ReadDataset(files_, packed, nullptr, 0, options);
  ASSERT_THAT(resident, IsOk());
  ASSERT_THAT(spilled, IsOk());
  EXPECT_FALSE(resident->rows.is_spilled());
  EXPECT_TRUE(spilled->rows.is_spilled());
  ASSERT_EQ(spilled->rows.size(), 300);
  for (size_t i = 0; i < 300; ++i) EXPECT_EQ(spilled->rows[i].ids, resident->rows[i].ids);
  const auto a = resident->rows.Split(0.3, 9), b = spilled->rows.Split(0.3, 9);
  ASSERT_EQ(a.second.size(), b.second.size());
  for (size_t i = 0; i < a.second.size(); ++i) EXPECT_EQ(a.second[i].ids, b.second[i].ids);
}

TEST_F(RowsOnDisk, LinesOfCompressedFilesInSeveralFrames) {
  const std::string long_line(400000, 'x');
  const std::string text = Compressed("a\n\nb") + Compressed("c\n" + long_line) + Compressed("\nlast");
  EXPECT_THAT(AllLines(Write("a.zst", text)), ElementsAre("a", "", "bc", long_line, "last"));
  EXPECT_THAT(AllLines(Write("b", "a\n\nb")), ElementsAre("a", "", "b"));
  EXPECT_THAT(AllLines(Write("c.zst", Compressed(""))), ElementsAre());
  const std::string skipped("\x54\x2A\x4D\x18\x03\0\0\0abc", 11);
  EXPECT_THAT(AllLines(Write("d.zst", skipped + Compressed("a\nb\n"))), ElementsAre("a", "b"));
}

TEST_F(RowsOnDisk, DamagedCompressionIsDataLoss) {
  std::string text;
  for (int i = 0; i < 20000; ++i) text += "{\"input_ids\": [" + std::to_string(i * 7919 % 10007) + ", 5, 6]}\n";
  const std::string whole = Compressed(text);
  const std::string cut = Write("cut.zst", whole.substr(0, whole.size() / 2));
  EXPECT_THAT(ReadDataset(files_, cut, nullptr, 0, {}), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("cut.zst")));
  std::string flipped = whole;
  flipped[5] = static_cast<char>(flipped[5] ^ 0x55);
  const auto read = ReadDataset(files_, Write("flipped.zst", flipped), nullptr, 0, {});
  EXPECT_FALSE(read.ok());
}

TEST(BadRows, AreSkippedCountedAndNamed) {
  const std::string text = "{\"input_ids\": [1, 2]}\nnonsense\n\n{\"words\": 1}\n{\"input_ids\": [3, 4]}\n";
  EXPECT_THAT(ParseJsonl(text, "x", nullptr, 0, {}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("x:4: none")));
  const auto skipped = ParseJsonl(text, "x", nullptr, 0, {.skip_bad_rows = true});
  ASSERT_THAT(skipped, IsOk());
  EXPECT_EQ(skipped->rows.size(), 2);
  EXPECT_EQ(skipped->num_bad, 2);
  EXPECT_THAT(skipped->bad_rows,
              ::testing::AllOf(HasSubstr("x:2: no valid JSON"), HasSubstr("x:4: none of the forms")));
}

}  // namespace
}  // namespace strata::data
