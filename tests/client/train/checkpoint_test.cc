// The checkpoint store on a disk that crashes, fills up and rots.
#include "client/train/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "tests/testing/sim_runtime.h"
#include "tests/testing/status_matchers.h"

namespace strata::train {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr char kFolder[] = "/run/checkpoint";

class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest() : files_(machine_.files()) {}

  CheckpointStore Store(RunInputs inputs = {{"data", "d1"}, {"seed", "7"}}) {
    return CheckpointStore(files_, machine_.clock(), {.directory = kFolder, .every_steps = 10}, std::move(inputs));
  }
  // A run whose values tell the step.
  absl::Status Save(CheckpointStore& store, uint64_t steps) {
    std::vector<float> values(1000);
    std::iota(values.begin(), values.end(), static_cast<float>(steps));
    return store.Save(
        {.steps = steps, .updates = steps, .rate_scale = 0.1, .first_loss = 1.0 / 3, .tokens = steps * 7},
        {{.name = "values", .dtype = format::DType::kF32, .shape = {1000}, .data = std::as_bytes(std::span(values))}});
  }
  // Steps of the latest checkpoint, whose content is checked; 0: there is none.
  uint64_t Latest(size_t damaged = 0) {
    CheckpointStore store = Store();
    const auto found = store.Latest();
    EXPECT_THAT(found, testing::IsOk());
    EXPECT_THAT(found->damaged, SizeIs(damaged));
    if (!found->run.has_value()) return 0;
    const uint64_t steps = found->run->position.steps;
    EXPECT_EQ(found->run->position.tokens, steps * 7);
    EXPECT_EQ(found->run->position.rate_scale, 0.1);
    EXPECT_EQ(found->run->position.first_loss, 1.0 / 3) << "doubles come back bit for bit";
    EXPECT_EQ(found->run->inputs, store.inputs());
    std::vector<float> values(1000);
    EXPECT_OK(format::ToFloat(*found->run->tensors.Find("values"), values));
    EXPECT_EQ(values[5], static_cast<float>(steps + 5));
    return steps;
  }
  std::vector<std::string> Names() { return *files_.List(kFolder); }
  std::string PathOfLatest() { return runtime::JoinPath(kFolder, Names().back()); }

  testing::SimRuntime machine_;
  testing::SimFileSystem& files_;
};

TEST_F(CheckpointTest, KeepsTheTwoLatest) {
  CheckpointStore store = Store();
  EXPECT_EQ(Latest(), 0U);
  for (const uint64_t steps : {10, 20, 30}) ASSERT_OK(Save(store, steps));
  EXPECT_THAT(Names(), ElementsAre(HasSubstr("step-0000000020-"), HasSubstr("step-0000000030-")));
  EXPECT_EQ(Latest(), 30U);
}

TEST_F(CheckpointTest, EveryFlippedByteAndEveryTruncationFallsBackToTheOneBefore) {
  CheckpointStore store = Store();
  ASSERT_OK(Save(store, 10));
  ASSERT_OK(Save(store, 20));
  const std::string path = PathOfLatest();
  ASSERT_OK_AND_ASSIGN(const std::string whole, files_.ReadFile(path));
  for (size_t at = 0; at < whole.size(); at += 1 + at / 16) {
    std::string flipped = whole;
    flipped[at] = static_cast<char>(flipped[at] ^ 0x10);
    ASSERT_OK(files_.WriteFile(path, flipped));
    EXPECT_EQ(Latest(/*damaged=*/1), 10U) << "byte " << at;
    ASSERT_OK(files_.WriteFile(path, whole.substr(0, at)));
    EXPECT_EQ(Latest(/*damaged=*/1), 10U) << "cut to " << at;
  }
  ASSERT_OK(files_.WriteFile(path, whole));
  EXPECT_EQ(Latest(), 20U);
}

// Whatever call the power fails at, the latest checkpoint is the one before or the new one, whole.
TEST_F(CheckpointTest, ACrashAtAnyCallLosesAtMostTheOneThatWasBeingWritten) {
  for (const bool power : {true, false}) {
    for (uint64_t changes = 0;; ++changes) {
      ASSERT_OK(Store().Clear());
      CheckpointStore store = Store();
      ASSERT_OK(Save(store, 10));
      ASSERT_OK(Save(store, 20));
      files_.SyncAll();
      files_.HaltAfter(changes);
      const absl::Status saved = Save(store, 30);
      power ? files_.Crash() : files_.Kill();
      const uint64_t latest = Latest();
      EXPECT_TRUE(latest == 30 || (latest == 20 && !saved.ok())) << changes << ": " << latest;
      if (saved.ok()) break;
    }
  }
}

TEST_F(CheckpointTest, AFullDiskLeavesTheEarlierOnes) {
  CheckpointStore store = Store();
  ASSERT_OK(Save(store, 10));
  files_.SetCapacity(files_.used_bytes() + 2000);
  EXPECT_THAT(Save(store, 20), testing::StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_EQ(Latest(), 10U);
  EXPECT_THAT(Names(), SizeIs(1)) << "the piece was removed";
}

TEST_F(CheckpointTest, AFinishedRunIsToldApart) {
  CheckpointStore store = Store();
  ASSERT_OK(Save(store, 10));
  ASSERT_OK(store.Finish({.steps = 14, .updates = 14}));
  ASSERT_OK_AND_ASSIGN(const FoundRun found, Store().Latest());
  ASSERT_TRUE(found.run.has_value());
  EXPECT_TRUE(found.run->finished);
  EXPECT_EQ(found.run->position.steps, 14U);
  EXPECT_THAT(Names(), ElementsAre(HasSubstr("finished-")));
  ASSERT_OK(store.Clear());
  EXPECT_EQ(Latest(), 0U);
}

TEST_F(CheckpointTest, IsDueByStepsAndByTime) {
  CheckpointStore store = Store();
  EXPECT_FALSE(store.Due(9));
  EXPECT_TRUE(store.Due(10));
  machine_.clock().Advance(absl::Minutes(5));
  EXPECT_TRUE(store.Due(13));
  ASSERT_OK(Save(store, 13));
  EXPECT_FALSE(store.Due(14));
  CheckpointStore off(files_, machine_.clock(), {.directory = kFolder, .every_steps = 0}, {});
  machine_.clock().Advance(absl::Hours(1));
  EXPECT_FALSE(off.Due(10));
}

TEST_F(CheckpointTest, SaysWhatChanged) {
  EXPECT_THAT(Differences({{"a", "1"}, {"b", "2"}}, {{"a", "1"}, {"b", "3"}, {"c", "4"}}),
              ElementsAre("b was 2 and is 3", "c was not given and is 4"));
  EXPECT_THAT(Differences({{"a", "1"}}, {{"a", "1"}}), ElementsAre());
}

}  // namespace
}  // namespace strata::train
