#include "common/adapter/gguf_adapter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/format/gguf.h"
#include "tests/common/adapter/adapters.h"
#include "tests/testing/sim_runtime.h"
#include "tests/testing/status_matchers.h"

namespace strata::adapter {
namespace {

using format::GgufType;
using ::strata::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::vector<float> Floats(const format::Gguf& gguf, const std::string& name) {
  const format::GgufTensor* tensor = gguf.Find(name);
  if (tensor == nullptr) return {};
  std::vector<float> values(static_cast<size_t>(tensor->num_elements()));
  EXPECT_OK(format::DecodeGgufRows(*tensor, 0, values));
  return values;
}

std::vector<float> Floats(const format::TensorView& view) {
  std::vector<float> values(static_cast<size_t>(view.num_elements()));
  EXPECT_OK(format::ToFloat(view, values));
  return values;
}

class GgufAdapterTest : public ::testing::Test {
 protected:
  GgufBase Base(std::string_view model_type, int64_t heads, int64_t kv_heads) {
    return {.family = format::FindGgufFamily(model_type), .num_heads = heads, .num_kv_heads = kv_heads};
  }
  format::Gguf Written(const Adapter& adapter, const GgufBase& base, GgufType type = GgufType::kF32) {
    EXPECT_OK(WriteGgufAdapter(machine_.files(), "/a.gguf", adapter, base, type));
    return format::Gguf::Open(machine_.files(), "/a.gguf").value();
  }
  testing::SimRuntime machine_;
};

TEST_F(GgufAdapterTest, MagnitudesAreRefused) {
  AdapterBuilder builder;
  builder.Add("model.layers.0.self_attn.q_proj", 1, 2, 2, 1, 1, {1, 2}, {3, 4});
  builder.AddMagnitude({1, 1});
  EXPECT_THAT(
      WriteGgufAdapter(machine_.files(), "/a.gguf", std::move(builder).Build(), Base("llama", 1, 1), GgufType::kF32),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("strata-client merge")));
  EXPECT_FALSE(machine_.files().Exists("/a.gguf"));
}

// What llama.cpp adds to the weight: alpha / rank B A with the rank of the tensors, rows as GGUF has them.
double Applied(const format::Gguf& gguf, const std::string& name, int64_t row, int64_t column) {
  const std::vector<float> a = Floats(gguf, name + ".weight.lora_a");
  const std::vector<float> b = Floats(gguf, name + ".weight.lora_b");
  const int64_t in = gguf.Find(name + ".weight.lora_a")->shape[1];
  const int64_t rank = gguf.Find(name + ".weight.lora_a")->shape[0];
  double sum = 0;
  for (int64_t k = 0; k < rank; ++k) {
    sum += static_cast<double>(b[row * rank + k]) * static_cast<double>(a[k * in + column]);
  }
  return gguf.GetFloat("adapter.lora.alpha").value() / static_cast<double>(rank) * sum;
}

double Update(const Factors& factors, int64_t row, int64_t column) {
  const std::vector<float> a = Floats(factors.a);
  const std::vector<float> b = Floats(factors.b);
  double sum = 0;
  for (int64_t k = 0; k < factors.rank; ++k) {
    sum += static_cast<double>(b[row * factors.rank + k]) * static_cast<double>(a[k * factors.in + column]);
  }
  return factors.scaling * sum;
}

// One alpha and three scalings: what llama.cpp adds is the update of each module all the same.
TEST_F(GgufAdapterTest, AppliesTheUpdateOfEveryModuleWhateverItsScaling) {
  const std::vector<testing::ModuleSpec> specs = {{"model.layers.0.self_attn.q_proj", 4, 16, 12, 8, 2},
                                                  {"model.layers.0.self_attn.k_proj", 2, 8, 12, 8, 4},
                                                  {"model.layers.0.self_attn.v_proj", 4, 8, 12, 8, 8 / std::sqrt(4)},
                                                  {"model.layers.1.mlp.down_proj", 3, 12, 20, 1, 1.0 / 3},
                                                  {"model.layers.1.mlp.up_proj", 0, 20, 12, 1, 1}};
  const Adapter adapter = testing::MakeAdapter(specs);
  const format::Gguf gguf = Written(adapter, Base("llama", 4, 2));
  EXPECT_EQ(gguf.GetString("general.type").value(), "adapter");
  EXPECT_EQ(gguf.GetString("adapter.type").value(), "lora");
  EXPECT_EQ(gguf.GetString("general.architecture").value(), "llama");
  EXPECT_EQ(gguf.GetFloat("adapter.lora.alpha").value(), 8);
  EXPECT_EQ(gguf.tensors().size(), 8U) << "a module of rank 0 is left out";
  const std::vector<std::tuple<std::string, std::string, int64_t>> names = {
      {"model.layers.0.self_attn.q_proj", "blk.0.attn_q", 4},
      {"model.layers.0.self_attn.k_proj", "blk.0.attn_k", 4},
      {"model.layers.0.self_attn.v_proj", "blk.0.attn_v", 0},
      {"model.layers.1.mlp.down_proj", "blk.1.ffn_down", 0}};
  for (const auto& [hf, name, head_dim] : names) {
    SCOPED_TRACE(name);
    const Factors& factors = *adapter.Find(hf);
    for (int64_t row = 0; row < factors.out; ++row) {
      // GGUF row 2 i + h of a head is HF's row h * half + i.
      const int64_t within = head_dim == 0 ? 0 : row % head_dim;
      const int64_t from = head_dim == 0 ? row : row - within + within % 2 * (head_dim / 2) + within / 2;
      for (int64_t column = 0; column < factors.in; ++column) {
        const double wanted = Update(factors, from, column);
        EXPECT_NEAR(Applied(gguf, name, row, column), wanted, 1e-6 * (1 + std::abs(wanted)));
      }
    }
  }
}

TEST_F(GgufAdapterTest, FactorsThatNeedNoGainKeepTheirBits) {
  const Adapter adapter = testing::MakeAdapter(
      {{"model.layers.0.mlp.up_proj", 2, 6, 4, 16, 8}, {"model.layers.0.mlp.down_proj", 2, 4, 6, 16, 8}});
  const format::Gguf gguf = Written(adapter, Base("qwen2", 2, 2));
  EXPECT_EQ(gguf.GetString("general.architecture").value(), "qwen2");
  EXPECT_EQ(Floats(gguf, "blk.0.ffn_up.weight.lora_b"), Floats(adapter.Find("model.layers.0.mlp.up_proj")->b));
  EXPECT_EQ(Floats(gguf, "blk.0.ffn_up.weight.lora_a"), Floats(adapter.Find("model.layers.0.mlp.up_proj")->a));
}

TEST_F(GgufAdapterTest, FamiliesWithoutGgufsRotaryOrderKeepTheirRows) {
  const Adapter adapter = testing::MakeAdapter({{"model.layers.0.self_attn.q_proj", 2, 8, 4, 2, 1}});
  EXPECT_EQ(Floats(Written(adapter, Base("qwen3", 2, 2)), "blk.0.attn_q.weight.lora_b"),
            Floats(adapter.modules()[0].b));
  EXPECT_NE(Floats(Written(adapter, Base("mistral", 2, 2)), "blk.0.attn_q.weight.lora_b"),
            Floats(adapter.modules()[0].b));
}

TEST_F(GgufAdapterTest, HalvesRoundOnceAndRefuseWhatTheyCannotHold) {
  const Adapter adapter = testing::MakeAdapter({{"model.layers.0.mlp.up_proj", 2, 6, 4, 2, 1}});
  const std::vector<float> b = Floats(adapter.modules()[0].b);
  const std::vector<float> read =
      Floats(Written(adapter, Base("llama", 2, 2), GgufType::kF16), "blk.0.ffn_up.weight.lora_b");
  for (size_t i = 0; i < b.size(); ++i) EXPECT_EQ(read[i], format::HalfToFloat(format::FloatToHalf(b[i])));
  AdapterBuilder large;
  large.Add("model.layers.0.mlp.up_proj", 1, 1, 1, 1, 1, {1}, {70000});
  EXPECT_THAT(
      WriteGgufAdapter(machine_.files(), "/large.gguf", std::move(large).Build(), Base("llama", 2, 2), GgufType::kF16),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("70000 is beyond F16")));
  EXPECT_FALSE(machine_.files().Exists("/large.gguf"));
  EXPECT_FALSE(machine_.files().Exists("/large.gguf.tmp"));
}

