// strata-client train --processes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): kill

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/client/train/train_command.h"

namespace strata {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

const std::vector<std::string> kTwo = {"--processes", "2"};

class ProcessesTest : public TrainCommandTest {
 protected:
  // The process that `name`'s first one has started; 0: there is none.
  pid_t WorkerOf(const std::string& name) const {
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const std::string command = ReadText(entry.path() / "cmdline");
      if (command.find("--worker") != std::string::npos && command.find(out(name).string()) != std::string::npos)
        return std::stoi(entry.path().filename());
    }
    return 0;
  }
};

TEST_F(ProcessesTest, LearnWhatOneLearns) {
  WriteConfig("", "");  // dropout is keyed by micro-batch
  const Outcome one = Train("one");
  const Outcome two = Train("two", 0, kTwo);
  const Outcome three = Train("three", 0, {"--processes", "3"});
  ASSERT_EQ(two.code, 0) << two.errors;
  ASSERT_EQ(three.code, 0) << three.errors;
  ASSERT_EQ(one.steps.size(), kSteps);
  for (const Outcome* several : {&two, &three}) {
    ASSERT_EQ(several->steps.size(), kSteps);
    for (const auto& [step, line] : one.steps) {
      const json expected = json::parse(line);
      const json seen = json::parse(several->steps.at(step));
      EXPECT_NEAR(seen["loss"], expected["loss"], 2e-6 * expected["loss"].get<double>()) << step;
      EXPECT_NEAR(seen["grad_norm"], expected["grad_norm"], 2e-5 * expected["grad_norm"].get<double>()) << step;
      EXPECT_EQ(seen["tokens"], expected["tokens"]);
    }
  }
  EXPECT_FALSE(std::filesystem::exists(out("two") / ".processes"));
}

TEST_F(ProcessesTest, SameBytesAgainAlsoAfterAKill) {
  const Outcome whole = Train("whole", 0, kTwo);
  ASSERT_EQ(whole.code, 0) << whole.errors;
  const Outcome again = Train("again", 0, kTwo);
  EXPECT_EQ(again.steps, whole.steps);
  EXPECT_EQ(Adapter("again"), Adapter("whole"));

  EXPECT_EQ(Train("killed", 8, kTwo).code, -1);
  EXPECT_THAT(Train("killed").errors, HasSubstr("--processes was 2"));
  const Outcome rest = Train("killed", 0, kTwo);
  ASSERT_EQ(rest.code, 0) << rest.errors;
  EXPECT_FALSE(rest.steps.contains(6));
  for (const auto& [step, line] : rest.steps) EXPECT_EQ(line, whole.steps.at(step));
  EXPECT_EQ(Adapter("killed"), Adapter("whole"));
}

TEST_F(ProcessesTest, OneThatEndsEndsTheTraining) {
  const Outcome ended = Watch("out", kTwo, [&](int step, pid_t) {
    if (step != 4) return;
    const pid_t worker = WorkerOf("out");
    ASSERT_GT(worker, 0);
    kill(worker, SIGKILL);
  });
  EXPECT_EQ(ended.code, 1);
  EXPECT_THAT(ended.errors, HasSubstr("lost the other processes"));
  EXPECT_THAT(ended.errors, HasSubstr("process 2 of 2"));
  EXPECT_FALSE(std::filesystem::exists(out("out") / ".processes"));
  const Outcome rest = Train("out", 0, kTwo);
  EXPECT_EQ(rest.code, 0) << rest.errors;
  EXPECT_FALSE(rest.steps.contains(3));
}

TEST_F(ProcessesTest, AStopEndsAll) {
  const Outcome stopped = Watch("out", kTwo, [&](int step, pid_t first) {
    if (step == 5) kill(first, SIGINT);
  });
  EXPECT_EQ(stopped.code, 130);
  EXPECT_THAT(stopped.errors, HasSubstr("interrupted; the same command goes on from here"));
  EXPECT_EQ(WorkerOf("out"), 0);
}

TEST_F(ProcessesTest, WhatCannotBeIsSaid) {
  EXPECT_THAT(Train("out", 0, {"--processes", "0"}).errors, HasSubstr("--processes"));
  // Each has a device of its own, from the one that is named on.
  const Outcome cuda = Train("out", 0, {"--processes", "2", "--device", "cuda:98"});
  EXPECT_EQ(cuda.code, 1);
  EXPECT_THAT(cuda.errors, HasSubstr("device cuda:99 is not usable"));
}

}  // namespace
}  // namespace strata
