#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <functional>
#include <map>
#include <numbers>

#include "client/model/model_config.h"
#include "client/model/model_files.h"
#include "tests/client/model/model_folder.h"

namespace strata::model {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::StatusIs;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

std::string GoldenGguf(const std::string& kind) {
  return format::ReadAll(testing::GoldenDir("gguf/llama/model-" + kind + ".gguf"));
}

class GgufModelTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<ModelFiles>> Open(const std::string& bytes) {
    folder_.Write("m.gguf", bytes);
    return folder_.Open("/m/m.gguf");
  }
  absl::StatusOr<std::unique_ptr<ModelFiles>> Open(const GgufContent& content) { return Open(content.Bytes()); }

  ModelFolder folder_;
  GgufContent content_ = GgufContent::From(GoldenGguf("f32"));
};

TEST_F(GgufModelTest, GivesTheHfModelThatItWasMadeFrom) {
  ModelFolder hf_folder("llama");
  ASSERT_OK_AND_ASSIGN(const auto hf, hf_folder.Open());
  for (const char* kind : {"f32", "f16", "q8_0", "q4_1"}) {
    SCOPED_TRACE(kind);
    ASSERT_OK_AND_ASSIGN(const auto gguf, Open(GoldenGguf(kind)));
    EXPECT_EQ(gguf->config().Canonical(), hf->config().Canonical());
    EXPECT_EQ(gguf->LinearModules(), hf->LinearModules());
    ASSERT_EQ(gguf->tensors().size(), hf->tensors().size());
    const float tolerance = kind[0] == 'f' ? 1e-3F : kind[1] == '8' ? 1e-2F : 0.1F;
    for (size_t i = 0; i < hf->tensors().size(); ++i) {
      const ModelTensor& tensor = gguf->tensors()[i];
      SCOPED_TRACE(tensor.name);
      ASSERT_EQ(tensor.name, hf->tensors()[i].name);
      ASSERT_EQ(tensor.shape, hf->tensors()[i].shape);
      const std::vector<float> want = ReadTensor(*hf, tensor);
      const std::vector<float> got = ReadTensor(*gguf, tensor);
      if (std::string_view(kind) == "f32") {
        ASSERT_EQ(got, want);
      }
      for (size_t e = 0; e < want.size(); ++e) ASSERT_NEAR(got[e], want[e], tolerance);
      const auto row = static_cast<size_t>(tensor.shape.back());
      std::vector<float> one(row);
      for (size_t r = 0; r < want.size() / row; ++r) {
        ASSERT_OK(gguf->ReadRows(tensor.name, static_cast<int64_t>(r), one));
        ASSERT_TRUE(std::equal(one.begin(), one.end(), got.begin() + static_cast<ptrdiff_t>(r * row)));
      }
    }
  }
}

// A family's names as llama.cpp's converter writes them; %d is the layer.
struct Converted {
  std::string model, architecture;
  std::map<std::string, std::string> global, layer;
  double norm_offset = 0;  // the converter adds it to the norms' weights
};

const std::map<std::string, std::string> kSplit = {{"self_attn.q_proj", "attn_q"}, {"self_attn.k_proj", "attn_k"},
                                                   {"self_attn.v_proj", "attn_v"}, {"self_attn.o_proj", "attn_output"},
                                                   {"mlp.gate_proj", "ffn_gate"},  {"mlp.up_proj", "ffn_up"},
                                                   {"mlp.down_proj", "ffn_down"},  {"input_layernorm", "attn_norm"}};
const std::map<std::string, std::string> kGlobal = {
    {"model.embed_tokens", "token_embd"}, {"model.norm", "output_norm"}, {"lm_head", "output"}};

std::map<std::string, std::string> Plus(std::map<std::string, std::string> more) {
  more.insert(kSplit.begin(), kSplit.end());
  return more;
}

