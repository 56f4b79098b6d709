#include "server/ctl/aggregate_command.h"

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/server/aggregate/golden_case.h"

namespace strata {
namespace {

using testing::GoldenCase;
using ::testing::HasSubstr;

struct Ran {
  int code = -1;
  std::string out, err;
};

Ran RunStratactl(std::vector<std::string> arguments) {
  CLI::App app;
  Ran ran;
  AddAggregateCommand(app, ran.code);
  std::reverse(arguments.begin(), arguments.end());
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  try {
    app.parse(arguments);
  } catch (const CLI::ParseError& error) {
    ran.code = 2;
  }
  ran.out = ::testing::internal::GetCapturedStdout();
  ran.err = ::testing::internal::GetCapturedStderr();
  return ran;
}

std::string Slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

class AggregateCommandTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::replace(name.begin(), name.end(), '/', '-');
    root_ = std::string(STRATA_BINARY_DIR) + "/tests/ctl-" + name;
    std::filesystem::remove_all(root_);
    std::filesystem::create_directories(root_);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  // A site of a golden case as PEFT would have saved it: alpha per module so that alpha / r (or alpha / sqrt(r)) is the
  // scaling.
  std::string WriteSite(GoldenCase& golden, size_t index) {
    const auto& client = golden.json()["clients"][index];
    std::string directory = root_ + "/" + std::string(client["site"]);
    std::filesystem::create_directories(directory);
    std::filesystem::copy_file(golden.directory() + "/" + std::string(client["site"]) + ".safetensors",
                               directory + "/adapter_model.safetensors");
    nlohmann::ordered_json config = {{"peft_type", "LORA"}, {"r", 1}, {"lora_alpha", client["lora_alpha"]}};
    config["use_rslora"] = client["use_rslora"];
    for (const auto& [module, entry] : client["modules"].items()) {
      config["target_modules"].push_back(module);
      config["rank_pattern"][module] = std::max<int64_t>(1, entry["r"]);
    }
    std::ofstream(directory + "/adapter_config.json") << config.dump();
    return directory;
  }

