// strata-client merge and inspect as a script sees them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <string>

#include "common/adapter/adapter.h"
#include "common/adapter/gguf_adapter.h"
#include "common/runtime/posix_file_system.h"
#include "nlohmann/json.hpp"
#include "tests/testing/golden.h"
#include "tests/testing/run_client.h"
#include "tests/testing/status_matchers.h"

namespace strata {
namespace {

using Json = nlohmann::json;
using testing::GoldenDir;
using ::testing::HasSubstr;
using testing::ProgramResult;
using testing::RunClient;

class ExportCommands : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) / "export_commands_test";
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string Path(const std::string& name) { return folder_ / name; }
  static Json Parsed(const ProgramResult& result) {
    EXPECT_EQ(result.code, 0) << result.out;
    return Json::parse(result.out, nullptr, false);
  }
  const std::string merge_ =
      "merge --model " + GoldenDir("models/llama") + " --adapter " + GoldenDir("lora/llama-pattern") + " --out ";
  std::filesystem::path folder_;
};

TEST_F(ExportCommands, MergeWritesWhatInspectReads) {
  const Json hf = Parsed(RunClient("", merge_ + Path("hf") + " --format json"));
  EXPECT_EQ(hf["format"], "hf");
  EXPECT_EQ(hf["merged_modules"], 14);
  EXPECT_LT(hf["rounding_error"], 1e-5);
  const Json gguf = Parsed(RunClient("", merge_ + Path("m.gguf") + " --dtype q8_0 --format json"));
  EXPECT_EQ(gguf["format"], "gguf");
  EXPECT_EQ(gguf["out"], Path("m.gguf"));
  EXPECT_GT(gguf["rounding_error"], hf["rounding_error"]);
  const Json in_folder = Parsed(RunClient("", merge_ + Path("folder") + " --format gguf --format json"));
  EXPECT_EQ(in_folder["out"], Path("folder/model.gguf"));

  const Json source = Parsed(RunClient("", "inspect --format json " + GoldenDir("models/llama")));
  EXPECT_EQ(source["kind"], "model");
  for (const char* name : {"hf", "m.gguf", "folder/model.gguf"}) {
    const Json read = Parsed(RunClient("", "inspect --format json " + Path(name)));
    EXPECT_EQ(read["architecture"], "llama");
    EXPECT_EQ(read["totals"]["parameters"], source["totals"]["parameters"]);
    EXPECT_EQ(read["totals"]["modules"], 20);
  }
}

TEST_F(ExportCommands, MergeRefusesWhatItCannotDo) {
  EXPECT_EQ(RunClient("", "merge --model x --out y").code, 2) << "--adapter is missing";
  EXPECT_EQ(RunClient("", merge_ + Path("x") + " --dtype q4_0").code, 2);
  EXPECT_EQ(RunClient("", merge_ + Path("x") + " --dtype q8_0").code, 2);
  std::filesystem::create_directories(Path("there"));
  const ProgramResult there = RunClient("", merge_ + Path("there"));
  EXPECT_EQ(there.code, 1);
  EXPECT_THAT(there.out, HasSubstr("is there already"));
}

TEST_F(ExportCommands, InspectShowsMagnitudes) {
  const std::string adapter = GoldenDir("lora/small-qwen3-dora");
  const Json json = Parsed(RunClient("", "inspect --format json " + adapter));
  for (const Json& module : json["modules"]) {
    EXPECT_GT(module["magnitude"]["min"].get<double>(), 0);
    EXPECT_LT(module["magnitude"]["min"], module["magnitude"]["mean"]);
    EXPECT_LT(module["magnitude"]["mean"], module["magnitude"]["max"]);
  }
  // Ranks of 3 beside k [16, 24], o [24, 32] and gate [32, 24], in two layers.
  EXPECT_EQ(json["totals"]["parameters"], 2 * (3 * (16 + 24) + 16 + 3 * (24 + 32) + 24 + 3 * (32 + 24) + 32));
  EXPECT_THAT(RunClient("", "inspect " + adapter).out, HasSubstr("magnitudes"));
}

TEST_F(ExportCommands, InspectMeasuresAnAdapter) {
  const std::string adapter = GoldenDir("lora/llama-pattern");
  const Json json = Parsed(RunClient("", "inspect --format json " + adapter));
  EXPECT_EQ(json["kind"], "adapter");
  ASSERT_EQ(json["modules"].size(), 14U);
  double squared = 0;
  for (const Json& module : json["modules"]) {
    const auto values = module["singular_values"].get<std::vector<double>>();
    EXPECT_EQ(values.size(), module["rank"]);
    double sum = 0;
    for (const double value : values) sum += value * value;
    EXPECT_NEAR(module["norm"].get<double>(), std::sqrt(sum), 1e-12);
    EXPECT_DOUBLE_EQ(module["scaling"].get<double>(), module["alpha"].get<double>() / module["rank"].get<double>());
    squared += sum;
  }
  EXPECT_NEAR(json["totals"]["norm"].get<double>(), std::sqrt(squared), 1e-12);
  const ProgramResult text = RunClient("", "inspect " + adapter);
  EXPECT_EQ(text.code, 0);
  EXPECT_THAT(text.out, HasSubstr("14 modules, "));
  EXPECT_EQ(RunClient("", "inspect /nowhere/at/all").code, 1);
}

TEST_F(ExportCommands, InspectSaysWhatAGgufAdapterIsStoredAs) {
  runtime::PosixFileSystem files;
  ASSERT_OK_AND_ASSIGN(const auto read, adapter::ReadPeft(files, GoldenDir("lora/llama-pattern")));
  ASSERT_OK_AND_ASSIGN(const adapter::GgufBase base, adapter::ReadGgufBase(files, GoldenDir("models/llama")));
  ASSERT_OK(adapter::WriteGgufAdapter(files, Path("a.gguf"), read.first, base, format::GgufType::kF16));
  const Json json = Parsed(RunClient("", "inspect --format json " + Path("a.gguf")));
  ASSERT_EQ(json["modules"].size(), 14U);
  for (const Json& module : json["modules"]) EXPECT_EQ(module["dtype"], "F16");
  EXPECT_EQ(json["totals"]["bytes"], json["totals"]["parameters"].get<uint64_t>() * 2);
}

}  // namespace
}  // namespace strata