TEST_F(GgufAdapterTest, NamesEveryModuleThatCannotBeWritten) {
  const Adapter adapter = testing::MakeAdapter({{"model.layers.0.attn.c_attn", 1, 4, 4, 1, 1},
                                                {"model.layers.0.self_attn.q_proj", 1, 9, 4, 1, 1},
                                                {"lm_head", 1, 4, 4, 1, 1}});
  GgufBase base = Base("llama", 3, 3);
  base.tied_head = true;
  EXPECT_THAT(
      WriteGgufAdapter(machine_.files(), "/a.gguf", adapter, base, GgufType::kF32),
      StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("'model.layers.0.attn.c_attn' has no name"),
                                                         HasSubstr("has 9 rows"), HasSubstr("'lm_head' is tied"))));
}

TEST_F(GgufAdapterTest, IsReadBackUnderItsNamesInGguf) {
  const Adapter adapter = testing::MakeAdapter(
      {{"model.layers.0.mlp.up_proj", 2, 6, 4, 16, 8}, {"model.layers.2.mlp.down_proj", 3, 4, 6, 24, 8}});
  ASSERT_OK(WriteGgufAdapter(machine_.files(), "/a.gguf", adapter, Base("qwen2", 2, 2), GgufType::kF32));
  ASSERT_OK_AND_ASSIGN(const Adapter read, ReadGgufAdapter(machine_.files(), "/a.gguf"));
  ASSERT_EQ(read.modules().size(), 2U);
  for (const auto& [hf, name] : {std::pair("model.layers.0.mlp.up_proj", "blk.0.ffn_up"),
                                 std::pair("model.layers.2.mlp.down_proj", "blk.2.ffn_down")}) {
    const Factors* there = read.Find(name);
    ASSERT_NE(there, nullptr) << name;
    EXPECT_EQ(there->rank, adapter.Find(hf)->rank);
    EXPECT_NEAR(Update(*there, 1, 2), Update(*adapter.Find(hf), 1, 2), 1e-6);
  }
}

