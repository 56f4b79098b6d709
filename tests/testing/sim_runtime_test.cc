#include "tests/testing/sim_runtime.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "tests/testing/status_matchers.h"

namespace strata::testing {
namespace {

using runtime::OpenMode;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::span<const std::byte> Bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

TEST(SimExecutorTest, EventsRunByTimeThenSequence) {
  SimRuntime machine;
  SimExecutor& executor = machine.executor();
  std::vector<int> order;
  executor.RunAfter(absl::Seconds(2), [&] { order.push_back(4); });
  executor.RunAfter(absl::Seconds(1), [&] { order.push_back(2); });
  executor.RunAfter(absl::Seconds(1), [&] { order.push_back(3); });
  executor.Run([&] {
    order.push_back(0);
    executor.Run([&] { order.push_back(1); });
  });
  EXPECT_EQ(executor.RunUntilIdle(), 2U);
  EXPECT_THAT(order, ElementsAre(0, 1));
  EXPECT_EQ(machine.clock().Monotonic(), absl::ZeroDuration());
  EXPECT_EQ(executor.RunFor(absl::Milliseconds(1500)), 2U);
  EXPECT_EQ(machine.clock().Monotonic(), absl::Milliseconds(1500));
  EXPECT_TRUE(executor.Step());
  EXPECT_FALSE(executor.Step());
  EXPECT_THAT(order, ElementsAre(0, 1, 2, 3, 4));
  EXPECT_EQ(machine.clock().Monotonic(), absl::Seconds(2));
}

TEST(SimExecutorTest, CancelledTimersDoNotRun) {
  SimRuntime machine;
  bool ran = false;
  const runtime::TimerId timer = machine.executor().RunAfter(absl::Seconds(1), [&] { ran = true; });
  EXPECT_TRUE(machine.executor().Cancel(timer));
  EXPECT_FALSE(machine.executor().Cancel(timer));
  machine.executor().RunFor(absl::Hours(1));
  EXPECT_FALSE(ran);
}

TEST(SimExecutorTest, RunUntilGivesUpAtItsLimit) {
  SimRuntime machine;
  int ticks = 0;
  std::function<void()> tick = [&] {
    ++ticks;
    machine.executor().RunAfter(absl::Seconds(1), tick);
  };
  tick();
  EXPECT_TRUE(machine.executor().RunUntil([&] { return ticks == 10; }));
  EXPECT_FALSE(machine.executor().RunUntil([] { return false; }, absl::Seconds(5)));
  EXPECT_EQ(ticks, 15);
}

TEST(SimEntropyTest, SeedDecides) {
  std::array<std::byte, 16> a{};
  std::array<std::byte, 16> b{};
  std::array<std::byte, 16> c{};
  SimEntropy(7).Fill(a);
  SimEntropy(7).Fill(b);
  SimEntropy(8).Fill(c);
  EXPECT_EQ(a, b);
  EXPECT_NE(a, c);
}

class SimFileSystemTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK(files_.MakeDirectories("/state/blobs"));
    files_.SyncAll();
  }
  SimRuntime machine_;
  SimFileSystem& files_ = machine_.files();
};

TEST_F(SimFileSystemTest, UnsyncedBytesAreLost) {
  ASSERT_OK_AND_ASSIGN(const auto file, files_.Open("/state/a", OpenMode::kCreate));
  ASSERT_OK(file->WriteAt(0, Bytes("kept")));
  ASSERT_OK(file->Sync());
  ASSERT_OK(files_.SyncDirectory("/state"));
  ASSERT_OK(file->WriteAt(2, Bytes("dropped")));
  EXPECT_EQ(*files_.ReadFile("/state/a"), "kedropped");
  files_.Crash();
  EXPECT_EQ(*files_.ReadFile("/state/a"), "kept");
  EXPECT_THAT(file->WriteAt(0, Bytes("x")), StatusIs(absl::StatusCode::kAborted));
}

