#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "common/adapter/adapter.h"
#include "common/runtime/posix_file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/common/adapter/adapters.h"
#include "tests/testing/golden.h"

namespace strata::adapter {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::MakeAdapter;
using ::testing::Not;

class PeftTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = std::string(STRATA_BINARY_DIR) + "/tests/peft-" +
            ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(root_);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void Write(const std::string& name, const std::string& content) {
    std::filesystem::create_directories(root_);
    std::ofstream(root_ + "/" + name, std::ios::binary) << content;
  }
  std::string root_;
  runtime::PosixFileSystem files_;
};

void ExpectSameAdapters(const Adapter& x, const Adapter& y) {
  ASSERT_EQ(x.modules().size(), y.modules().size());
  for (size_t i = 0; i < x.modules().size(); ++i) {
    const Factors& p = x.modules()[i];
    const Factors& q = y.modules()[i];
    EXPECT_EQ(p.module, q.module);
    EXPECT_EQ(p.rank, q.rank);
    EXPECT_DOUBLE_EQ(p.scaling, q.scaling) << p.module;
    EXPECT_TRUE(std::equal(p.a.data.begin(), p.a.data.end(), q.a.data.begin(), q.a.data.end()));
    EXPECT_TRUE(std::equal(p.b.data.begin(), p.b.data.end(), q.b.data.begin(), q.b.data.end()));
  }
}

TEST_F(PeftTest, RoundTripOfMixedRanksAndScalings) {
  const Adapter adapter = MakeAdapter({{"model.layers.0.self_attn.q_proj", 4, 6, 8, 8, 2},
                                       {"model.layers.0.self_attn.k_proj", 4, 3, 8, 8, 2},
                                       {"model.layers.1.self_attn.q_proj", 2, 6, 8, 0, 0.3},
                                       {"model.layers.11.self_attn.q_proj", 7, 6, 8, 7, 1},
                                       {"q_proj", 3, 6, 8, 3, 1}});
  for (const bool rslora : {false, true}) {
    ASSERT_TRUE(WritePeft(files_, root_, adapter, {.base_model = "some/base", .use_rslora = rslora}).ok());
    const auto read = ReadPeft(files_, root_);
    ASSERT_TRUE(read.ok()) << read.status();
    ExpectSameAdapters(adapter, read->first);
    EXPECT_EQ(read->second.base_model, "some/base");
    EXPECT_EQ(read->second.options.use_rslora, rslora);
    for (const Factors& factors : adapter.modules()) {
      EXPECT_EQ(read->second.RankOf(factors.module), factors.rank) << factors.module;
    }
  }
}

// "q_proj" is a suffix of the others: its entry must not catch them.
TEST_F(PeftTest, PatternsWhereOneNameEndsAnother) {
  const Adapter adapter = MakeAdapter({{"a.q", 8, 2, 2, 8, 1}, {"b.q", 8, 2, 2, 8, 1}, {"q", 3, 2, 2, 9, 3}});
  const auto config = ParsePeftConfig(PeftConfigJson(adapter, {}), "config");
  ASSERT_TRUE(config.ok()) << config.status();
  for (const Factors& factors : adapter.modules()) {
    EXPECT_EQ(config->RankOf(factors.module), factors.rank);
    EXPECT_EQ(config->ScalingOf(factors.module), factors.scaling);
  }
}

TEST_F(PeftTest, ModulesOfRankZeroAreLeftOutAndBytesAreReproducible) {
  const Adapter adapter = MakeAdapter({{"a", 2, 3, 4, 2, 1}, {"b", 0, 3, 4, 0, 1}});
  ASSERT_TRUE(WritePeft(files_, root_, adapter, {}).ok());
  const auto read = ReadPeft(files_, root_);
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->first.modules().size(), 1);
  EXPECT_EQ(PeftTensorBytes(adapter, {}), PeftTensorBytes(read->first, {}));
  const PeftWriteOptions options{.metadata = {{"strata.version", "3"}}};
  EXPECT_NE(PeftTensorBytes(adapter, options), PeftTensorBytes(adapter, {}));
}

