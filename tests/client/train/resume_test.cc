// strata-client train killed by SIGKILL and started again.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): kill
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/testing/golden.h"

namespace strata {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int kSteps = 12;

std::string ReadText(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

// What one process printed.
struct Outcome {
  int code = -1;  // -1: a signal ended it
  std::map<int, std::string> steps;
  std::vector<json> notes;
  json done;
  std::string errors;
};

class ResumeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) / ("resume_test-" + std::to_string(getpid()));
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    WriteData(0);
    WriteConfig("");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void WriteData(int shift) const {
    std::ofstream out(folder_ / "data.jsonl");
    for (int row = 0; row < 10; ++row) {
      out << "{\"input_ids\": [1";
      for (int i = 0; i < 8 + row % 7; ++i) out << ", " << 10 + (row + i + shift) % 5 * 17;
      out << "]}\n";
    }
  }
  // Every kind of state: dropout, a schedule with warm-up, moments, several epochs, the state before the last update.
  void WriteConfig(const std::string& more, const std::string& adapter = "") const {
    std::ofstream(folder_ / "train.yaml") << "adapter: {rank: 4, alpha: 8, dropout: 0.1" << adapter
                                          << "}\n"
                                             "optimizer: {learning_rate: 1e-2, schedule: cosine, warmup_steps: 3}\n"
                                             "steps: 12\nbatch_size: 2\ngradient_accumulation_steps: 2\n"
                                             "checkpoint_steps: 3\non_non_finite: halve_scale\n"
                                          << more;
  }
  std::filesystem::path out(const std::string& name) const { return folder_ / name; }
  std::string Adapter(const std::string& name) const { return ReadText(out(name) / "adapter_model.safetensors"); }
  std::vector<std::filesystem::path> Checkpoints(const std::string& name) const {
    std::vector<std::filesystem::path> found;
    for (const auto& entry : std::filesystem::directory_iterator(out(name) / "checkpoint"))
      found.push_back(entry.path());
    std::sort(found.begin(), found.end());
    return found;
  }

  // Trains into `name`; with kill_at > 0 the process gets SIGKILL when it has printed that step.
  Outcome Train(const std::string& name, int kill_at = 0, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments = {STRATA_BINARY_DIR "/bin/strata-client",
                                          "train",
                                          "--model",
                                          testing::GoldenDir("models/llama"),
                                          "--data",
                                          folder_ / "data.jsonl",
                                          "--out",
                                          out(name),
                                          "--config",
                                          folder_ / "train.yaml",
                                          "--threads",
                                          "2",
                                          "--format",
                                          "json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    std::array<int, 2> pipe_ends{};
    EXPECT_EQ(pipe(pipe_ends.data()), 0);
    const std::string errors = folder_ / "errors";
    const pid_t child = fork();
    if (child == 0) {
      std::vector<char*> argv;
      for (std::string& argument : arguments) argv.push_back(argument.data());
      argv.push_back(nullptr);
      dup2(pipe_ends[1], STDOUT_FILENO);
      dup2(open(errors.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600), STDERR_FILENO);
      close(pipe_ends[0]);
      close(pipe_ends[1]);
      execv(argv[0], argv.data());
      _exit(127);
    }
    close(pipe_ends[1]);
    Outcome outcome;
    FILE* lines = fdopen(pipe_ends[0], "r");
    std::array<char, 4096> buffer{};
    while (fgets(buffer.data(), buffer.size(), lines) != nullptr) {
      Keep(buffer.data(), outcome);
      if (kill_at > 0 && outcome.steps.contains(kill_at)) kill(child, SIGKILL);
    }
    fclose(lines);
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFEXITED(status)) outcome.code = WEXITSTATUS(status);
    outcome.errors = ReadText(errors);
    return outcome;
  }

  static void Keep(const std::string& line, Outcome& outcome) {
    const json parsed = json::parse(line, nullptr, false);
    if (!parsed.is_object()) return;  // cut by the kill
    if (parsed.contains("step")) outcome.steps[parsed["step"]] = line;
    if (parsed.contains("note")) outcome.notes.push_back(parsed);
    if (parsed.contains("done")) outcome.done = parsed;
  }

  std::filesystem::path folder_;
};

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
  WriteConfig("", ", use_dora: true");
  const Outcome whole = Train("whole");
  ASSERT_EQ(whole.code, 0) << whole.errors;
  EXPECT_THAT(ReadText(out("whole") / "adapter_config.json"), HasSubstr("\"use_dora\": true"));
  EXPECT_THAT(Adapter("whole"), HasSubstr("q_proj.lora_magnitude_vector"));
  Train("killed", 8);
  WriteConfig("gradient_checkpointing: true\n", ", use_dora: true");
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