TEST_F(SimFileSystemTest, UnsyncedEntriesAreLost) {
  ASSERT_OK(files_.WriteFile("/state/old", "1"));
  ASSERT_OK_AND_ASSIGN(const auto file, files_.Open("/state/new", OpenMode::kCreateNew));
  ASSERT_OK(file->Sync());
  ASSERT_OK(files_.Rename("/state/old", "/state/blobs/x"));
  ASSERT_OK(files_.Remove("/state/new"));
  files_.Crash();
  EXPECT_THAT(*files_.List("/state"), ElementsAre("blobs", "old"));
  EXPECT_THAT(*files_.List("/state/blobs"), ElementsAre());
  ASSERT_OK(files_.Rename("/state/old", "/state/blobs/x"));
  ASSERT_OK(files_.SyncDirectory("/state"));
  ASSERT_OK(files_.SyncDirectory("/state/blobs"));
  files_.Crash();
  EXPECT_EQ(*files_.ReadFile("/state/blobs/x"), "1");
}

TEST_F(SimFileSystemTest, KillLosesNothing) {
  ASSERT_OK_AND_ASSIGN(const auto file, files_.Open("/state/a", OpenMode::kCreate));
  ASSERT_OK(file->WriteAt(0, Bytes("x")));
  files_.Kill();
  EXPECT_EQ(*files_.ReadFile("/state/a"), "x");
  EXPECT_THAT(file->Size(), StatusIs(absl::StatusCode::kAborted));
}

TEST_F(SimFileSystemTest, AFullDiskTakesWhatFits) {
  files_.SetCapacity(10);
  ASSERT_OK_AND_ASSIGN(const auto file, files_.Open("/state/a", OpenMode::kCreate));
  ASSERT_OK(file->Reserve(8));
  EXPECT_EQ(files_.used_bytes(), 8U);
  EXPECT_EQ(*file->Size(), 0U);
  EXPECT_THAT(files_.WriteFile("/state/b", "abc"),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("/state/b")));
  EXPECT_FALSE(files_.Exists("/state/b.tmp"));
  EXPECT_EQ(files_.used_bytes(), 8U);
  ASSERT_OK(file->WriteAt(0, Bytes("12345678")));
  EXPECT_THAT(file->WriteAt(8, Bytes("9abc")), StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_EQ(*files_.ReadFile("/state/a"), "123456789a");
  ASSERT_OK(files_.Remove("/state/a"));
}

TEST_F(SimFileSystemTest, MappingsKeepTheirBytes) {
  ASSERT_OK(files_.WriteFile("/state/a", "before"));
  ASSERT_OK_AND_ASSIGN(const auto mapping, files_.Map("/state/a"));
  ASSERT_OK_AND_ASSIGN(const auto file, files_.Open("/state/a", OpenMode::kReadWrite));
  ASSERT_OK(file->WriteAt(0, Bytes("after!")));
  ASSERT_OK(files_.Remove("/state/a"));
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(mapping->bytes().data()), mapping->bytes().size()), "before");
}

TEST_F(SimFileSystemTest, HaltStopsAtTheChosenChange) {
  const uint64_t before = files_.num_changes();
  ASSERT_OK(files_.WriteFile("/state/a", "1"));
  const uint64_t needed = files_.num_changes() - before;
  for (uint64_t n = 0; n < needed; ++n) {
    files_.HaltAfter(n);
    EXPECT_THAT(files_.WriteFile("/state/a", "2"), StatusIs(absl::StatusCode::kAborted)) << n;
    EXPECT_TRUE(files_.halted());
    files_.Crash();
    EXPECT_EQ(*files_.ReadFile("/state/a"), "1") << n;
  }
  ASSERT_OK(files_.WriteFile("/state/a", "2"));
  files_.Crash();
  EXPECT_EQ(*files_.ReadFile("/state/a"), "2");
}

TEST_F(SimFileSystemTest, ErrorsNameThePath) {
  EXPECT_THAT(files_.Open("/none/a", OpenMode::kCreate), StatusIs(absl::StatusCode::kNotFound, HasSubstr("/none/a")));
  EXPECT_THAT(files_.Map("/state"), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("Is a directory")));
  EXPECT_THAT(files_.Remove("/state"), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("not empty")));
  EXPECT_OK(files_.RemoveAll("/state"));
  EXPECT_OK(files_.RemoveAll("/state"));
}

}  // namespace
}  // namespace strata::testing