const Converted kConverted[] = {
    {"small-qwen3", "qwen3", kGlobal,
     Plus({{"post_attention_layernorm", "ffn_norm"},
           {"self_attn.q_norm", "attn_q_norm"},
           {"self_attn.k_norm", "attn_k_norm"}})},
    {"small-gemma2", "gemma2", kGlobal,
     Plus({{"post_attention_layernorm", "post_attention_norm"},
           {"pre_feedforward_layernorm", "ffn_norm"},
           {"post_feedforward_layernorm", "post_ffw_norm"}}),
     1},
    {"small-phi3",
     "phi3",
     kGlobal,
     {{"self_attn.qkv_proj", "attn_qkv"},
      {"self_attn.o_proj", "attn_output"},
      {"mlp.gate_up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"},
      {"input_layernorm", "attn_norm"},
      {"post_attention_layernorm", "ffn_norm"}}},
    {"small-gpt2",
     "gpt2",
     {{"transformer.wte", "token_embd"}, {"transformer.wpe", "position_embd"}, {"transformer.ln_f", "output_norm"}},
     {{"attn.c_attn", "attn_qkv"},
      {"attn.c_proj", "attn_output"},
      {"mlp.c_fc", "ffn_up"},
      {"mlp.c_proj", "ffn_down"},
      {"ln_1", "attn_norm"},
      {"ln_2", "ffn_norm"}}}};

// "model.layers.1.mlp.up_proj.weight" -> "blk.1.ffn_up.weight"
std::string GgufName(const Converted& family, const std::string& name) {
  const size_t dot = name.rfind('.');
  const std::string stem = name.substr(0, dot);
  if (const auto it = family.global.find(stem); it != family.global.end()) return it->second + name.substr(dot);
  for (const auto& [hf, gguf] : family.layer) {
    if (!stem.ends_with("." + hf)) continue;
    const std::string before = stem.substr(0, stem.size() - hf.size() - 1);
    return "blk." + before.substr(before.rfind('.') + 1) + "." + gguf + name.substr(dot);
  }
  return "";
}

std::vector<float> Transposed(const std::vector<float>& values, int64_t rows, int64_t cols) {
  std::vector<float> out;
  for (int64_t c = 0; c < cols; ++c) {
    for (int64_t r = 0; r < rows; ++r) out.push_back(values[static_cast<size_t>(r * cols + c)]);
  }
  return out;
}

