#include "common/runtime/executor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <optional>
#include <vector>

#include "absl/synchronization/notification.h"
#include "common/runtime/runtime.h"
#include "common/runtime/system_executor.h"

namespace strata::runtime {
namespace {

using ::testing::ElementsAre;

TEST(SystemExecutorTest, DestructionRunsWhatIsQueuedAndDropsTimers) {
  std::atomic<int> runs = 0;
  std::atomic<bool> fired = false;
  {
    SystemExecutor executor(2);
    executor.RunAfter(absl::Hours(1), [&] { fired = true; });
    for (int i = 0; i < 1000; ++i) executor.Run([&] { ++runs; });
    executor.Run([&] { executor.Run([&] { ++runs; }); });
  }
  EXPECT_EQ(runs, 1001);
  EXPECT_FALSE(fired);
}

TEST(SystemExecutorTest, TimersFireInTheOrderOfTheirTime) {
  std::vector<int> order;
  absl::Notification done;
  SystemExecutor executor(1);
  executor.RunAfter(absl::Milliseconds(30), [&] {
    order.push_back(3);
    done.Notify();
  });
  executor.RunAfter(absl::Milliseconds(10), [&] { order.push_back(1); });
  executor.RunAfter(absl::Milliseconds(20), [&] { order.push_back(2); });
  executor.RunAfter(-absl::InfiniteDuration(), [&] { order.push_back(0); });
  executor.RunAfter(absl::InfiniteDuration(), [&] { order.push_back(9); });
  done.WaitForNotification();
  EXPECT_THAT(order, ElementsAre(0, 1, 2, 3));
}

TEST(SystemExecutorTest, CancelTellsWhetherItWasInTime) {
  SystemExecutor executor(1);
  absl::Notification done;
  const TimerId late = executor.RunAfter(absl::Hours(1), [] { FAIL(); });
  const TimerId soon = executor.RunAfter(absl::ZeroDuration(), [&] { done.Notify(); });
  EXPECT_NE(late, 0U);
  EXPECT_TRUE(executor.Cancel(late));
  EXPECT_FALSE(executor.Cancel(late));
  done.WaitForNotification();
  EXPECT_FALSE(executor.Cancel(soon));
  EXPECT_FALSE(executor.Cancel(0));
}

TEST(StrandTest, OneAtATimeInOrderOnManyThreads) {
  std::vector<int> order;
  std::atomic<int> inside = 0;
  std::atomic<bool> overlapped = false;
  {
    SystemExecutor executor(4);
    Strand strand(executor);
    for (int i = 0; i < 2000; ++i) {
      strand.Post([&, i] {
        if (++inside != 1) overlapped = true;
        order.push_back(i);
        --inside;
      });
    }
  }
  EXPECT_FALSE(overlapped);
  ASSERT_EQ(order.size(), 2000U);
  for (int i = 0; i < 2000; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
}

TEST(StrandTest, WhatWasPostedBeforeDestructionRuns) {
  std::atomic<int> runs = 0;
  SystemExecutor executor(1);
  absl::Notification go;
  absl::Notification done;
  executor.Run([&] { go.WaitForNotification(); });
  std::optional<Strand> strand(std::in_place, executor);
  for (int i = 0; i < 3; ++i) strand->Post([&] { ++runs; });
  strand->Post([&] { done.Notify(); });
  strand.reset();
  go.Notify();
  done.WaitForNotification();
  EXPECT_EQ(runs, 3);
}

TEST(SystemRuntimeTest, GivesEveryPart) {
  SystemRuntime system(1);
  const Runtime runtime = system.get();
  const absl::Duration start = runtime.clock.Monotonic();
  EXPECT_GT(runtime.clock.Now(), absl::FromUnixSeconds(1600000000));
  EXPECT_GE(runtime.clock.Monotonic(), start);
  std::array<std::byte, 16> a{};
  std::array<std::byte, 16> b{};
  runtime.entropy.Fill(a);
  runtime.entropy.Fill(b);
  EXPECT_NE(a, b);
}

}  // namespace
}  // namespace strata::runtime
