#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <set>

#include "client/model/model_config.h"
#include "client/model/model_files.h"
#include "common/status/cat.h"
#include "nlohmann/json.hpp"
#include "tests/client/model/model_folder.h"

namespace strata::model {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::StatusIs;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

TEST(HfConfig, BothKeyStylesGiveTheSameModel) {
  for (const char* name : {"llama", "llama-rope3", "llama-sharded-bf16", "small-mistral", "small-qwen2", "small-qwen3",
                           "small-phi3", "small-gemma2", "small-gemma3", "small-gemma3-vision", "small-gpt2",
                           "small-llama-dynamic", "small-qwen2-yarn", "small-phi3-longrope"}) {
    ModelFolder folder(name);
    ASSERT_OK_AND_ASSIGN(const ModelConfig v5, ParseHfConfig(folder.Read("config.json"), "v5"));
    ASSERT_OK_AND_ASSIGN(const ModelConfig v4, ParseHfConfig(folder.Read("config.v4.json"), "v4"));
    EXPECT_EQ(v5.Canonical(), v4.Canonical());
    EXPECT_EQ(v5.max_positions, v4.max_positions);
    EXPECT_EQ(v5.norm_eps, v4.norm_eps);
  }
}

TEST(HfConfig, WhatIsWrittenIsReadAgain) {
  for (const std::string& folder : testing::GoldenCases("models")) {
    const std::string path = folder + "/config.json";
    SCOPED_TRACE(path);
    ASSERT_OK_AND_ASSIGN(const ModelConfig config, ParseHfConfig(format::ReadAll(path), path));
    ASSERT_OK_AND_ASSIGN(const ModelConfig again, ParseHfConfig(HfConfigText(config), "written"));
    EXPECT_EQ(again.Canonical(), config.Canonical());
    EXPECT_EQ(again.max_positions, config.max_positions);
  }
}

// transformers' configurations are strict about which is which, also where a float is a whole number.
TEST(HfConfig, FloatsAreWrittenAsFloatsAndIntegersAsIntegers) {
  const std::set<std::string> floats = {"rms_norm_eps",
                                        "layer_norm_epsilon",
                                        "rope_theta",
                                        "rope_local_base_freq",
                                        "partial_rotary_factor",
                                        "attn_logit_softcapping",
                                        "final_logit_softcapping",
                                        "factor",
                                        "low_freq_factor",
                                        "high_freq_factor",
                                        "beta_fast",
                                        "beta_slow",
                                        "attention_factor"};
  std::set<std::string> seen;
  const std::function<void(const nlohmann::json&)> check = [&](const nlohmann::json& object) {
    for (const auto& [key, value] : object.items()) {
      if (value.is_object()) check(value);
      if (!value.is_number()) continue;
      EXPECT_EQ(value.is_number_float(), floats.contains(key)) << key << ": " << value;
      if (floats.contains(key)) seen.insert(key);
    }
  };
  for (const std::string& folder : testing::GoldenCases("models")) {
    const std::string path = folder + "/config.json";
    SCOPED_TRACE(path);
    ASSERT_OK_AND_ASSIGN(ModelConfig config, ParseHfConfig(format::ReadAll(path), path));
    if (config.attention_softcap > 0) config.attention_softcap = 50;
    if (config.logit_softcap > 0) config.logit_softcap = 30;
    check(nlohmann::json::parse(HfConfigText(config)));
  }
  EXPECT_EQ(seen, floats);
}

TEST(HfConfig, ReadsLlama3Scaling) {
  ModelFolder folder("llama-rope3");
  for (const char* file : {"config.json", "config.v4.json"}) {
    ASSERT_OK_AND_ASSIGN(const ModelConfig config, ParseHfConfig(folder.Read(file), file));
    EXPECT_EQ(config.rope.scaling, RopeScaling::kLlama3);
    EXPECT_EQ(config.rope.factor, 8);
    EXPECT_EQ(config.rope.low_freq_factor, 1);
    EXPECT_EQ(config.rope.high_freq_factor, 4);
    EXPECT_EQ(config.rope.original_max_positions, 32);
    EXPECT_EQ(config.num_kv_heads, 1);
    EXPECT_FALSE(config.tied_embeddings);
  }
}

TEST(HfConfig, ReadsTheOldSpellingOfLinearScalingAndFillsDefaults) {
  const std::string json =
      R"({"model_type":"llama","hidden_size":8,"intermediate_size":16,"num_hidden_layers":1,"num_attention_heads":2,)"
      R"("vocab_size":10,"rope_scaling":{"type":"linear","factor":2.0}})";
  ASSERT_OK_AND_ASSIGN(const ModelConfig config, ParseHfConfig(json, "config.json"));
  EXPECT_EQ(config.rope.scaling, RopeScaling::kLinear);
  EXPECT_EQ(config.rope.factor, 2);
  EXPECT_EQ(config.num_kv_heads, 2);
  EXPECT_EQ(config.head_dim, 4);
  EXPECT_EQ(config.rope.theta, 10000);
  EXPECT_EQ(config.norm_eps, 1e-6);
  EXPECT_FALSE(config.tied_embeddings);
}

TEST(HfConfig, WhateverChangesTheResultChangesTheCanonicalText) {
  const auto config = [] {
    ModelConfig c{.architecture = "llama", .windows = {4}};
    c.rope.scaling = RopeScaling::kLlama3;
    c.window_rope.scaling = RopeScaling::kYarn;
    return c;
  };
  const std::vector<std::function<void(ModelConfig&)>> changes = {
      [](ModelConfig& c) { c.hidden_size = 1; },
      [](ModelConfig& c) { c.num_kv_heads = 1; },
      [](ModelConfig& c) { c.norm_eps = 1e-5; },
      [](ModelConfig& c) { c.norm = NormKind::kLayer; },
      [](ModelConfig& c) { c.unit = kernels::Unit::kGeglu; },
      [](ModelConfig& c) { c.unit = kernels::Unit::kGelu; },
      [](ModelConfig& c) { c.learned_positions = true; },
      [](ModelConfig& c) { c.rope.theta = 5e5; },
      [](ModelConfig& c) { c.rope.scaling = RopeScaling::kNone; },
      [](ModelConfig& c) { c.rope.scaling = RopeScaling::kLinear; },
      [](ModelConfig& c) { c.rope.scaling = RopeScaling::kDynamic; },
      [](ModelConfig& c) { c.rope.scaling = RopeScaling::kLongRope; },
      [](ModelConfig& c) { c.rope.share = 0.5; },
      [](ModelConfig& c) { c.rope.factor = 2; },
      [](ModelConfig& c) { c.rope.low_freq_factor = 2; },
      [](ModelConfig& c) { c.rope.high_freq_factor = 8; },
      [](ModelConfig& c) { c.rope.original_max_positions = 4096; },
      [](ModelConfig& c) { c.window_rope.theta = 5e5; },
      [](ModelConfig& c) { c.window_rope.beta_fast = 16; },
      [](ModelConfig& c) { c.window_rope.beta_slow = 2; },
      [](ModelConfig& c) { c.window_rope.attention_factor = 1.5; },
      [](ModelConfig& c) { c.window_rope.truncate = false; },
      [](ModelConfig& c) { c.windows = {5}; },
      [](ModelConfig& c) { c.windows = {}; },
      [](ModelConfig& c) { c.query_scalar = 20; },
      [](ModelConfig& c) { c.attention_softcap = 50; },
      [](ModelConfig& c) { c.logit_softcap = 30; },
      [](ModelConfig& c) { c.scaled_embeddings = true; },
      [](ModelConfig& c) { c.tied_embeddings = true; },
      [](ModelConfig& c) { c.qkv_bias = true; },
      [](ModelConfig& c) { c.output_bias = true; },
      [](ModelConfig& c) { c.mlp_bias = true; },
  };
  std::set<std::string> texts = {config().Canonical()};
  for (const auto& change : changes) {
    ModelConfig changed = config();
    change(changed);
    texts.insert(changed.Canonical());
  }
  EXPECT_EQ(texts.size(), changes.size() + 1);
}

// What transformers takes where a published config.json leaves a key out or says null.
TEST(HfConfig, FillsInWhatEachFamilyImplies) {
  const auto parse = [](const std::string& more) {
    return ParseHfConfig(R"({"hidden_size":128,"intermediate_size":16,"num_hidden_layers":4,"num_attention_heads":64,)"
                         R"("vocab_size":10,)" +
                             more + "}",
                         "config.json");
  };
  ASSERT_OK_AND_ASSIGN(const ModelConfig mistral, parse(R"("model_type":"mistral")"));
  EXPECT_EQ(mistral.windows, std::vector<int64_t>(4, 4096));
  EXPECT_EQ(mistral.num_kv_heads, 8);
  ASSERT_OK_AND_ASSIGN(const ModelConfig open,
                       parse(R"("model_type":"mistral","sliding_window":null,"num_key_value_heads":null)"));
  EXPECT_TRUE(open.windows.empty());
  EXPECT_EQ(open.num_kv_heads, 64);
  ASSERT_OK_AND_ASSIGN(const ModelConfig listed,
                       parse(R"("model_type":"mistral","sliding_window":7,"layer_types":["full_attention",)"
                             R"("sliding_attention","sliding_attention","full_attention"])"));
  EXPECT_EQ(listed.windows, (std::vector<int64_t>{0, 7, 7, 0}));
  ASSERT_OK_AND_ASSIGN(const ModelConfig again, ParseHfConfig(HfConfigText(listed), "written"));
  EXPECT_EQ(again.windows, listed.windows);
  EXPECT_THAT(HfConfigText(mistral), Not(HasSubstr("layer_types"))) << "transformers makes another class of it";
  ASSERT_OK_AND_ASSIGN(const ModelConfig qwen, parse(R"("model_type":"qwen2","sliding_window":7)"));
  EXPECT_EQ(qwen.num_kv_heads, 32);
  EXPECT_TRUE(qwen.windows.empty());
  EXPECT_TRUE(qwen.qkv_bias && !qwen.output_bias);
  ASSERT_OK_AND_ASSIGN(const ModelConfig upper, parse(R"("model_type":"qwen3","sliding_window":7,)"
                                                      R"("use_sliding_window":true,"max_window_layers":3)"));
  EXPECT_EQ(upper.windows, (std::vector<int64_t>{0, 0, 0, 7}));
  ASSERT_OK_AND_ASSIGN(const ModelConfig none, parse(R"("model_type":"qwen3","sliding_window":7,)"
                                                     R"("use_sliding_window":true,"max_window_layers":4)"));
  EXPECT_TRUE(none.windows.empty());
  EXPECT_EQ(upper.head_dim, 128);
  ASSERT_OK_AND_ASSIGN(const ModelConfig gemma2, parse(R"("model_type":"gemma2","final_logit_softcapping":null)"));
  EXPECT_EQ(gemma2.windows, (std::vector<int64_t>{4096, 0, 4096, 0}));
  EXPECT_EQ(gemma2.num_kv_heads, 4);
  EXPECT_EQ(gemma2.attention_softcap, 50);
  EXPECT_EQ(gemma2.logit_softcap, 0);
  EXPECT_EQ(gemma2.query_scalar, 256);
  EXPECT_TRUE(gemma2.tied_embeddings && gemma2.scaled_embeddings);
  ASSERT_OK_AND_ASSIGN(const ModelConfig gemma3,
                       parse(R"("model_type":"gemma3_text","sliding_window":5,"sliding_window_pattern":3,)"
                             R"("attn_logit_softcapping":50.0,"final_logit_softcapping":30.0)"));
  EXPECT_EQ(gemma3.attention_softcap, 0) << "transformers' Gemma 3 caps the logits alone";
  EXPECT_EQ(gemma3.logit_softcap, 30);
  EXPECT_EQ(gemma3.windows, (std::vector<int64_t>{5, 5, 0, 5}));
  EXPECT_EQ(gemma3.rope.theta, 1e6);
  EXPECT_EQ(gemma3.window_rope.theta, 1e4);
  ASSERT_OK_AND_ASSIGN(const ModelConfig gpt2,
                       ParseHfConfig(R"({"architectures":["GPT2LMHeadModel"],"n_embd":8,"n_layer":1,"n_head":2,)"
                                     R"("vocab_size":10,"n_positions":16,"n_inner":null})",
                                     "config.json"));
  EXPECT_EQ(gpt2.intermediate_size, 32);
  EXPECT_TRUE(gpt2.tied_embeddings);
}

// As the published file of 4B has it: what is usual for the text's part is not said.
TEST(HfConfig, ReadsTheTextsPartOfAModelWithVision) {
  ASSERT_OK_AND_ASSIGN(
      const ModelConfig config,
      ParseHfConfig(R"({"architectures":["Gemma3ForConditionalGeneration"],"model_type":"gemma3","text_config":{)"
                    R"("hidden_size":2560,"intermediate_size":10240,"model_type":"gemma3_text","num_hidden_layers":34,)"
                    R"("rope_scaling":{"factor":8.0,"rope_type":"linear"},"sliding_window":1024},)"
                    R"("torch_dtype":"bfloat16","vision_config":{"hidden_size":1152}})",
                    "config.json"));
  EXPECT_EQ(config.architecture, "gemma3");
  EXPECT_EQ(config.hidden_size, 2560);
  EXPECT_EQ(config.num_heads, 8);
  EXPECT_EQ(config.num_kv_heads, 4);
  EXPECT_EQ(config.head_dim, 256);
  EXPECT_EQ(config.vocab_size, 262208);
  EXPECT_EQ(config.max_positions, 131072);
  EXPECT_EQ(config.window(4), 1024);
  EXPECT_EQ(config.window(5), 0);
  EXPECT_EQ(config.rope.scaling, RopeScaling::kLinear);
  EXPECT_EQ(config.window_rope.scaling, RopeScaling::kNone);
  EXPECT_TRUE(config.tied_embeddings);
  for (const char* text : {"", R"(,"text_config":null)", R"(,"text_config":[])"}) {
    EXPECT_THAT(ParseHfConfig(Cat(R"({"model_type":"gemma3")", text, "}"), "config.json"),
                StatusIs(kInvalid, HasSubstr("key `text_config`: expected an object")));
  }
  EXPECT_THAT(ParseHfConfig(R"({"model_type":"gemma3","text_config":{"hidden_size":"x"}})", "config.json"),
              StatusIs(kInvalid, AllOf(HasSubstr("key `text_config.hidden_size`: expected an integer"),
                                       HasSubstr("key `text_config.num_hidden_layers` is missing"))));
}

TEST(HfConfig, AFaultIsNamedOnce) {
  const auto faulty = ParseHfConfig(R"({"model_type":"llama","tie_word_embeddings":"yes"})", "config.json");
  const std::string message(faulty.status().message());
  const size_t at = message.find("tie_word_embeddings");
  ASSERT_NE(at, std::string::npos);
  EXPECT_EQ(message.find("tie_word_embeddings", at + 1), std::string::npos) << message;
}

TEST(HfConfig, ReadsYarnAndDynamicScaling) {
  const auto parse = [](const std::string& rope) {
    return ParseHfConfig(
        R"({"model_type":"qwen2","hidden_size":8,"intermediate_size":16,"num_hidden_layers":1,)"
        R"("num_attention_heads":2,"num_key_value_heads":2,"vocab_size":10,"max_position_embeddings":64,"rope_scaling":)" +
            rope + "}",
        "config.json");
  };
  ASSERT_OK_AND_ASSIGN(const ModelConfig dynamic, parse(R"({"type":"dynamic","factor":2})"));
  EXPECT_EQ(dynamic.rope.scaling, RopeScaling::kDynamic);
  EXPECT_EQ(dynamic.rope.original_max_positions, 64);
  ASSERT_OK_AND_ASSIGN(const ModelConfig yarn, parse(R"({"type":"yarn","factor":4,)"
                                                     R"("original_max_position_embeddings":16})"));
  EXPECT_EQ(yarn.rope.scaling, RopeScaling::kYarn);
  EXPECT_EQ(yarn.rope.original_max_positions, 16);
  EXPECT_NEAR(yarn.rope.attention_factor, 0.1 * std::log(4) + 1, 1e-12);
  EXPECT_THAT(parse(R"({"type":"yarn","factor":0})"), StatusIs(kInvalid, HasSubstr("factor is 0")));
  EXPECT_THAT(parse(R"({"type":"dynamic"})"), StatusIs(kInvalid, HasSubstr("`rope_scaling.factor` is missing")));
}

TEST(HfConfig, ReadsLongRope) {
  const auto parse = [](const std::string& type, const std::string& beside, const std::string& rope) {
    return ParseHfConfig(R"({"model_type":")" + type +
                             R"(","hidden_size":16,"intermediate_size":16,"num_hidden_layers":1,)"
                             R"("num_attention_heads":2,"vocab_size":10,"max_position_embeddings":64,)" +
                             beside + R"("rope_scaling":)" + rope + "}",
                         "config.json");
  };
  const std::string factors = R"("short_factor":[1,1.5],"long_factor":[2,8])";
  const std::string half = R"("partial_rotary_factor":0.5,"original_max_position_embeddings":16,)";
  for (const char* type : {"longrope", "su"}) {
    ASSERT_OK_AND_ASSIGN(const ModelConfig phi, parse("phi3", half, Cat(R"({"type":")", type, R"(",)", factors, "}")));
    EXPECT_EQ(phi.rope.scaling, RopeScaling::kLongRope);
    EXPECT_EQ(phi.rope.original_max_positions, 16);
    EXPECT_EQ(phi.rope.turning(phi.head_dim), 4);
    EXPECT_EQ(phi.rope.long_factors, (std::vector<double>{2, 8}));
    EXPECT_NEAR(phi.rope.attention_factor, std::sqrt(1 + std::log(4) / std::log(16)), 1e-12);
  }
  const std::string four = R"("short_factor":[1,1,1,1],"long_factor":[2,2,2,2])";
  ASSERT_OK_AND_ASSIGN(const ModelConfig llama,
                       parse("llama", "",
                             Cat(R"({"rope_type":"longrope","original_max_position_embeddings":32,)",
                                 R"("attention_factor":1.25,)", four, "}")));
  EXPECT_EQ(llama.rope.original_max_positions, 32);
  EXPECT_EQ(llama.rope.attention_factor, 1.25);
  EXPECT_THAT(parse("phi3", half, R"({"type":"longrope","short_factor":[1,2,3],"long_factor":[1,-1]})"),
              StatusIs(kInvalid, AllOf(HasSubstr("short_factor has 3 numbers; expected 2"),
                                       HasSubstr("long_factor has a number that is not positive"))));
  EXPECT_THAT(parse("phi3", half, R"({"type":"longrope","short_factor":1,"long_factor":[1,"x"]})"),
              StatusIs(kInvalid, AllOf(HasSubstr("`rope_scaling.short_factor`: expected a list of numbers, found 1"),
                                       HasSubstr("`rope_scaling.long_factor`: expected a list of numbers"))));
  EXPECT_THAT(parse("phi3", half, R"({"type":"longrope"})"),
              StatusIs(kInvalid, HasSubstr("`rope_scaling.short_factor` is missing")));
  EXPECT_THAT(parse("phi3", R"("partial_rotary_factor":0.4,)", R"({"type":"default"})"),
              StatusIs(kInvalid, HasSubstr("partial_rotary_factor is 0.4, which is 3 of 8 elements")));
  EXPECT_THAT(parse("llama", half, R"({"type":"default"})"),
              StatusIs(kUnimplemented, HasSubstr("over a part of each head")));
}