// What PEFT saved goes out as it came in.
TEST_F(PeftTest, MagnitudesKeepThroughWriting) {
  const std::string golden = testing::GoldenDir("lora/small-qwen3-dora");
  const auto read = ReadPeft(files_, golden);
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_TRUE(WritePeft(files_, root_, read->first, {.use_rslora = true}).ok());
  const auto again = ReadPeft(files_, root_);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->second.options.use_dora);
  ExpectSameAdapters(read->first, again->first);
  const auto written = format::Safetensors::Open(files_, root_ + "/adapter_model.safetensors");
  const auto saved = format::Safetensors::Open(files_, golden + "/adapter_model.safetensors");
  ASSERT_TRUE(written.ok() && saved.ok());
  ASSERT_EQ(written->tensors().size(), saved->tensors().size());
  for (const format::TensorView& tensor : saved->tensors()) {
    const format::TensorView* found = written->Find(tensor.name);
    ASSERT_NE(found, nullptr) << tensor.name;
    EXPECT_TRUE(std::equal(tensor.data.begin(), tensor.data.end(), found->data.begin(), found->data.end()));
  }
}

TEST_F(PeftTest, WritesHalfPrecision) {
  const Adapter adapter = MakeAdapter({{"a", 2, 3, 4, 2, 1}});
  for (const auto dtype : {format::DType::kBF16, format::DType::kF16, format::DType::kF64}) {
    ASSERT_TRUE(WritePeft(files_, root_, adapter, {.dtype = dtype}).ok());
    const auto read = ReadPeft(files_, root_);
    ASSERT_TRUE(read.ok());
    EXPECT_EQ(read->first.modules()[0].a.dtype, dtype);
    std::vector<float> before(8);
    std::vector<float> after(8);
    ASSERT_TRUE(format::ToFloat(adapter.modules()[0].a, before).ok());
    ASSERT_TRUE(format::ToFloat(read->first.modules()[0].a, after).ok());
    for (size_t i = 0; i < 8; ++i) EXPECT_NEAR(after[i], before[i], 0x1p-8);
  }
  EXPECT_EQ(WritePeft(files_, root_, adapter, {.dtype = format::DType::kI8}).code(),
            absl::StatusCode::kInvalidArgument);
}

// What PEFT itself saved, and the ranks and scalings that its layers had.
int CompareWithGoldens(const std::string& directory) {
  runtime::PosixFileSystem files;
  int seen = 0;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    SCOPED_TRACE(entry.path());
    const auto read = ReadPeft(files, entry.path().string());
    EXPECT_TRUE(read.ok()) << read.status();
    if (!read.ok()) continue;
    std::ifstream in(entry.path() / "expected.json");
    const auto expected = nlohmann::json::parse(in);
    EXPECT_EQ(read->first.modules().size(), expected["scaling"].size());
    EXPECT_EQ(read->first.has_magnitudes(), entry.path().string().ends_with("-dora"));
    EXPECT_EQ(read->second.options.use_dora, read->first.has_magnitudes());
    for (const auto& [module, values] : expected["scaling"].items()) {
      const Factors* factors = read->first.Find(module);
      EXPECT_NE(factors, nullptr) << module;
      if (factors == nullptr) continue;
      EXPECT_EQ(factors->rank, values["r"]);
      EXPECT_DOUBLE_EQ(factors->scaling, values["scaling"].get<double>());
      EXPECT_EQ(read->second.RankOf(module), values["r"]);
      EXPECT_TRUE(IsTarget(read->second.options, module)) << module;
    }
    ++seen;
  }
  return seen;
}

TEST_F(PeftTest, GoldenAdapters) { EXPECT_GE(CompareWithGoldens(testing::GoldenDir("lora")), 6); }

TEST_F(PeftTest, FullGoldenAdapters) {
  const std::string directory = testing::FullGoldenDir("lora");
  if (directory.empty()) GTEST_SKIP() << "../shared/golden is not beside the checkout";
  EXPECT_GE(CompareWithGoldens(directory), 20);
}