// The metadata that a converter writes for `c`.
std::map<std::string, format::GgufValue> Metadata(const std::string& architecture, const ModelConfig& c) {
  std::map<std::string, format::GgufValue> all = {{"general.architecture", architecture}};
  const auto set = [&](const std::string& key, const format::GgufValue& value) {
    all[architecture + "." + key] = value;
  };
  const auto count = [](int64_t value) { return static_cast<uint64_t>(value); };
  set("embedding_length", count(c.hidden_size));
  set("feed_forward_length", count(c.intermediate_size));
  set("block_count", count(c.num_layers));
  set("context_length", count(c.max_positions));
  set("vocab_size", count(c.vocab_size));
  set("attention.head_count", count(c.num_heads));
  set("attention.head_count_kv", count(c.num_kv_heads));
  set("attention.key_length", count(c.head_dim));
  set(c.norm == NormKind::kLayer ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", c.norm_eps);
  if (!c.learned_positions) set("rope.freq_base", c.rope.theta);
  if (!c.windows.empty()) set("attention.sliding_window", count(c.windows[0]));
  if (c.attention_softcap > 0) set("attn_logit_softcapping", c.attention_softcap);
  if (c.logit_softcap > 0) set("final_logit_softcapping", c.logit_softcap);
  return all;
}

TEST_F(GgufModelTest, EveryFamilysFilesGiveItsHfModel) {
  for (const Converted& family : kConverted) {
    SCOPED_TRACE(family.model);
    ModelFolder folder(family.model);
    // The one feature that GGUF has no key for.
    if (family.architecture == "gemma2") {
      folder.Replace("config.json", "\"query_pre_attn_scalar\": 11", "\"query_pre_attn_scalar\": 8");
    }
    ASSERT_OK_AND_ASSIGN(const auto hf, folder.Open());
    GgufContent content{.metadata = Metadata(family.architecture, hf->config()), .tensors = {}};
    for (const ModelTensor& tensor : hf->tensors()) {
      std::vector<float> values = ReadTensor(*hf, tensor);
      std::vector<int64_t> shape = tensor.shape;
      if (tensor.input_major) {
        values = Transposed(values, shape[0], shape[1]);
        std::swap(shape[0], shape[1]);
      }
      if (tensor.name.ends_with("norm.weight")) {
        for (float& value : values) value += static_cast<float>(family.norm_offset);
      }
      content.AddFloats(GgufName(family, tensor.name), values);
      content.tensors.back().shape = shape;
    }
    ASSERT_OK_AND_ASSIGN(const auto gguf, Open(content));
    EXPECT_EQ(gguf->config().Canonical(), hf->config().Canonical());
    EXPECT_EQ(gguf->config().norm_offset, 0);
    EXPECT_EQ(gguf->LinearModules(), hf->LinearModules());
    ASSERT_EQ(gguf->tensors().size(), hf->tensors().size());
    for (size_t i = 0; i < hf->tensors().size(); ++i) {
      const ModelTensor& tensor = hf->tensors()[i];
      ASSERT_EQ(gguf->tensors()[i].name, tensor.name);
      std::vector<float> want = ReadTensor(*hf, tensor);
      if (tensor.input_major) want = Transposed(want, tensor.shape[0], tensor.shape[1]);
      if (tensor.name.ends_with("norm.weight")) {
        for (float& value : want) value += static_cast<float>(family.norm_offset);
      }
      EXPECT_EQ(ReadTensor(*gguf, gguf->tensors()[i]), want) << tensor.name;
    }
  }
}

TEST_F(GgufModelTest, SaysWhichFeaturesAFileCannotHold) {
  const auto check = [](const std::string& name, const std::function<void(ModelConfig&)>& change) {
    ModelFolder folder(name);
    ModelConfig config = folder.Open().value()->config();
    change(config);
    return CheckSayableInGguf(config, "m");
  };
  const auto as_is = [](ModelConfig&) {};
  for (const char* name : {"llama", "llama-rope3", "small-qwen3", "small-phi3", "small-gpt2"}) {
    EXPECT_OK(check(name, as_is)) << name;
  }
  EXPECT_OK(check("small-gemma2", [](ModelConfig& c) { c.query_scalar = 8; }));
  EXPECT_THAT(check("small-gemma2", as_is), StatusIs(kUnimplemented, HasSubstr("query_pre_attn_scalar")));
  for (const auto& [key, cap] : {std::pair("attn_logit_softcapping", &ModelConfig::attention_softcap),
                                 std::pair("final_logit_softcapping", &ModelConfig::logit_softcap)}) {
    EXPECT_THAT(check("small-gemma2",
                      [cap](ModelConfig& c) {
                        c.query_scalar = 8;
                        c.*cap = 0;
                      }),
                StatusIs(kUnimplemented, HasSubstr(key)));
  }
  EXPECT_THAT(check("small-mistral", as_is), StatusIs(kUnimplemented, HasSubstr("windows of 7 tokens")));
  EXPECT_OK(check("small-mistral", [](ModelConfig& c) { c.windows.clear(); }));
  EXPECT_THAT(check("llama", [](ModelConfig& c) { c.unit = kernels::Unit::kGeglu; }),
              StatusIs(kUnimplemented, HasSubstr("another activation")));
  EXPECT_THAT(check("small-llama-dynamic", as_is), StatusIs(kUnimplemented, HasSubstr("dynamic")));
  EXPECT_THAT(check("small-qwen2-yarn", as_is), StatusIs(kUnimplemented, HasSubstr("yarn")));
  EXPECT_OK(check("small-qwen2-yarn", [](ModelConfig& c) { c.rope.beta_fast = 32; }));
}

TEST_F(GgufModelTest, RawBytesOnlyWhereTheOrderIsHfs) {
  ASSERT_OK_AND_ASSIGN(const auto plain, Open(GoldenGguf("f16")));
  EXPECT_FALSE(plain->RawBytes("model.embed_tokens.weight").empty());
  EXPECT_TRUE(plain->RawBytes("model.layers.0.self_attn.q_proj.weight").empty());
  EXPECT_FALSE(plain->StoredBytes("model.layers.0.self_attn.q_proj.weight").empty());
  ASSERT_OK_AND_ASSIGN(const auto quantised, Open(GoldenGguf("q4_1")));
  EXPECT_TRUE(quantised->RawBytes("model.embed_tokens.weight").empty());
  EXPECT_EQ(quantised->tensors()[0].stored_dtype, "Q4_1");
}

TEST_F(GgufModelTest, ADirectoryWithOneGgufFileIsThatModel) {
  ASSERT_OK(Open(content_));
  ASSERT_OK_AND_ASSIGN(const auto model, folder_.Open("/m"));
  EXPECT_EQ(model->path(), "/m/m.gguf");
  folder_.Write("n.gguf", "GGUF");
  EXPECT_THAT(folder_.Open("/m"), StatusIs(kInvalid, HasSubstr("m.gguf, n.gguf")));
  folder_.Write("renamed", content_.Bytes());
  EXPECT_OK(folder_.Open("/m/renamed"));
}

TEST_F(GgufModelTest, BiasesAreFoundAndUnpermuted) {
  std::vector<float> q(64), stored(64);
  for (size_t i = 0; i < 64; ++i) q[i] = static_cast<float>(i);
  for (size_t head = 0; head < 4; ++head) {
    for (size_t i = 0; i < 8; ++i) {
      stored[head * 16 + 2 * i] = q[head * 16 + i];
      stored[head * 16 + 2 * i + 1] = q[head * 16 + 8 + i];
    }
  }
  for (const char* layer : {"blk.0.", "blk.1."}) {
    content_.AddFloats(std::string(layer) + "attn_q.bias", stored);
    content_.AddFloats(std::string(layer) + "attn_k.bias", std::vector<float>(32, 1));
    content_.AddFloats(std::string(layer) + "attn_v.bias", std::vector<float>(32, 2));
    content_.AddFloats(std::string(layer) + "attn_output.bias", std::vector<float>(64, 3));
  }
  ASSERT_OK_AND_ASSIGN(const auto model, Open(content_));
  EXPECT_TRUE(model->config().qkv_bias);
  std::vector<float> read(64);
  ASSERT_OK(model->ReadRows("model.layers.1.self_attn.q_proj.bias", 0, read));
  EXPECT_EQ(read, q);
}

// Written out from the formula of the Llama 3 models, apart from the code that is tested.
std::vector<float> Llama3Divisors(double theta, int head_dim, double factor, double low, double high, double original) {
  std::vector<float> out;
  for (int i = 0; i < head_dim; i += 2) {
    const double wavelength = 2 * std::numbers::pi * std::pow(theta, static_cast<double>(i) / head_dim);
    if (wavelength < original / high) {
      out.push_back(1);
    } else if (wavelength > original / low) {
      out.push_back(static_cast<float>(factor));
    } else {
      const double smooth = (original / wavelength - low) / (high - low);
      out.push_back(static_cast<float>(1 / ((1 - smooth) / factor + smooth)));
    }
  }
  return out;
}

TEST_F(GgufModelTest, RecoversLlama3ScalingFromItsDivisors) {
  content_.AddFloats("rope_freqs.weight", Llama3Divisors(10000, 16, 8, 1, 4, 8192));
  ASSERT_OK_AND_ASSIGN(const auto model, Open(content_));
  EXPECT_EQ(model->config().rope.scaling, RopeScaling::kLlama3);
  EXPECT_EQ(model->config().rope.factor, 8);
  EXPECT_EQ(model->config().rope.low_freq_factor, 1);
  EXPECT_EQ(model->config().rope.high_freq_factor, 4);
  EXPECT_EQ(model->config().rope.original_max_positions, 8192);
}

TEST_F(GgufModelTest, DivisorsOfOneScaleNothingAndOthersAreTakenAsTheyAre) {
  GgufContent ones = content_;
  ones.AddFloats("rope_freqs.weight", std::vector<float>(8, 1));
  ASSERT_OK_AND_ASSIGN(const auto model, Open(ones));
  EXPECT_EQ(model->config().rope.scaling, RopeScaling::kNone);
  GgufContent odd = content_;
  odd.AddFloats("rope_freqs.weight", Llama3Divisors(10000, 16, 8, 1.5, 3, 100));
  ASSERT_OK_AND_ASSIGN(const auto taken, Open(odd));
  const RopeConfig& rope = taken->config().rope;
  EXPECT_EQ(rope.scaling, RopeScaling::kLongRope);
  EXPECT_EQ(rope.attention_factor, 1);
  EXPECT_THAT(rope.short_factors, ::testing::Pointwise(::testing::Eq(), Llama3Divisors(10000, 16, 8, 1.5, 3, 100)));
  EXPECT_EQ(rope.long_factors, rope.short_factors);
  odd.metadata["llama.rope.scaling.type"] = std::string("linear");
  odd.metadata["llama.rope.scaling.factor"] = 4.0;
  EXPECT_THAT(Open(odd), StatusIs(kUnimplemented, HasSubstr("rope_freqs.weight")));
  content_.AddFloats("rope_freqs.weight", {1, 2});
  EXPECT_THAT(Open(content_), StatusIs(kInvalid, HasSubstr("has 2 elements, expected 8")));
}

TEST_F(GgufModelTest, ReadsLinearAndYarnScalingAndRefusesOthers) {
  content_.metadata["llama.rope.scaling.type"] = std::string("linear");
  content_.metadata["llama.rope.scaling.factor"] = 4.0;
  ASSERT_OK_AND_ASSIGN(const auto model, Open(content_));
  EXPECT_EQ(model->config().rope.scaling, RopeScaling::kLinear);
  EXPECT_EQ(model->config().rope.factor, 4);
  content_.metadata["llama.rope.scaling.type"] = std::string("yarn");
  content_.metadata["llama.rope.scaling.original_context_length"] = uint64_t{64};
  ASSERT_OK_AND_ASSIGN(const auto yarn, Open(content_));
  EXPECT_EQ(yarn->config().rope.scaling, RopeScaling::kYarn);
  EXPECT_EQ(yarn->config().rope.original_max_positions, 64);
  content_.metadata["llama.rope.scaling.type"] = std::string("xpos");
  EXPECT_THAT(Open(content_), StatusIs(kUnimplemented, HasSubstr("'xpos' is not known; known: none, linear")));
}

TEST_F(GgufModelTest, ReadsLongRopeFromItsTensors) {
  content_.metadata["llama.rope.scaling.type"] = std::string("longrope");
  EXPECT_THAT(Open(content_), StatusIs(kInvalid, HasSubstr("tensor rope_factors_short.weight is missing")));
  content_.metadata["llama.rope.scaling.original_context_length"] = uint64_t{64};
  content_.AddFloats("rope_factors_short.weight", std::vector<float>(8, 1.25F));
  EXPECT_THAT(Open(content_), StatusIs(kInvalid, HasSubstr("tensor rope_factors_long.weight is missing")));
  GgufContent odd = content_;
  odd.AddFloats("rope_factors_long.weight", std::vector<float>(7, 2.0F));
  EXPECT_THAT(Open(odd), StatusIs(kInvalid, HasSubstr("has 7 elements, expected 8")));
  content_.AddFloats("rope_factors_long.weight", std::vector<float>(8, 2.5F));
  ASSERT_OK_AND_ASSIGN(const auto model, Open(content_));
  const RopeConfig& rope = model->config().rope;
  EXPECT_EQ(rope.scaling, RopeScaling::kLongRope);
  EXPECT_EQ(rope.original_max_positions, 64);
  EXPECT_EQ(rope.short_factors, std::vector<double>(8, 1.25));
  EXPECT_EQ(rope.long_factors, std::vector<double>(8, 2.5));
  EXPECT_NEAR(rope.attention_factor, std::sqrt(1 + std::log(256 / 64) / std::log(64)), 1e-12);
  content_.metadata["llama.rope.scaling.attn_factor"] = 1.5;
  EXPECT_EQ(Open(content_).value()->config().rope.attention_factor, 1.5);
}

TEST_F(GgufModelTest, NamesEveryTensorThatDoesNotFit) {
  std::erase_if(content_.tensors, [](const auto& t) { return t.name == "blk.1.ffn_up.weight"; });
  std::swap(content_.Find("blk.0.attn_k.weight")->shape[0], content_.Find("blk.0.attn_k.weight")->shape[1]);
  content_.AddFloats("blk.0.attn_q_norm.weight", {1, 2});
  content_.AddFloats("blk.7.attn_norm.weight", {1, 2});
  EXPECT_THAT(
      Open(content_),
      StatusIs(kInvalid, AllOf(HasSubstr("/m/m.gguf: 4 faults"),
                               HasSubstr("'blk.1.ffn_up.weight' (model.layers.1.mlp.up_proj.weight) [160, 64] is"),
                               HasSubstr("'blk.0.attn_k.weight': expected shape [32, 64], found [64, 32]"),
                               HasSubstr("'blk.0.attn_q_norm.weight' [2] is not part of the model"),
                               HasSubstr("'blk.7.attn_norm.weight' [2] is not part of the model"))));
}

TEST_F(GgufModelTest, NamesEveryEncodingThatIsNotRead) {
  GgufContent::Tensor* tensor = content_.Find("token_embd.weight");
  tensor->type = 999;
  EXPECT_THAT(Open(content_),
              StatusIs(kUnimplemented, HasSubstr("'token_embd.weight': encoding type 999 is not read")));
}

TEST_F(GgufModelTest, RefusesOtherArchitecturesAndMetadataThatIsMissing) {
  GgufContent other = content_;
  other.metadata["general.architecture"] = std::string("mamba");
  EXPECT_THAT(Open(other), StatusIs(kUnimplemented, HasSubstr("'mamba' is not known; known: llama")));
  GgufContent experts = content_;
  experts.metadata["llama.expert_count"] = uint64_t{8};
  EXPECT_THAT(Open(experts), StatusIs(kUnimplemented, HasSubstr("experts")));
  GgufContent partial = content_;
  partial.metadata["llama.rope.dimension_count"] = uint64_t{8};
  EXPECT_THAT(Open(partial), StatusIs(kUnimplemented, HasSubstr("8 of 16")));
  content_.metadata.erase("llama.block_count");
  content_.metadata["llama.embedding_length"] = std::string("64");
  EXPECT_THAT(Open(content_),
              StatusIs(kInvalid, AllOf(HasSubstr("2 faults"), HasSubstr("'llama.block_count' is missing"),
                                       HasSubstr("'llama.embedding_length': expected an unsigned integer"))));
}

TEST_F(GgufModelTest, EveryChangedByteOfTheHeaderIsAnswered) {
  const std::string bytes = GoldenGguf("q4_1");
  const size_t header = bytes.size() - 20000 > 3000 ? 3000 : bytes.size();
  for (size_t i = 0; i < header; ++i) {
    std::string changed = bytes;
    changed[i] = static_cast<char>(changed[i] ^ (1 << (i % 8)));
    const auto gguf = format::Gguf::Parse(format::AsBytes(changed), "x");
    if (gguf.ok()) ConfigFromGguf(*gguf, "x").status().IgnoreError();
  }
}

}  // namespace
}  // namespace strata::model
