#include "common/telemetry/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace strata::telemetry {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

TEST(LogTest, FieldsKeepTheirOrderAndTypes) {
  EXPECT_EQ(
      FormatEvent(
          "round_committed",
          {{"job", "7f"}, {"round", 3}, {"bytes", uint64_t{18446744073709551615U}}, {"error", 0.25}, {"late", false}}),
      "round_committed job=7f round=3 bytes=18446744073709551615 error=0.25 late=false");
}

TEST(LogTest, AValueCannotForgeALineOrAField) {
  EXPECT_EQ(FormatEvent("refused", {{"reason", "a\nb c=1 \"x\""}}), R"(refused reason="a\nb c=1 \"x\"")");
  EXPECT_EQ(FormatEvent("refused", {{"reason", ""}}), R"(refused reason="")");
  EXPECT_EQ(FormatEvent("refused", {{"site", "köln"}}), "refused site=köln");
}

TEST(LogTest, LevelDecidesWhatIsWritten) {
  ::testing::internal::CaptureStderr();
  SetLogLevel("warning");
  Log(Level::kInfo, "hidden", {});
  Log(Level::kError, "shown", {{"braces", "{}"}});
  SetLogLevel("info");
  Log(Level::kInfo, "again", {});
  const std::string out = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(out, Not(HasSubstr("hidden")));
  EXPECT_THAT(out, HasSubstr("shown braces={}"));
  EXPECT_THAT(out, MatchesRegex("[0-9]+-[0-9]+-[0-9]+T[0-9:.]+Z error +shown braces=.*\n.*Z info +again\n"));
}

}  // namespace
}  // namespace strata::telemetry