  std::string root_;
};

TEST_P(AggregateCommandTest, GoldenSumsInFp32) {
  GoldenCase golden(GetParam());
  std::vector<std::string> arguments = {"aggregate", "--format", "json", "--out", root_ + "/out", "--weights"};
  std::string weights;
  for (const aggregate::Member& member : golden.members()) {
    char text[32];
    std::snprintf(text, sizeof(text), "%s%.17g", weights.empty() ? "" : ",", member.weight);
    weights += text;
  }
  arguments.push_back(weights);
  for (size_t i = 0; i < golden.members().size(); ++i) arguments.push_back(WriteSite(golden, i));
  for (const char* kind : {"--exact", "--stack"}) {
    std::vector<std::string> with_kind = arguments;
    with_kind.insert(with_kind.begin() + 1, kind);
    const Ran ran = RunStratactl(with_kind);
    ASSERT_EQ(ran.code, 0) << ran.err;
    const auto report = nlohmann::json::parse(ran.out);
    if (std::string(kind) == "--exact") {
      EXPECT_LE(report["error"].get<double>(), 1e-6);
    }
    const auto read = adapter::ReadPeft(golden.files(), root_ + "/out");
    ASSERT_TRUE(read.ok()) << read.status();
    ASSERT_EQ(report["modules"].size(), golden.json()["modules"].size());
    size_t index = 0;
    for (const auto& [module, entry] : golden.json()["modules"].items()) {
      SCOPED_TRACE(module);
      const auto& line = report["modules"][index++];
      EXPECT_EQ(line["name"], module);
      const std::vector<double> dense = golden.expected("dense." + module);
      const std::vector<double> found = GoldenCase::Product(read->first, module, entry["shape"][0], entry["shape"][1]);
      // Relative to the sum; the rounding of a raw stack is relative to the factors, which may cancel in the sum.
      const double norm = GoldenCase::Norm(dense);
      const double unit = std::string(kind) == "--stack" ? std::max(norm, golden.Gauge(module)) : norm;
      EXPECT_LE(GoldenCase::Distance(found, dense), 1e-6 * unit);
      const adapter::Factors* factors = read->first.Find(module);
      EXPECT_EQ(line["rank_out"], factors == nullptr ? 0 : factors->rank);
      if (factors != nullptr) {
        EXPECT_EQ(factors->scaling, 1);
        EXPECT_EQ(factors->alpha, static_cast<double>(factors->rank));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, AggregateCommandTest, ::testing::ValuesIn(testing::AggregateCases()),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

class AggregateCommandFlags : public AggregateCommandTest {};

TEST_F(AggregateCommandFlags, AdaptersWithMagnitudesAreRefused) {
  const std::string dora = testing::GoldenDir("lora/small-qwen3-dora");
  const Ran ran = RunStratactl({"aggregate", "--out", root_ + "/out", dora, dora});
  EXPECT_EQ(ran.code, 1);
  EXPECT_THAT(ran.err, ::testing::AllOf(HasSubstr(dora), HasSubstr("use_dora")));
  EXPECT_FALSE(std::filesystem::exists(root_ + "/out"));
}

TEST_F(AggregateCommandFlags, EqualWeightsByDefaultAndANoteWhenWeightsDoNotSumToOne) {
  GoldenCase golden("unequal-alpha");
  std::vector<std::string> sites;
  for (size_t i = 0; i < golden.members().size(); ++i) sites.push_back(WriteSite(golden, i));
  std::vector<std::string> arguments = {"aggregate", "--out", root_ + "/mean", "--format=json"};
  arguments.insert(arguments.end(), sites.begin(), sites.end());
  const Ran mean = RunStratactl(arguments);
  ASSERT_EQ(mean.code, 0) << mean.err;
  EXPECT_EQ(mean.err, "");
  for (const auto& weight : nlohmann::json::parse(mean.out)["weights"]) {
    EXPECT_EQ(weight, 1.0 / static_cast<double>(sites.size()));
  }
  std::string ones = "1";
  for (size_t i = 1; i < sites.size(); ++i) ones += ",1";
  arguments[2] = root_ + "/sum";
  arguments.insert(arguments.end(), {"--weights", ones, "--compare"});
  const Ran sum = RunStratactl(arguments);
  ASSERT_EQ(sum.code, 0) << sum.err;
  EXPECT_THAT(sum.err, HasSubstr("note: the weights sum to " + std::to_string(sites.size()) + ", not to 1"));
  EXPECT_GT(nlohmann::json::parse(sum.out)["zero_pad_distance"].get<double>(), 0);
  const auto one = adapter::ReadPeft(golden.files(), root_ + "/mean");
  const auto all = adapter::ReadPeft(golden.files(), root_ + "/sum");
  const adapter::Factors& factors = one->first.modules().front();
  std::vector<double> expected = GoldenCase::Product(one->first, factors.module, factors.out, factors.in);
  for (double& value : expected) value *= static_cast<double>(sites.size());
  EXPECT_LE(GoldenCase::Distance(GoldenCase::Product(all->first, factors.module, factors.out, factors.in), expected),
            1e-6 * GoldenCase::Norm(expected));
}

TEST_F(AggregateCommandFlags, TruncationsAndTable) {
  GoldenCase golden("hetero");
  std::vector<std::string> arguments = {"aggregate", "--out", root_ + "/out", "--max-rank", "3"};
  for (size_t i = 0; i < golden.members().size(); ++i) arguments.push_back(WriteSite(golden, i));
  const Ran ran = RunStratactl(arguments);
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_THAT(ran.out, HasSubstr("model.layers.1.mlp.down_proj"));
  const auto read = adapter::ReadPeft(golden.files(), root_ + "/out");
  for (const adapter::Factors& factors : read->first.modules()) EXPECT_EQ(factors.rank, 3);
  arguments[3] = "--energy";
  arguments[4] = "0.5";
  ASSERT_EQ(RunStratactl(arguments).code, 0);
  const auto half = adapter::ReadPeft(golden.files(), root_ + "/out");
  for (const adapter::Factors& factors : half->first.modules()) EXPECT_LE(factors.rank, 12);
}

TEST_F(AggregateCommandFlags, SameBytesOnOneAndManyThreads) {
  GoldenCase golden("hetero");
  std::vector<std::string> arguments = {"aggregate", "--out", root_ + "/one", "--threads", "1"};
  for (size_t i = 0; i < golden.members().size(); ++i) arguments.push_back(WriteSite(golden, i));
  ASSERT_EQ(RunStratactl(arguments).code, 0);
  arguments[2] = root_ + "/four";
  arguments[4] = "4";
  ASSERT_EQ(RunStratactl(arguments).code, 0);
  for (const char* file : {"/adapter_model.safetensors", "/adapter_config.json"}) {
    EXPECT_EQ(Slurp(root_ + "/one" + file), Slurp(root_ + "/four" + file));
  }
}

TEST_F(AggregateCommandFlags, Misuse) {
  GoldenCase golden("single");
  const std::string site = WriteSite(golden, 0);
  const std::string out = root_ + "/out";
  EXPECT_EQ(RunStratactl({"aggregate", "--out", out}).code, 2);
  EXPECT_EQ(RunStratactl({"aggregate", site}).code, 2);
  EXPECT_EQ(RunStratactl({"aggregate", "--exact", "--stack", "--out", out, site}).code, 2);
  EXPECT_EQ(RunStratactl({"aggregate", "--energy", "1.5", "--out", out, site}).code, 2);
  EXPECT_EQ(RunStratactl({"aggregate", "--max-rank", "0", "--out", out, site}).code, 2);
  EXPECT_EQ(RunStratactl({"aggregate", "--dtype", "int3", "--out", out, site}).code, 2);
  EXPECT_EQ(RunStratactl({"aggregate", "--weights", "1,2", "--out", out, site}).code, 2);
  EXPECT_EQ(RunStratactl({"aggregate", "--weights", "nan", "--out", out, site}).code, 2);
  EXPECT_EQ(RunStratactl({"aggregate", "--weights", "0", "--out", out, site}).code, 2);
  const Ran missing = RunStratactl({"aggregate", "--out", out, root_ + "/nowhere"});
  EXPECT_EQ(missing.code, 1);
  EXPECT_THAT(missing.err, HasSubstr("nowhere"));
  EXPECT_FALSE(std::filesystem::exists(out));
}

}  // namespace
}  // namespace strata
