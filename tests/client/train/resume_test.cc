// strata-client train killed by SIGKILL and started again.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "nlohmann/json.hpp"
#include "tests/client/train/train_command.h"

namespace strata {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

class ResumeTest : public TrainCommandTest {};

TEST_F(ResumeTest, AKilledRunGoesOnBitForBit) {
  const Outcome whole = Train("whole");
  ASSERT_EQ(whole.code, 0) << whole.errors;
  ASSERT_EQ(whole.steps.size(), kSteps);
  for (const int kill_at : {1, 3, 4, 8, 11, 12}) {
    const std::string name = "killed-" + std::to_string(kill_at);
    const Outcome killed = Train(name, kill_at);
    const bool was_killed = killed.code == -1;  // the last step may be followed by the end too fast
    EXPECT_TRUE(was_killed || kill_at > 8) << kill_at;
    const Outcome rest = Train(name);
    ASSERT_EQ(rest.code, 0) << rest.errors;
    for (const Outcome* part : {&killed, &rest}) {
      for (const auto& [step, line] : part->steps) EXPECT_EQ(line, whole.steps.at(step)) << name;
    }
    if (was_killed && kill_at >= 4) {
      ASSERT_FALSE(rest.notes.empty());
      EXPECT_EQ(rest.notes[0]["note"], "resumed");
      EXPECT_FALSE(rest.steps.contains(3)) << "the checkpoint after step 3 was there before step 4 was printed";
    }
    EXPECT_EQ(Adapter(name), Adapter("whole")) << name;
  }
}

TEST_F(ResumeTest, MagnitudesGoOnToo) {
  WriteConfig("", ", dropout: 0.1, use_dora: true");
  const Outcome whole = Train("whole");
  ASSERT_EQ(whole.code, 0) << whole.errors;
  EXPECT_THAT(ReadText(out("whole") / "adapter_config.json"), HasSubstr("\"use_dora\": true"));
  EXPECT_THAT(Adapter("whole"), HasSubstr("q_proj.lora_magnitude_vector"));
  Train("killed", 8);
  WriteConfig("gradient_checkpointing: true\n", ", dropout: 0.1, use_dora: true");
  const Outcome rest = Train("killed");
  ASSERT_EQ(rest.code, 0) << rest.errors;
  EXPECT_FALSE(rest.steps.contains(6));
  for (const auto& [step, line] : rest.steps) EXPECT_EQ(line, whole.steps.at(step));
  EXPECT_EQ(Adapter("killed"), Adapter("whole"));

  const Outcome warm = Train("warm", 0, {"--init-adapter", out("whole")});
  ASSERT_EQ(warm.code, 0) << warm.errors;
  EXPECT_LT(json::parse(warm.steps.at(1))["loss"], json::parse(whole.steps.at(1))["loss"]);
  WriteConfig("");
  const Outcome plain = Train("plain", 0, {"--init-adapter", out("whole")});
  EXPECT_EQ(plain.code, 2);
  EXPECT_THAT(plain.errors, HasSubstr("use_dora is off, the initial adapter has magnitudes"));
}

TEST_F(ResumeTest, AgainAndAgain) {
  const Outcome whole = Train("whole");
  ASSERT_EQ(whole.code, 0) << whole.errors;
  for (const int kill_at : {4, 5, 7, 10}) Train("often", kill_at);
  const Outcome rest = Train("often");
  ASSERT_EQ(rest.code, 0) << rest.errors;
  for (const auto& [step, line] : rest.steps) EXPECT_EQ(line, whole.steps.at(step));
  EXPECT_EQ(Adapter("often"), Adapter("whole"));
}

TEST_F(ResumeTest, ADamagedCheckpointGivesWayToTheOneBefore) {
  const Outcome whole = Train("whole");
  for (const bool cut : {true, false}) {
    const std::string name = cut ? "cut" : "flipped";
    ASSERT_EQ(Train(name, 7).code, -1);
    const auto files = Checkpoints(name);
    std::filesystem::path latest;
    for (const auto& file : files) {
      if (file.filename().string().starts_with("step-")) latest = file;
    }
    ASSERT_THAT(latest.filename().string(), HasSubstr("step-"));
    if (cut) {
      std::filesystem::resize_file(latest, std::filesystem::file_size(latest) - 1);
    } else {
      std::fstream file(latest, std::ios::in | std::ios::out | std::ios::binary);
      file.seekp(-100, std::ios::end);
      file.put(file.peek() == 0x55 ? 0x44 : 0x55);
    }
    const Outcome rest = Train(name);
    ASSERT_EQ(rest.code, 0) << rest.errors;
    ASSERT_EQ(rest.notes.size(), 2U);
    EXPECT_EQ(rest.notes[0]["note"], "checkpoint_damaged");
    EXPECT_EQ(rest.notes[1]["note"], "resumed");
    for (const auto& [step, line] : rest.steps) EXPECT_EQ(line, whole.steps.at(step));
    EXPECT_EQ(Adapter(name), Adapter("whole"));
  }
}

TEST_F(ResumeTest, ChangedInputsAreRefusedByName) {
  ASSERT_EQ(Train("out", 7).code, -1);
  WriteConfig("seed: 43\npack: true\n");
  const Outcome other = Train("out");
  EXPECT_EQ(other.code, 1);
  EXPECT_THAT(other.errors, AllOf(HasSubstr("seed was 42 and is 43"), HasSubstr("pack was false and is true"),
                                  HasSubstr("--restart")));
  WriteConfig("");
  WriteData(1);
  EXPECT_THAT(Train("out").errors, HasSubstr("--data was "));
  WriteData(0);
  // What changes no number may change.
  WriteConfig("gradient_checkpointing: true\n");
  const Outcome rest = Train("out");
  EXPECT_EQ(rest.code, 0) << rest.errors;
  EXPECT_FALSE(rest.steps.contains(3));
  WriteConfig("");
  Train("whole");
  EXPECT_EQ(Adapter("out"), Adapter("whole"));
}

TEST_F(ResumeTest, NoStepIsDoneWhereNothingCanBeLeft) {
  const Outcome run = Train("/proc/holds/no/adapters");
  EXPECT_EQ(run.code, 1);
  EXPECT_TRUE(run.steps.empty());
  EXPECT_THAT(run.errors, ::testing::HasSubstr("error: --out: "));
}

TEST_F(ResumeTest, AFinishedRunIsSaidToBeFinished) {
  ASSERT_EQ(Train("out").code, 0);
  const std::string adapter = Adapter("out");
  const Outcome again = Train("out");
  EXPECT_EQ(again.code, 0);
  EXPECT_TRUE(again.steps.empty());
  EXPECT_EQ(again.done["already_finished"], true);
  EXPECT_EQ(again.done["steps"], kSteps);
  WriteConfig("seed: 1\n");
  EXPECT_EQ(Train("out").code, 1);
  const Outcome anew = Train("out", 0, {"--restart"});
  EXPECT_EQ(anew.code, 0) << anew.errors;
  EXPECT_EQ(anew.steps.size(), kSteps);
  EXPECT_NE(Adapter("out"), adapter);
  std::filesystem::remove(out("out") / "adapter_model.safetensors");
  EXPECT_EQ(Train("out").steps.size(), kSteps) << "a mark without its adapter is none";
}

}  // namespace
}  // namespace strata
