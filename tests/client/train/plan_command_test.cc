// strata-client plan as a script sees it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "nlohmann/json.hpp"
#include "tests/testing/golden.h"
#include "tests/testing/run_client.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::ProgramResult;
using testing::RunClient;

ProgramResult Plan(const std::string& arguments) {
  return RunClient("", "plan --model " + testing::GoldenDir("models/llama") + " " + arguments);
}
int64_t Peak(const std::string& arguments) {
  const ProgramResult result = Plan(arguments + " --format json");
  EXPECT_EQ(result.code, 0) << result.out;
  return nlohmann::json::parse(result.out).value("peak_memory_bytes", int64_t{0});
}

TEST(PlanCommand, FrozenAdaptersCountEachTime) {
  const std::string frozen = " --base-adapter " + testing::GoldenDir("lora/llama-plain");
  const int64_t one = Peak(frozen);
  EXPECT_GT(one, Peak(""));
  EXPECT_EQ(Peak(frozen + frozen) - one, one - Peak(""));
  EXPECT_THAT(Plan(frozen).out, HasSubstr("frozen"));
  EXPECT_THAT(Plan("").out, Not(HasSubstr("frozen")));
}

TEST(PlanCommand, AFrozenAdapterOfAnotherModelIsNamed) {
  const ProgramResult other = Plan("--base-adapter " + testing::GoldenDir("lora/small-gpt2-plain"));
  EXPECT_EQ(other.code, 1);
  EXPECT_THAT(other.out, AllOf(HasSubstr("lora/small-gpt2-plain"), HasSubstr("no linear module")));
}

TEST(PlanCommand, WhatCannotBePlannedIsSaidAsItWasAsked) {
  const auto plan = [](const std::string& yaml) {
    return RunClient("echo \"" + yaml + "\" | ", "plan --model " + testing::GoldenDir("models/llama") + " --config -");
  };
  EXPECT_THAT(plan("max_memory: 1KiB").out, HasSubstr("max_memory is 1KiB, the training takes"));
  EXPECT_THAT(Plan("--max-memory 8").out, HasSubstr("max_memory is 8B, the training takes"));
  EXPECT_THAT(plan("adapter: {layers_to_transform: [99]}").out,
              HasSubstr("layers_to_transform names no layer with such modules: expected some of 0 to 1, found 99"));
  EXPECT_THAT(plan("adapter: {target_modules: [q_proj, qproj, v_proj, wo]}").out,
              HasSubstr("note: adapter: no linear module of the model is called qproj, wo (target_modules)"));
  EXPECT_THAT(plan("adapter: {target_modules: [q_proj, v_proj]}").out, Not(HasSubstr("note")));
  EXPECT_THAT(plan("adapter: {layers_to_transform: [99], target_modules: [nothing]}").out,
              HasSubstr("target_modules names no linear module"));
}

}  // namespace
}  // namespace strata
