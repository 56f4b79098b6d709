#include "client/data/row_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/data/row_source.h"
#include "common/status/cat.h"
#include "tests/testing/sim_runtime.h"
#include "tests/testing/status_matchers.h"

namespace strata::data {
namespace {

using ::strata::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kNotFound = absl::StatusCode::kNotFound;

class RowFilesTest : public ::testing::Test {
 protected:
  void Write(const std::string& path, std::string_view text = "{}\n") {
    ASSERT_OK(files().MakeDirectories(runtime::DirName(path)));
    ASSERT_OK(files().WriteFile(path, text));
  }
  std::vector<std::string> Found(const std::string& path) {
    const auto found = RowFiles(files(), path);
    EXPECT_OK(found.status());
    return found.value_or(std::vector<std::string>());
  }
  runtime::FileSystem& files() { return machine_.files(); }

 private:
  testing::SimRuntime machine_;
};

TEST_F(RowFilesTest, AFileIsItselfAndAFolderItsRows) {
  for (const char* name :
       {"b.jsonl", "a.jsonl.zst", "c.parquet", "README.md", "info.json", ".b.jsonl", "sub.jsonl/x"}) {
    Write(Cat("/d/", name));
  }
  EXPECT_THAT(Found("/d/info.json"), ElementsAre("/d/info.json"));
  EXPECT_THAT(Found("/d"), ElementsAre("/d/a.jsonl.zst", "/d/b.jsonl", "/d/c.parquet"));
  EXPECT_THAT(Found("/d/*.json*"), ElementsAre("/d/a.jsonl.zst", "/d/b.jsonl", "/d/info.json"));
  EXPECT_THAT(Found("/d/[bc].*"), ElementsAre("/d/b.jsonl", "/d/c.parquet"));
  Write("/d/odd*.jsonl");
  Write("/d/odder.jsonl");
  EXPECT_THAT(Found("/d/odd*.jsonl"), ElementsAre("/d/odd*.jsonl")) << "a file's own name";
  EXPECT_THAT(RowFiles(files(), "/d/none.jsonl"), StatusIs(kNotFound));
  EXPECT_THAT(RowFiles(files(), "/d/n*.jsonl"), StatusIs(kNotFound, HasSubstr("/d/n*.jsonl: no file is called so")));
  EXPECT_THAT(RowFiles(files(), "/none/*"), StatusIs(kNotFound));
  ASSERT_OK(files().MakeDirectories("/empty"));
  EXPECT_THAT(RowFiles(files(), "/empty"), StatusIs(kNotFound, HasSubstr("/empty: no file that ends in .jsonl, ")));
}

TEST_F(RowFilesTest, ShardsAreOfOneSetAndAllThere) {
  for (const int shard : {0, 1, 2}) Write(Cat("/d/train-0000", shard, "-of-00003.parquet"));
  EXPECT_THAT(Found("/d"), ::testing::SizeIs(3));
  Write("/d/test-00000-of-00001.parquet");
  EXPECT_THAT(RowFiles(files(), "/d"), StatusIs(kInvalid, AllOf(HasSubstr("/d: holds shards of several sets"),
                                                                HasSubstr("'/d/test-*', '/d/train-*'"))));
  EXPECT_THAT(Found("/d/train-*"), ::testing::SizeIs(3));
  ASSERT_OK(files().Remove("/d/train-00001-of-00003.parquet"));
  EXPECT_THAT(RowFiles(files(), "/d/train-*"),
              StatusIs(kInvalid, HasSubstr("train-00000-of-00003.parquet: one of 3 shards, but 2 of them are there")));
  EXPECT_THAT(Found("/d/train-00000-of-00003.parquet"), ::testing::SizeIs(1));
}

TEST_F(RowFilesTest, RowsFollowEachOtherAndAreNamedByTheirFile) {
  Write("/d/a.jsonl", "{\"n\": 1}\n\nnonsense\n");
  Write("/d/b.jsonl", "");
  Write("/d/c.jsonl", "{\"n\": 2}\n[]\n{\"n\": 3}");
  ASSERT_OK_AND_ASSIGN(const auto rows, OpenRows(files(), "/d"));
  std::vector<int> seen;
  ASSERT_OK_AND_ASSIGN(const BadRows bad, ForEachRow(*rows, /*skip=*/true, [&](const OrderedJson& row) {
                         seen.push_back(row["n"]);
                         return absl::OkStatus();
                       }));
  EXPECT_THAT(seen, ElementsAre(1, 2, 3));
  EXPECT_EQ(bad.count, 2U);
  EXPECT_THAT(bad.text, AllOf(HasSubstr("/d/a.jsonl:3: no valid JSON"), HasSubstr("\n/d/c.jsonl:2: an object")));
}

}  // namespace
}  // namespace strata::data
