// strata-sim as a script sees it, on a model of a few thousand weights.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/adapter/adapter.h"
#include "common/runtime/posix_file_system.h"
#include "nlohmann/json.hpp"
#include "tests/testing/golden.h"
#include "tests/testing/status_matchers.h"

namespace strata {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

runtime::FileSystem& Files() {
  static runtime::PosixFileSystem files;
  return files;
}

struct Result {
  int code = -1;
  std::string out;
};

class StrataSim : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) / absl::StrCat("strata_sim_test-", getpid());
    std::filesystem::create_directories(folder_);
    std::string rows;
    for (int row = 0; row < 90; ++row) {  // easy to learn
      absl::StrAppend(&rows, "{\"kind\": \"k", row % 3, "\", \"input_ids\": [1");
      for (int i = 0; i < 8 + row / 3; ++i) absl::StrAppend(&rows, ", ", 3 + row % 3 + i % 4);
      absl::StrAppend(&rows, "]}\n");
    }
    Write("rows.jsonl", rows);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string Path(const std::string& name) const { return folder_ / name; }
  void Write(const std::string& name, const std::string& text) { ASSERT_OK(Files().WriteFile(Path(name), text)); }
  std::string Read(const std::string& name) const {
    const auto text = Files().ReadFile(Path(name));
    EXPECT_THAT(text, testing::IsOk());
    return text.value_or("");
  }
  json ReadJson(const std::string& name) const { return json::parse(Read(name), nullptr, false); }

  // Three sites, a step or two each.
  std::string Config(int rounds, const std::string& more = "") const {
    return absl::StrCat("model: ", testing::GoldenDir("models/llama"),
                        "\nsites: {count: 3, ranks: [2, 4, 3], data: ", Path("rows.jsonl"),
                        ", partition: dirichlet, key: kind}\nthreads: 1\nrounds: {count: ", rounds,
                        "}\ntraining: {steps: 2, batch_size: 4, adapter: {alpha: 8}, "
                        "optimizer: {learning_rate: 1e-2, schedule: constant}}\nevaluation: {holdout: 0.2}\n",
                        more);
  }

  // Runs a program of build/bin in a shell, standard error with standard output.
  static Result Run(const std::string& command) {
    FILE* pipe = popen(("exec bash -c '" STRATA_BINARY_DIR "/bin/" + command + " 2>&1'").c_str(), "r");
    Result result;
    std::array<char, 4096> buffer{};
    for (size_t n = 0; (n = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) result.out.append(buffer.data(), n);
    const int status = pclose(pipe);
    if (WIFEXITED(status)) result.code = WEXITSTATUS(status);
    return result;
  }
  Result Simulate(const std::string& config, const std::string& out, const std::string& flags = "") {
    Write("sim.yaml", config);
    return Run(absl::StrCat("strata-sim --config ", Path("sim.yaml"), " --out ", Path(out), " ", flags));
  }
  std::filesystem::path folder_;
};

TEST_F(StrataSim, LeavesReportAdapterAndRounds) {
  const Result result = Simulate(Config(2), "out");
  ASSERT_EQ(result.code, 0) << result.out;
  EXPECT_THAT(result.out, AllOf(HasSubstr("round 1: 3 sites"), HasSubstr("round 2: 3 sites"),
                                HasSubstr("done: 2 of 2 rounds"), HasSubstr("out/report.json")));
  const json report = ReadJson("out/report.json");
  ASSERT_EQ(report["rounds"].size(), 2U) << report;
  std::map<std::string, int> ranks;
  double weights = 0;
  for (const json& site : report["rounds"][1]["sites"]) {
    const std::string name = site["name"];
    ranks[name] = site["rank"];
    EXPECT_LT(site["loss_after"][name], site["loss_before"][name]) << site;
    EXPECT_GT(site["bytes_up"], 1000);
    EXPECT_GT(site["bytes_down"], 1000);  // the first round's blob
    EXPECT_GT(site["tokens_per_second"], 0);
    const json manifest = ReadJson("out/rounds/2/" + name + "/manifest.json");
    EXPECT_EQ(manifest["num_examples"], site["num_examples"]);
    EXPECT_EQ(manifest["weight"], site["weight"]);
    weights += manifest["weight"].get<double>();
    ASSERT_OK_AND_ASSIGN(const auto sent, adapter::ReadPeft(Files(), Path("out/rounds/2/" + name)));
    EXPECT_EQ(sent.first.modules().front().rank, site["rank"]);
    EXPECT_EQ(sent.first.modules().front().alpha, 8);
  }
  EXPECT_EQ(ranks, (std::map<std::string, int>{{"site-1", 2}, {"site-2", 4}, {"site-3", 3}}));
  EXPECT_NEAR(weights, 1, 1e-12);
  EXPECT_EQ(report["rounds"][0]["server"]["rank_in"], 9);
  EXPECT_LT(report["rounds"][0]["server"]["error"], 1e-6);
  for (const char* site : {"site-1", "site-2", "site-3"}) {
    EXPECT_LT(report["final"]["federated"][site], report["final"]["base"][site]) << report["final"];
  }
  EXPECT_EQ(report["final"]["best_single_site"], json::object());
  // Both rounds' increments, of rank 9 at most each.
  ASSERT_OK_AND_ASSIGN(const auto last, adapter::ReadPeft(Files(), Path("out/adapter")));
  EXPECT_GT(last.first.modules().front().rank, 9);
  EXPECT_FALSE(std::filesystem::exists(Path("out/sim/clients")));
}

