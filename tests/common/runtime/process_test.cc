#include "common/runtime/process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <string>
#include <vector>

#include "tests/testing/status_matchers.h"

namespace strata::runtime {
namespace {

using ::strata::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

Command Shell(const std::string& script) { return {.argv = {"sh", "-c", script}, .on_line = {}, .keep_going = {}}; }

TEST(RunCommandTest, GivesLinesAndExitCode) {
  std::vector<std::string> lines;
  Command command = Shell("printf 'one\\n\\nthree'; exit 7");
  command.on_line = [&](std::string_view line) {
    lines.emplace_back(line);
    return true;
  };
  ASSERT_OK_AND_ASSIGN(const int code, RunCommand(command));
  EXPECT_EQ(code, 7);
  EXPECT_THAT(lines, ElementsAre("one", "", "three"));
}

TEST(RunCommandTest, StandardInputIsEmpty) {
  ASSERT_OK_AND_ASSIGN(const int code, RunCommand(Shell("read line; test -z \"$line\"")));
  EXPECT_EQ(code, 0);
}

TEST(RunCommandTest, NoSuchProgram) {
  EXPECT_THAT(RunCommand({.argv = {"strata-no-such-program"}, .on_line = {}, .keep_going = {}}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("strata-no-such-program")));
  EXPECT_THAT(RunCommand(Command{}), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(RunCommandTest, OnLineEndsTheProgramAndItsChildren) {
  Command command = Shell("trap '' HUP; echo started; sh -c 'while :; do sleep 1; done'; echo never");
  int lines = 0;
  command.on_line = [&](std::string_view /*line*/) {
    ++lines;
    return false;
  };
  EXPECT_THAT(RunCommand(command), StatusIs(absl::StatusCode::kCancelled, HasSubstr("on request")));
  EXPECT_EQ(lines, 1);
}

TEST(RunCommandTest, KeepGoingEndsASilentProgram) {
  Command command = Shell("while :; do sleep 1; done");
  command.keep_going = [] { return false; };
  EXPECT_THAT(RunCommand(command), StatusIs(absl::StatusCode::kCancelled));
}

TEST(RunCommandTest, ASignalIsNamed) {
  EXPECT_THAT(RunCommand(Shell("kill -9 $$")), StatusIs(absl::StatusCode::kAborted, HasSubstr("signal 9")));
}

TEST(RunCommandTest, AChildIsNotDeafToSignals) {
  BlockSignals();
  EXPECT_THAT(RunCommand(Shell("kill -TERM $$; sleep 5")),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("signal 15")));
}

TEST(SignalTest, InterruptWakesTheWaiter) {
  BlockSignals();
  Interrupt();
  EXPECT_EQ(WaitForSignal(), SIGTERM);
}

TEST(ProcessTest, KnowsItself) {
  EXPECT_GT(ResidentBytes(), uint64_t{1} << 20);
  EXPECT_GE(PeakResidentBytes(), ResidentBytes());
  EXPECT_GE(SinceProcessStart(), absl::ZeroDuration());
  EXPECT_LT(SinceProcessStart(), absl::Minutes(10));
  EXPECT_GE(NumCores(), 1);
  EXPECT_EQ(EnvironmentVariable("STRATA_NO_SUCH_VARIABLE"), "");
  EXPECT_NE(EnvironmentVariable("PATH"), "");
}

}  // namespace
}  // namespace strata::runtime
