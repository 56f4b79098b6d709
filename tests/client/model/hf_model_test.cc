#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <set>

#include "client/model/model_config.h"
#include "client/model/model_files.h"
#include "common/runtime/posix_file_system.h"
#include "common/status/cat.h"
#include "tests/client/model/model_folder.h"

namespace strata::model {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::StatusIs;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
constexpr auto kNotFound = absl::StatusCode::kNotFound;

TEST(HfConfig, BothKeyStylesGiveTheSameModel) {
  for (const char* name : {"llama", "llama-rope3", "llama-sharded-bf16", "small-mistral", "small-qwen2", "small-qwen3",
                           "small-phi3", "small-gemma2", "small-gemma3", "small-gpt2", "small-llama-dynamic",
                           "small-qwen2-yarn", "small-phi3-longrope"}) {
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
    return ParseHfConfig(R"({"hidden_size":8,"intermediate_size":16,"num_hidden_layers":4,"num_attention_heads":2,)"
                         R"("vocab_size":10,)" +
                             more + "}",
                         "config.json");
  };
  ASSERT_OK_AND_ASSIGN(const ModelConfig mistral, parse(R"("model_type":"mistral")"));
  EXPECT_EQ(mistral.windows, std::vector<int64_t>(4, 4096));
  ASSERT_OK_AND_ASSIGN(const ModelConfig open, parse(R"("model_type":"mistral","sliding_window":null)"));
  EXPECT_TRUE(open.windows.empty());
  ASSERT_OK_AND_ASSIGN(const ModelConfig qwen, parse(R"("model_type":"qwen2","sliding_window":7)"));
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
  EXPECT_EQ(gemma2.attention_softcap, 50);
  EXPECT_EQ(gemma2.logit_softcap, 0);
  EXPECT_EQ(gemma2.query_scalar, 256);
  EXPECT_TRUE(gemma2.tied_embeddings && gemma2.scaled_embeddings);
  ASSERT_OK_AND_ASSIGN(const ModelConfig gemma3,
                       parse(R"("model_type":"gemma3_text","sliding_window":5,"sliding_window_pattern":3)"));
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

TEST(HfConfig, ReadsYarnAndDynamicScaling) {
  const auto parse = [](const std::string& rope) {
    return ParseHfConfig(R"({"model_type":"qwen2","hidden_size":8,"intermediate_size":16,"num_hidden_layers":1,)"
                         R"("num_attention_heads":2,"vocab_size":10,"max_position_embeddings":64,"rope_scaling":)" +
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
  EXPECT_THAT(with(R"("model_type":"qwen2","use_sliding_window":true,"layer_types":["full_attention","x"])"),
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

TEST(HfModel, ReadsASingleFile) {
  ModelFolder folder("llama");
  ASSERT_OK_AND_ASSIGN(const auto model, folder.Open());
  EXPECT_EQ(model->tensors().size(), 2U + 2 * 9);
  const std::string bytes = folder.Read("model.safetensors");
  const auto stored = format::Safetensors::Parse(format::AsBytes(bytes), "model").value();
  for (const ModelTensor& tensor : model->tensors()) {
    const format::TensorView* want = stored.Find(tensor.name);
    ASSERT_NE(want, nullptr);
    EXPECT_EQ(tensor.shape, want->shape);
    EXPECT_EQ(tensor.stored_dtype, "F32");
    std::vector<float> values(static_cast<size_t>(want->num_elements()));
    ASSERT_OK(format::ToFloat(*want, values));
    EXPECT_EQ(ReadTensor(*model, tensor), values);
    EXPECT_EQ(model->RawBytes(tensor.name).size(), want->data.size());
    const auto row = static_cast<size_t>(tensor.shape.back());
    std::vector<float> last(row);
    ASSERT_OK(model->ReadRows(tensor.name, static_cast<int64_t>(values.size() / row) - 1, last));
    EXPECT_TRUE(std::equal(last.begin(), last.end(), values.end() - static_cast<ptrdiff_t>(row)));
    EXPECT_THAT(model->ReadRows(tensor.name, static_cast<int64_t>(values.size() / row), last), StatusIs(kInvalid));
    EXPECT_THAT(model->ReadRows(tensor.name, -1, last), StatusIs(kInvalid));
  }
  EXPECT_THAT(model->ReadRows("nothing", 0, {}), StatusIs(kNotFound));
  EXPECT_TRUE(model->RawBytes("nothing").empty());
}

TEST(HfModel, LinearModulesComeInModelOrder) {
  ModelFolder tied("llama");
  ASSERT_OK_AND_ASSIGN(const auto model, tied.Open());
  const auto modules = model->LinearModules();
  ASSERT_EQ(modules.size(), 14U);
  EXPECT_EQ(modules[0], (config::ModuleShape{"model.layers.0.self_attn.q_proj", 64, 64}));
  EXPECT_EQ(modules[1], (config::ModuleShape{"model.layers.0.self_attn.k_proj", 32, 64}));
  EXPECT_EQ(modules[6], (config::ModuleShape{"model.layers.0.mlp.down_proj", 64, 160}));
  EXPECT_EQ(modules[13].name, "model.layers.1.mlp.down_proj");
  ModelFolder untied("llama-rope3");
  ASSERT_OK_AND_ASSIGN(const auto other, untied.Open());
  EXPECT_EQ(other->LinearModules().back(), (config::ModuleShape{"lm_head", 256, 64}));
}

TEST(HfModel, Gpt2sMatricesAreStoredInputFirst) {
  ModelFolder folder("small-gpt2");
  ASSERT_OK_AND_ASSIGN(const auto model, folder.Open());
  const auto modules = model->LinearModules();
  ASSERT_EQ(modules.size(), 8U);
  EXPECT_EQ(modules[0], (config::ModuleShape{"transformer.h.0.attn.c_attn", 72, 24}));
  EXPECT_EQ(modules[7], (config::ModuleShape{"transformer.h.1.mlp.c_proj", 24, 96}));
  for (const ModelTensor& tensor : model->tensors()) {
    EXPECT_EQ(tensor.input_major, tensor.name.find(".c_") != std::string::npos && tensor.shape.size() == 2);
  }
}

TEST(HfModel, ABaseModelsNamesGetTheirPrefix) {
  ModelFolder whole("small-gpt2");
  ModelFolder bare("small-gpt2");
  bare.MakeBare("transformer.");
  ASSERT_OK_AND_ASSIGN(const auto model, bare.Open());
  ASSERT_OK_AND_ASSIGN(const auto expected, whole.Open());
  ASSERT_EQ(model->tensors().size(), expected->tensors().size());
  for (size_t i = 0; i < expected->tensors().size(); ++i) {
    EXPECT_EQ(model->tensors()[i].name, expected->tensors()[i].name);
    EXPECT_EQ(ReadTensor(*model, model->tensors()[i]), ReadTensor(*expected, expected->tensors()[i]));
  }
}

TEST(HfModel, ReadsShardsWithBiases) {
  ModelFolder folder("llama-sharded-bf16");
  ASSERT_OK_AND_ASSIGN(const auto model, folder.Open());
  EXPECT_TRUE(model->config().qkv_bias && model->config().mlp_bias);
  EXPECT_EQ(model->tensors().size(), 3U + 3 * (2 + 14));
  EXPECT_EQ(model->weight_files().size(), 5U);
  EXPECT_TRUE(std::is_sorted(model->tensors().begin(), model->tensors().end(),
                             [](const ModelTensor& a, const ModelTensor& b) { return a.name < b.name; }));
  for (const ModelTensor& tensor : model->tensors()) {
    EXPECT_EQ(tensor.stored_dtype, "BF16");
    const std::vector<float> values = ReadTensor(*model, tensor);
    EXPECT_EQ(model->RawBytes(tensor.name).size(), values.size() * 2);
    EXPECT_NE(values.front(), 0);
  }
}

TEST(HfModel, NamesMissingShardsAndTensors) {
  ModelFolder shards("llama-sharded-bf16");
  shards.Remove("model-00002-of-00005.safetensors");
  shards.Remove("model-00004-of-00005.safetensors");
  EXPECT_THAT(shards.Open(),
              StatusIs(kInvalid, AllOf(HasSubstr("/m: 2 faults"), HasSubstr("shard model-00002-of-00005"),
                                       HasSubstr("shard model-00004-of-00005"))));
  ModelFolder swapped("llama-sharded-bf16");
  swapped.Replace("model.safetensors.index.json", "\"lm_head.weight\": \"model-00005",
                  "\"lm_head.weight\": \"model-00001");
  EXPECT_THAT(
      swapped.Open(),
      StatusIs(kInvalid,
               HasSubstr("'lm_head.weight' is in model-00005-of-00005.safetensors, the index says model-00001")));
  ModelFolder outside("llama-sharded-bf16");
  outside.Replace("model.safetensors.index.json", "\"model-00005", "\"../model-00005");
  EXPECT_THAT(outside.Open(), StatusIs(kInvalid, HasSubstr("beside the index")));
  ModelFolder cut("llama-sharded-bf16");
  cut.Write("model-00003-of-00005.safetensors", cut.Read("model-00003-of-00005.safetensors").substr(0, 5000));
  EXPECT_THAT(cut.Open(), StatusIs(kInvalid, HasSubstr("/m/model-00003-of-00005.safetensors: ")));
}

TEST(HfModel, NamesEveryTensorThatDoesNotFit) {
  ModelFolder folder("llama");
  const std::string ints(64 * 4, '\1');
  folder.Edit("model.safetensors", [&](std::vector<format::TensorView>& tensors) {
    std::erase_if(tensors, [](const auto& t) { return t.name == "model.layers.1.mlp.up_proj.weight"; });
    for (auto& t : tensors) {
      if (t.name == "model.layers.0.self_attn.k_proj.weight") std::swap(t.shape[0], t.shape[1]);
      if (t.name == "model.norm.weight") t = {"model.norm.weight", format::DType::kI32, {64}, format::AsBytes(ints)};
    }
    tensors.push_back({"model.layers.0.self_attn.q_norm.weight", format::DType::kI32, {64}, format::AsBytes(ints)});
    tensors.push_back(
        {"model.layers.0.self_attn.rotary_emb.inv_freq", format::DType::kI32, {64}, format::AsBytes(ints)});
  });
  EXPECT_THAT(
      folder.Open(),
      StatusIs(kInvalid,
               AllOf(HasSubstr("/m: 4 faults"), HasSubstr("'model.layers.1.mlp.up_proj.weight' [160, 64] is missing"),
                     HasSubstr("'model.layers.0.self_attn.k_proj.weight' in model.safetensors: expected shape [32, "
                               "64], found [64, 32]"),
                     HasSubstr("expected dtype F32, BF16, F16 or F64, found I32"),
                     HasSubstr("q_norm.weight' [64] in model.safetensors is not part of the model"))));
}

TEST(HfModel, ATiedHeadInTheFileMustEqualTheEmbeddings) {
  ModelFolder folder("llama");
  std::string head;
  const auto add_head = [&](std::vector<format::TensorView>& tensors) {
    for (auto& t : tensors) {
      if (t.name != "model.embed_tokens.weight") continue;
      head.assign(reinterpret_cast<const char*>(t.data.data()), t.data.size());
      tensors.push_back({"lm_head.weight", t.dtype, t.shape, format::AsBytes(head)});
      return;
    }
  };
  folder.Edit("model.safetensors", add_head);
  ASSERT_OK_AND_ASSIGN(const auto model, folder.Open());
  EXPECT_EQ(model->tensors().size(), 20U);
  folder.Edit("model.safetensors", [&](std::vector<format::TensorView>& tensors) {
    head[0] ^= 1;
    for (auto& t : tensors) {
      if (t.name == "lm_head.weight") t.data = format::AsBytes(head);
    }
  });
  EXPECT_THAT(folder.Open(), StatusIs(kInvalid, HasSubstr("differs from 'model.embed_tokens.weight'")));
}

TEST(HfModel, UntiedWithoutAHeadAsksWhetherItIsTied) {
  ModelFolder folder("llama");
  folder.Replace("config.json", "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false");
  EXPECT_THAT(folder.Open(), StatusIs(kInvalid, HasSubstr("is the head tied")));
}

TEST(HfModel, PickledWeightsAreRefusedWithAWayOut) {
  ModelFolder folder("llama");
  folder.Remove("model.safetensors");
  EXPECT_THAT(folder.Open(), StatusIs(kNotFound, HasSubstr("neither model.safetensors nor")));
  folder.Write("pytorch_model.bin", "x");
  EXPECT_THAT(folder.Open(), StatusIs(kUnimplemented, AllOf(HasSubstr("pytorch_model.bin"), HasSubstr("safetensors"))));
}

TEST(OpenModel, SaysWhatWasTried) {
  ModelFolder folder;
  EXPECT_THAT(folder.Open("/nowhere/at/all"), StatusIs(kNotFound, HasSubstr("no such file")));
  EXPECT_THAT(folder.Open("org/name"), StatusIs(kNotFound, HasSubstr("models--org--name")));
  EXPECT_THAT(folder.Open(), StatusIs(kNotFound, HasSubstr("no config.json and no GGUF")));
  folder.Write("adapter_config.json", "{}");
  EXPECT_THAT(folder.Open(), StatusIs(kInvalid, HasSubstr("is an adapter")));
  folder.Write("x.safetensors", "abcdefgh");
  EXPECT_THAT(folder.Open("/m/x.safetensors"), StatusIs(kInvalid, HasSubstr("give the directory")));
}

class HubCache : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = std::filesystem::path(::testing::TempDir()) / "strata_hub_cache";
    std::filesystem::remove_all(root_);
    unsetenv("HF_HUB_CACHE");             // NOLINT(concurrency-mt-unsafe): one thread
    setenv("HF_HOME", root_.c_str(), 1);  // NOLINT(concurrency-mt-unsafe): one thread
  }
  void TearDown() override {
    unsetenv("HF_HOME");  // NOLINT(concurrency-mt-unsafe): one thread
    std::filesystem::remove_all(root_);
  }
  // As the hub's library lays it out: snapshots of links into blobs.
  void AddSnapshot(const std::string& revision) {
    const auto repo = root_ / "hub/models--org--tiny";
    std::filesystem::create_directories(repo / "blobs");
    std::filesystem::create_directories(repo / "snapshots" / revision);
    for (const char* name : {"config.json", "model.safetensors"}) {
      std::filesystem::copy_file(testing::GoldenDir("models/llama/") + name, repo / "blobs" / (revision + name));
      std::filesystem::create_symlink("../../blobs/" + revision + name, repo / "snapshots" / revision / name);
    }
  }
  void SetMain(const std::string& revision) {
    std::filesystem::create_directories(root_ / "hub/models--org--tiny/refs");
    std::ofstream(root_ / "hub/models--org--tiny/refs/main") << revision;
  }

  std::filesystem::path root_;
  runtime::PosixFileSystem files_;
};

TEST_F(HubCache, FollowsTheMainReference) {
  AddSnapshot("aaa");
  ASSERT_OK_AND_ASSIGN(const auto only, ModelFiles::Open(files_, "org/tiny"));
  AddSnapshot("bbb");
  EXPECT_THAT(ModelFiles::Open(files_, "org/tiny"), StatusIs(kInvalid, HasSubstr("2 snapshots")));
  SetMain("bbb\n");
  ASSERT_OK_AND_ASSIGN(const auto model, ModelFiles::Open(files_, "org/tiny"));
  EXPECT_THAT(model->path(), HasSubstr("snapshots/bbb"));
  EXPECT_EQ(ReadTensor(*model, model->tensors().front()).size(), 320U * 64);
  SetMain("ccc");
  EXPECT_THAT(ModelFiles::Open(files_, "org/tiny"), StatusIs(kNotFound, HasSubstr("snapshots/ccc")));
  SetMain("../../evil");
  EXPECT_THAT(ModelFiles::Open(files_, "org/tiny"), StatusIs(kInvalid, HasSubstr("name of a snapshot")));
}

TEST(HostileModel, EveryChangedByteOfTheConfigurationIsAnswered) {
  ModelFolder folder("llama-rope3");
  const std::string text = folder.Read("config.json");
  for (size_t i = 0; i < text.size(); ++i) {
    for (const char value : {'\0', '"', '{', '9', '-', '\xff', ' '}) {
      std::string changed = text;
      changed[i] = value;
      ParseHfConfig(changed, "config.json").status().IgnoreError();
    }
    if (i > text.rfind('}')) continue;
    EXPECT_THAT(ParseHfConfig(text.substr(0, i), "config.json"), Not(testing::IsOk()));
  }
}

}  // namespace
}  // namespace strata::model
