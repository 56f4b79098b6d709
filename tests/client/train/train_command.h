// strata-client train on a small model, as a script runs it.
#ifndef STRATA_TESTS_CLIENT_TRAIN_TRAIN_COMMAND_H_
#define STRATA_TESTS_CLIENT_TRAIN_TRAIN_COMMAND_H_

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): kill
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/testing/golden.h"

namespace strata {

inline constexpr int kSteps = 12;

inline std::string ReadText(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

// What one process printed.
struct Outcome {
  int code = -1;  // -1: a signal ended it
  std::map<int, std::string> steps;
  std::vector<nlohmann::json> notes;
  nlohmann::json done;
  std::string errors;
};

class TrainCommandTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) / ("train_command-" + std::to_string(getpid()));
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
  void WriteConfig(const std::string& more, const std::string& adapter = ", dropout: 0.1") const {
    std::ofstream(folder_ / "train.yaml") << "adapter: {rank: 4, alpha: 8" << adapter
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
    return Watch(name, more, [kill_at](int step, pid_t process) {
      if (step == kill_at) kill(process, SIGKILL);
    });
  }

  // Trains into `name`; `on_step` is called for each step that the process has printed.
  Outcome Watch(const std::string& name, const std::vector<std::string>& more,
                const std::function<void(int step, pid_t process)>& on_step) const {
    const std::string program = std::string(STRATA_BINARY_DIR) + "/bin/strata-client";
    std::vector<std::string> arguments = {program,     "train",
                                          "--model",   testing::GoldenDir("models/llama"),
                                          "--data",    folder_ / "data.jsonl",
                                          "--out",     out(name),
                                          "--config",  folder_ / "train.yaml",
                                          "--threads", "2",
                                          "--format",  "json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    std::array<int, 2> pipe_ends{};
    EXPECT_EQ(pipe(pipe_ends.data()), 0);
    const std::string errors = folder_ / "errors";
    const pid_t child = fork();
    if (child == 0) {
      std::vector<char*> argv;
      argv.reserve(arguments.size() + 1);
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
      const size_t before = outcome.steps.size();
      Keep(buffer.data(), outcome);
      if (outcome.steps.size() > before) on_step(outcome.steps.rbegin()->first, child);
    }
    fclose(lines);
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFEXITED(status)) outcome.code = WEXITSTATUS(status);
    outcome.errors = ReadText(errors);
    return outcome;
  }

  static void Keep(const std::string& line, Outcome& outcome) {
    const nlohmann::json parsed = nlohmann::json::parse(line, nullptr, false);
    if (!parsed.is_object()) return;  // cut by the kill
    if (parsed.contains("step")) outcome.steps[parsed["step"]] = line;
    if (parsed.contains("note")) outcome.notes.push_back(parsed);
    if (parsed.contains("done")) outcome.done = parsed;
  }

  std::filesystem::path folder_;
};

}  // namespace strata

#endif  // STRATA_TESTS_CLIENT_TRAIN_TRAIN_COMMAND_H_