TEST(ParsePeftConfigTest, EarlyReleases) {
  const auto config = ParsePeftConfig(R"({"peft_type": "LORA", "r": 4, "lora_alpha": 6, "target_modules": ["x", "y"],
      "bias": "none", "fan_in_fan_out": true, "enable_lora": null, "base_model_name_or_path": null})",
                                      "config");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->ScalingOf("a.x"), 1.5);
  EXPECT_TRUE(config->fan_in_fan_out);
  EXPECT_TRUE(config->unsupported.empty());
  EXPECT_FALSE(config->options.use_rslora);
}

TEST(ParsePeftConfigTest, PatternsKeepTheOrderOfTheFile) {
  const auto config = ParsePeftConfig(R"({"r": 4, "lora_alpha": 8, "use_rslora": true,
      "rank_pattern": {"q_proj": 16, "layers.0.q_proj": 2, "a.*": 3}, "alpha_pattern": {"z|q_proj": 4}})",
                                      "config");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->RankOf("layers.0.q_proj"), 16);
  EXPECT_EQ(config->RankOf("abc"), 3);
  EXPECT_EQ(config->ScalingOf("layers.0.q_proj"), 1);
  EXPECT_EQ(config->ScalingOf("k"), 4);
}

TEST(ParsePeftConfigTest, ReportsEveryFault) {
  const auto config = ParsePeftConfig(R"({"r": 0, "lora_alpha": "8", "target_modules": [1], "layers_to_transform": -1,
      "rank_pattern": {"q": 1.5}, "alpha_pattern": {"(": 2}, "use_rslora": 1})",
                                      "my/config.json");
  ASSERT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(config.status().message()),
              AllOf(HasSubstr("my/config.json: r: expected a rank"), HasSubstr("lora_alpha: expected a finite number"),
                    HasSubstr("target_modules"), HasSubstr("layers_to_transform"), HasSubstr("rank_pattern.q"),
                    HasSubstr("alpha_pattern: '('"), HasSubstr("use_rslora")));
  for (const char* text : {"", "[]", "{", "nul", "{\"peft_type\": \"ADALORA\"}", "{\"peft_type\": 3}"}) {
    EXPECT_EQ(ParsePeftConfig(text, "x").status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(ParsePeftConfigTest, FeaturesThatChangeTheUpdateAreNamed) {
  for (const char* feature :
       {R"("bias": "all")", R"("layer_replication": [[0, 2]])", R"("modules_to_save": ["lm_head"])",
        R"("init_lora_weights": "pissa_niter_4")", R"("lora_bias": true)", R"("target_parameters": ["x"])"}) {
    const auto config = ParsePeftConfig(std::string("{") + feature + "}", "config");
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->unsupported.size(), 1) << feature;
  }
  EXPECT_TRUE(ParsePeftConfig(R"({"init_lora_weights": "gaussian", "modules_to_save": []})", "x")->unsupported.empty());
}

TEST(ParsePeftConfigTest, HostileBytesAreRefusedOrRead) {
  std::ifstream in(testing::GoldenDir("lora/llama-pattern/adapter_config.json"));
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  for (size_t i = 0; i < text.size(); ++i) {
    std::string changed = text;
    for (const char c : {'\0', '"', '{', '\x80', '9'}) {
      changed[i] = c;
      ParsePeftConfig(changed, "x").IgnoreError();
    }
    ParsePeftConfig(text.substr(0, i), "x").IgnoreError();
  }
  ParsePeftConfig(std::string(100000, '['), "x").IgnoreError();
}

TEST_F(PeftTest, WhatContradictsItselfIsRefused) {
  const auto is_refused = [&](const std::string& what, const std::string& also = "") {
    const auto read = ReadPeft(files_, root_);
    EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument) << what;
    EXPECT_THAT(std::string(read.status().message()),
                AllOf(HasSubstr(root_ + "/adapter_model.safetensors: "), HasSubstr(what), HasSubstr(also)));
  };
  const auto write = [&](float value, format::DType dtype) {
    AdapterBuilder builder;
    builder.Add("x.a", 2, 3, 2, 2, 1, std::vector<float>(4, 1), {0, 0, 0, 0, 0, value});
    builder.AddMagnitude({1, value, 1});
    ASSERT_TRUE(WritePeft(files_, root_, std::move(builder).Build(), {.dtype = dtype}).ok());
  };
  for (const auto dtype : {format::DType::kF32, format::DType::kF16, format::DType::kBF16, format::DType::kF64}) {
    for (const float value : {NAN, INFINITY, -INFINITY}) {
      write(value, dtype);
      is_refused("'base_model.model.x.a.lora_B.weight' holds elements that are not finite",
                 "'base_model.model.x.a.lora_magnitude_vector' holds");
    }
  }
  write(1, format::DType::kF32);
  EXPECT_TRUE(ReadPeft(files_, root_).ok());
  for (const char* config :
       {R"({"r": 3, "use_dora": true})", R"({"r": 2, "rank_pattern": {"a": 3}, "use_dora": true})"}) {
    Write("adapter_config.json", config);
    is_refused("module 'x.a': the factors have rank 2, adapter_config.json says 3 (r, rank_pattern)");
  }
  Write("adapter_config.json", R"({"r": 3, "rank_pattern": {"a": 2}, "use_dora": true})");
  EXPECT_TRUE(ReadPeft(files_, root_).ok());
}