TEST(HfConfig, EveryFaultIsToldAtOnce) {
  const auto parsed = ParseHfConfig(
      R"({"model_type":"llama","hidden_size":"64","intermediate_size":16,"num_attention_heads":2.5,"vocab_size":10,)"
      R"("mlp_bias":1,"rope_scaling":{"rope_type":"llama3","factor":8}})",
      "dir/config.json");
  EXPECT_THAT(parsed, StatusIs(kInvalid, AllOf(HasSubstr("dir/config.json: 7 faults"),
                                               HasSubstr("`hidden_size`: expected an integer"),
                                               HasSubstr("`num_attention_heads`: expected an integer, found 2.5"),
                                               HasSubstr("`num_hidden_layers` is missing"), HasSubstr("`mlp_bias`"),
                                               HasSubstr("`rope_scaling.low_freq_factor` is missing"))));
}

TEST(HfConfig, RefusesWhatIsNotComputed) {
  const auto with = [](std::string_view more) {
    return ParseHfConfig(
        R"({"hidden_size":8,"intermediate_size":16,"num_hidden_layers":1,"num_attention_heads":2,"vocab_size":10,)" +
            std::string(more) + "}",
        "config.json");
  };
  EXPECT_OK(with(R"("model_type":"llama")"));
  EXPECT_OK(with(R"("architectures":["LlamaForCausalLM"])"));
  EXPECT_THAT(with(R"("model_type":"t5")"),
              StatusIs(kUnimplemented, HasSubstr("'t5' is not known; known: llama, mistral")));
  EXPECT_THAT(with(R"("a":1)"), StatusIs(kInvalid, HasSubstr("known: llama")));
  EXPECT_THAT(with(R"("model_type":"llama","hidden_act":"gelu")"), StatusIs(kUnimplemented, HasSubstr("gelu")));
  EXPECT_THAT(with(R"("model_type":"llama","rope_scaling":{"rope_type":"xpos"})"),
              StatusIs(kUnimplemented, HasSubstr("'xpos' is not known; known: default, linear, dynamic")));
  EXPECT_THAT(with(R"("model_type":"gemma2","use_bidirectional_attention":true)"),
              StatusIs(kUnimplemented, HasSubstr("`use_bidirectional_attention`: expected false")));
  EXPECT_THAT(with(R"("model_type":"qwen2","num_key_value_heads":2,"use_sliding_window":true,)"
                   R"("layer_types":["full_attention","x"])"),
              StatusIs(kInvalid, HasSubstr("`layer_types`: expected 1 times")));
  EXPECT_THAT(with(R"("model_type":"gemma2","attn_logit_softcapping":-1)"),
              StatusIs(kInvalid, HasSubstr("attn_logit_softcapping is -1")));
  EXPECT_THAT(with(R"("model_type":"llama","quantization_config":{})"),
              StatusIs(kUnimplemented, HasSubstr("quantised")));
  EXPECT_THAT(with(R"("model_type":"llama","num_key_value_heads":3)"), StatusIs(kInvalid, HasSubstr("cannot share")));
  EXPECT_THAT(with(R"("model_type":"llama","head_dim":3)"), StatusIs(kInvalid, HasSubstr("even")));
  EXPECT_THAT(with(R"("model_type":"llama","num_hidden_layers":99999999999)"), StatusIs(kInvalid, HasSubstr("layers")));
  EXPECT_THAT(ParseHfConfig("[1]", "config.json"), StatusIs(kInvalid, HasSubstr("no JSON object")));
}

}  // namespace
}  // namespace strata::model