// Threads, timing and the order of arrival leave no trace in the bytes; the seed does.
TEST_F(StrataSim, SameFileSameBytes) {
  ASSERT_EQ(Simulate(Config(2), "one").code, 0);
  ASSERT_EQ(Simulate(Config(2), "two").code, 0);
  ASSERT_EQ(Simulate(Config(2, "seed: 5\n"), "other").code, 0);
  const std::string tensors = "/adapter/adapter_model.safetensors";
  EXPECT_EQ(Read("one" + tensors), Read("two" + tensors));
  EXPECT_NE(Read("one" + tensors), Read("other" + tensors));
  EXPECT_EQ(Read("one/sim/data/site-1.jsonl"), Read("two/sim/data/site-1.jsonl"));
  EXPECT_NE(Read("one/sim/data/site-1.jsonl"), Read("other/sim/data/site-1.jsonl"));
}

// LibTorch brings MKL, whose functions have LAPACK's names. The server that has no LibTorch in it, which stratactl's
// aggregation is, gives the same bytes as the one in this process.
TEST_F(StrataSim, AddsUpAsAServerWithoutLibTorch) {
  for (const std::string kept : {"exact: true", "max_rank: 3"}) {
    ASSERT_EQ(Simulate(Config(1, absl::StrCat("aggregation: {", kept, "}\n")), "out").code, 0);
    std::string weights, folders;
    for (const char* site : {"site-1", "site-2", "site-3"}) {
      const std::string folder = absl::StrCat("out/rounds/1/", site);
      const json manifest = ReadJson(folder + "/manifest.json");
      absl::StrAppend(&weights, weights.empty() ? "" : ",", manifest["weight"].dump());
      absl::StrAppend(&folders, " ", Path(folder));
    }
    const Result sum = Run(absl::StrCat("stratactl aggregate ", kept == "max_rank: 3" ? "--max-rank 3" : "--exact",
                                        " --weights ", weights, " --out ", Path("sum"), folders));
    ASSERT_EQ(sum.code, 0) << sum.out;
    EXPECT_EQ(Read("sum/adapter_model.safetensors"), Read("out/adapter/adapter_model.safetensors")) << kept;
  }
}

TEST_F(StrataSim, TrainsSitesAloneWhenAsked) {
  const Result result = Simulate(Config(2, "single_sites: true\n"), "out", "--format json");
  ASSERT_EQ(result.code, 0) << result.out;
  const json report = json::parse(result.out, nullptr, false);
  EXPECT_EQ(report, ReadJson("out/report.json"));
  const json& last = report["final"];
  EXPECT_EQ(last["single_sites"].size(), 3U);
  EXPECT_EQ(last["best_single_site"], last["single_sites"][last["best_single_site_name"].get<std::string>()]);
  for (const auto& [site, loss] : last["base"].items()) {
    // Its own rows it has learnt from.
    EXPECT_LT(last["single_sites"][site][site], loss) << last;
  }
}

TEST_F(StrataSim, ReplacesItsOwnResultsAndNobodyElses) {
  ASSERT_EQ(Simulate(Config(2), "out").code, 0);
  Write("out/notes.txt", "kept");
  ASSERT_EQ(Simulate(Config(1), "out").code, 0);
  EXPECT_FALSE(std::filesystem::exists(Path("out/rounds/2")));
  EXPECT_EQ(Read("out/notes.txt"), "kept");
  std::filesystem::create_directories(Path("mine/rounds"));
  const Result refused = Simulate(Config(1), "mine");
  EXPECT_EQ(refused.code, 1);
  EXPECT_THAT(refused.out, AllOf(HasSubstr("holds `rounds`, which no simulation wrote"), HasSubstr("--out")));
}

