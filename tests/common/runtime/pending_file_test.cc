#include "common/runtime/pending_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>

#include "tests/testing/sim_runtime.h"
#include "tests/testing/status_matchers.h"

namespace strata::runtime {
namespace {

using ::strata::testing::StatusIs;
using ::testing::ElementsAre;

std::span<const std::byte> Bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

TEST(PendingFileTest, IsThereWhenCommittedAndSurvivesACrash) {
  testing::SimRuntime machine;
  testing::SimFileSystem& files = machine.files();
  ASSERT_OK(files.MakeDirectories("/d"));
  files.SyncAll();
  ASSERT_OK_AND_ASSIGN(PendingFile file, PendingFile::Create(files, "/d/x"));
  ASSERT_OK(file.Append(Bytes("one ")));
  ASSERT_OK(file.Append(Bytes("two")));
  EXPECT_EQ(file.size_bytes(), 7U);
  EXPECT_FALSE(files.Exists("/d/x"));
  ASSERT_OK(std::move(file).Commit());
  files.Crash();
  EXPECT_EQ(files.ReadFile("/d/x").value(), "one two");
}

TEST(PendingFileTest, LeavesNothingWhenItIsGivenUp) {
  testing::SimRuntime machine;
  testing::SimFileSystem& files = machine.files();
  ASSERT_OK(files.MakeDirectories("/d"));
  ASSERT_OK(files.WriteFile("/d/x", "before"));
  {
    ASSERT_OK_AND_ASSIGN(PendingFile file, PendingFile::Create(files, "/d/x"));
    ASSERT_OK(file.Append(Bytes("half")));
    const PendingFile moved = std::move(file);
  }
  EXPECT_THAT(files.List("/d").value(), ElementsAre("x"));
  EXPECT_EQ(files.ReadFile("/d/x").value(), "before");
}

TEST(PendingFileTest, AFullDiskLeavesNothing) {
  testing::SimRuntime machine;
  testing::SimFileSystem& files = machine.files();
  ASSERT_OK(files.MakeDirectories("/d"));
  files.SetCapacity(6);
  {
    ASSERT_OK_AND_ASSIGN(PendingFile file, PendingFile::Create(files, "/d/x"));
    ASSERT_OK(file.Append(Bytes("four")));
    EXPECT_THAT(file.Append(Bytes("more")), StatusIs(absl::StatusCode::kResourceExhausted));
  }
  EXPECT_TRUE(files.List("/d").value().empty());
  EXPECT_EQ(files.used_bytes(), 0U);
}

// What is left of an earlier attempt that was killed is written over, not continued.
TEST(PendingFileTest, StartsAnew) {
  testing::SimRuntime machine;
  testing::SimFileSystem& files = machine.files();
  ASSERT_OK(files.MakeDirectories("/d"));
  ASSERT_OK(files.WriteFile("/d/x.tmp", "a longer rest of another run"));
  ASSERT_OK_AND_ASSIGN(PendingFile file, PendingFile::Create(files, "/d/x"));
  ASSERT_OK(file.Append(Bytes("new")));
  ASSERT_OK(std::move(file).Commit());
  EXPECT_EQ(files.ReadFile("/d/x").value(), "new");
}

}  // namespace
}  // namespace strata::runtime