TEST_F(GgufAdapterTest, FilesThatAreNoAdapterAreRefused) {
  const auto error = [&](const format::GgufMetadata& metadata, const std::vector<format::GgufTensorSpec>& specs) {
    EXPECT_OK(machine_.files().WriteFile(
        "/x.gguf", format::GgufPreamble(metadata, specs).value() + std::string(specs.size() * 32, '\0')));
    return std::string(ReadGgufAdapter(machine_.files(), "/x.gguf").status().message());
  };
  format::GgufMetadata metadata;
  EXPECT_THAT(error(metadata, {}), HasSubstr("/x.gguf: general.type is '', expected 'adapter'"));
  metadata.SetString("general.type", "adapter");
  metadata.SetString("adapter.type", "control");
  EXPECT_THAT(error(metadata, {}), HasSubstr("adapter.type is 'control'"));
  metadata.SetString("adapter.type", "lora");
  metadata.SetFloat("adapter.lora.alpha", 1);
  const format::GgufTensorSpec a = {"blk.0.x.weight.lora_a", GgufType::kF32, {1, 2}};
  const format::GgufTensorSpec b = {"blk.0.x.weight.lora_b", GgufType::kF32, {2, 1}};
  EXPECT_THAT(error(metadata, {a}), HasSubstr("lora_b is missing"));
  EXPECT_THAT(error(metadata, {b}), HasSubstr("has no lora_a"));
  EXPECT_THAT(error(metadata, {a, {b.name, GgufType::kF32, {1, 2}}}), HasSubstr("disagree about the rank"));
  EXPECT_THAT(error(metadata, {{"token_types.weight", GgufType::kF32, {1}}}), HasSubstr("no factor"));
}

TEST_F(GgufAdapterTest, TheBaseIsReadFromConfigJson) {
  ASSERT_OK(machine_.files().MakeDirectories("/m"));
  const auto read = [&](std::string_view config) {
    EXPECT_OK(machine_.files().WriteFile("/m/config.json", config));
    return ReadGgufBase(machine_.files(), "/m");
  };
  ASSERT_OK_AND_ASSIGN(const GgufBase mistral,
                       read(R"({"model_type": "mistral", "num_attention_heads": 8, "num_key_value_heads": 2})"));
  EXPECT_EQ(mistral.family->architecture, "llama");
  EXPECT_EQ(mistral.num_heads, 8);
  EXPECT_EQ(mistral.num_kv_heads, 2);
  EXPECT_FALSE(mistral.tied_head);
  ASSERT_OK_AND_ASSIGN(const GgufBase gpt2, read(R"({"model_type": "gpt2", "n_head": 12})"));
  EXPECT_TRUE(gpt2.tied_head);
  ASSERT_OK_AND_ASSIGN(const GgufBase gemma3, read(R"({"model_type": "gemma3", "text_config": {"hidden_size": 8}})"));
  EXPECT_EQ(gemma3.family->architecture, "gemma3");
  EXPECT_EQ(gemma3.family->root, "model.language_model");
  EXPECT_TRUE(gemma3.tied_head);
  EXPECT_THAT(read(R"({"model_type": "bert"})"),
              StatusIs(absl::StatusCode::kUnimplemented, AllOf(HasSubstr("'bert'"), HasSubstr("llama, mistral"))));
  EXPECT_THAT(read(R"({"model_type": "llama", "num_key_value_heads": -1})"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("num_attention_heads is missing"), HasSubstr("num_key_value_heads: expected"))));
  EXPECT_THAT(read("[]"), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("/m/config.json: expected a JSON")));
  EXPECT_THAT(ReadGgufBase(machine_.files(), "/none"), StatusIs(absl::StatusCode::kNotFound));
}

}  // namespace
}  // namespace strata::adapter