TEST_F(StrataSim, MisuseIsToldAtOnceAndEndsWith2) {
  const Result faults =
      Simulate("model: m\nsites: {count: 2, data: d}\ntraning: {steps: 1}\nroundz: {count: 1}\n", "out");
  EXPECT_EQ(faults.code, 2);
  EXPECT_THAT(faults.out, AllOf(HasSubstr("sim.yaml:3: unknown key `traning`; did you mean `training`?"),
                                HasSubstr("sim.yaml:4: unknown key `roundz`; did you mean `rounds`?")));
  const Result files = Simulate("model: /no/model\nsites: {count: 2, data: /no/data}\nrounds: {count: 1}\n", "out");
  EXPECT_EQ(files.code, 2);
  EXPECT_THAT(files.out, AllOf(HasSubstr("error: model: "), HasSubstr("error: sites.data: ")));
  std::string config = Config(1);
  config.replace(config.find("alpha: 8"), 8, "target_modules: [q_prox]");
  const Result targets = Simulate(config, "out");
  EXPECT_EQ(targets.code, 2);
  EXPECT_THAT(targets.out, HasSubstr("error: training.adapter: "));
  EXPECT_EQ(Run("strata-sim --confg x").code, 2);
  EXPECT_EQ(Run("strata-sim --config /no/such.yaml").code, 2);
  EXPECT_FALSE(std::filesystem::exists(Path("out/report.json")));
}

TEST_F(StrataSim, ASiteThatCannotTrainEndsIt) {
  std::string config = Config(1);
  config.replace(config.find("1e-2"), 4, "1e+30");
  const Result result = Simulate(config, "out");
  EXPECT_EQ(result.code, 1) << result.out;
  EXPECT_THAT(result.out, AllOf(HasSubstr("error: site site-"), HasSubstr("use a lower learning_rate")));
}

TEST_F(StrataSim, ConfigFromStandardInputPrintsAndParsesBack) {
  Write("sim.yaml", Config(2));
  const Result printed = Run(absl::StrCat("strata-sim --print-config --config - < ", Path("sim.yaml")));
  ASSERT_EQ(printed.code, 0) << printed.out;
  EXPECT_THAT(printed.out, HasSubstr("partition: dirichlet"));
  Write("again.yaml", printed.out);
  EXPECT_EQ(Run(absl::StrCat("strata-sim --print-config --config ", Path("again.yaml"))).out, printed.out);
  EXPECT_THAT(Run("strata-sim --version").out, HasSubstr("strata-sim 0."));
  EXPECT_THAT(Run("strata-sim --help").out, HasSubstr("--print-config"));
}

// A round's line is the sign that there is something to be kept.
TEST_F(StrataSim, CtrlCKeepsTheRoundsThatWereDone) {
  Write("sim.yaml", Config(100000));
  std::array<int, 2> ends{};
  ASSERT_EQ(pipe(ends.data()), 0);
  const std::string config = Path("sim.yaml"), out = Path("out");
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDOUT_FILENO);
    dup2(ends[1], STDERR_FILENO);
    close(ends[0]);
    close(ends[1]);
    execl(STRATA_BINARY_DIR "/bin/strata-sim", "strata-sim", "--config", config.c_str(), "--out", out.c_str(), nullptr);
    _exit(127);
  }
  close(ends[1]);
  std::string shown;
  bool asked = false;
  std::array<char, 4096> buffer{};
  for (ssize_t n = 0; (n = read(ends[0], buffer.data(), buffer.size())) > 0;) {
    shown.append(buffer.data(), n);
    if (!asked && shown.find("round 2:") != std::string::npos) asked = kill(child, SIGINT) == 0;
  }
  close(ends[0]);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 130) << shown;
  EXPECT_THAT(shown, AllOf(HasSubstr("aborted: "), HasSubstr("interrupted")));
  const json report = ReadJson("out/report.json");
  EXPECT_EQ(report["state"], "aborted");
  EXPECT_GE(report["rounds"].size(), 2U);
  EXPECT_LT(report["rounds"].size(), 100000U);
  EXPECT_OK(adapter::ReadPeft(Files(), Path("out/adapter")).status());
  EXPECT_OK(adapter::ReadPeft(Files(), Path("out/rounds/2/site-3")).status());
}

}  // namespace
}  // namespace strata