TEST_F(PeftTest, ForAModelNothingThatTheConfigNamesMayBeMissing) {
  const std::vector<config::ModuleShape> modules = {{"m.layers.0.q", 3, 2},
                                                    {"m.layers.0.k", 3, 2},
                                                    {"m.layers.1.q", 3, 2},
                                                    {"m.layers.1.k", 3, 2},
                                                    {"lm_head", 3, 2}};
  const auto read = [&](const std::string& targets) {
    Write("adapter_config.json", "{\"r\": 2, " + targets + "}");
    return std::string(ReadPeftFor(modules, files_, root_).status().message());
  };
  const auto lacks = [&](const std::string& names) {
    return HasSubstr("adapter_model.safetensors: has no factors of " + names);
  };
  ASSERT_TRUE(WritePeft(files_, root_, MakeAdapter({{"m.layers.1.q", 2, 3, 2, 2, 1}}), {}).ok());
  EXPECT_TRUE(ReadPeftFor(modules, files_, root_).ok());
  EXPECT_THAT(read(R"("target_modules": ["q"])"),
              lacks("1 modules of the model that adapter_config.json names (target_modules): m.layers.0.q"));
  EXPECT_THAT(read(R"("target_modules": "all-linear")"), HasSubstr("m.layers.0.q, m.layers.0.k, m.layers.1.k"));
  EXPECT_THAT(read(R"("target_modules": "all-linear")"), Not(HasSubstr("lm_head")));
  EXPECT_THAT(read(R"("target_modules": ["m.layers.1.q", "lm_head"])"), lacks("1 modules"));
  for (const char* left_out : {R"("target_modules": ["q", "k"], "layers_to_transform": 1, "exclude_modules": ["k"])",
                               R"("target_modules": ".*1\\.q")", R"("target_modules": ["q", "elsewhere"],
                               "layers_to_transform": [1])"}) {
    EXPECT_EQ(read(left_out), "");
  }
  // What a zero update is written as.
  ASSERT_TRUE(WritePeft(files_, root_, MakeAdapter({}), {}).ok());
  EXPECT_TRUE(ReadPeftFor(modules, files_, root_).ok());
  EXPECT_THAT(read(R"("target_modules": ["elsewhere"])"), HasSubstr("adapter_model.safetensors: holds no factors"));
  EXPECT_THAT(read(R"("target_modules": ["q"])"), lacks("2 modules"));
  EXPECT_THAT(read(R"("target_modules": null)"), HasSubstr("holds no factors"));
}

TEST_F(PeftTest, MissingFilesAndUnsupportedFeaturesAreNamed) {
  EXPECT_EQ(ReadPeft(files_, root_).status().code(), absl::StatusCode::kNotFound);
  Write("adapter_config.json", R"({"peft_type": "LORA", "lora_bias": true})");
  EXPECT_THAT(std::string(ReadPeft(files_, root_).status().message()), HasSubstr("lora_bias"));
  Write("adapter_config.json", R"({"peft_type": "LORA"})");
  EXPECT_EQ(ReadPeft(files_, root_).status().code(), absl::StatusCode::kNotFound);
  Write("adapter_model.safetensors", "short");
  EXPECT_EQ(ReadPeft(files_, root_).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace strata::adapter
