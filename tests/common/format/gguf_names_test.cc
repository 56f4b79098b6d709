#include "common/format/gguf_names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

namespace strata::format {
namespace {

struct Case {
  std::string_view model_type, hf, gguf;
  GgufChange change = GgufChange::kNone;
};

// Names of llama.cpp's converter.
constexpr Case kCases[] = {
    {"llama", "model.layers.0.self_attn.q_proj", "blk.0.attn_q", GgufChange::kQueryRows},
    {"mistral", "model.layers.31.self_attn.k_proj", "blk.31.attn_k", GgufChange::kKeyRows},
    {"llama", "model.layers.12.post_attention_layernorm", "blk.12.ffn_norm"},
    {"llama", "lm_head", "output"},
    {"llama", "model.embed_tokens", "token_embd"},
    {"qwen2", "model.layers.3.self_attn.q_proj", "blk.3.attn_q"},
    {"qwen3", "model.layers.3.self_attn.k_norm", "blk.3.attn_k_norm"},
    {"phi3", "model.layers.3.self_attn.qkv_proj", "blk.3.attn_qkv"},
    {"phi3", "model.layers.3.mlp.gate_up_proj", "blk.3.ffn_up"},
    {"gemma2", "model.layers.3.post_attention_layernorm", "blk.3.post_attention_norm", GgufChange::kPlusOne},
    {"gemma3_text", "model.layers.3.pre_feedforward_layernorm", "blk.3.ffn_norm", GgufChange::kPlusOne},
    {"gemma3_text", "model.norm", "output_norm", GgufChange::kPlusOne},
    {"gemma3", "model.language_model.layers.3.self_attn.q_norm", "blk.3.attn_q_norm", GgufChange::kPlusOne},
    {"gemma3", "model.language_model.norm", "output_norm", GgufChange::kPlusOne},
    {"gemma3", "lm_head", "output"},
    {"gpt2", "transformer.h.11.attn.c_attn", "blk.11.attn_qkv", GgufChange::kTransposed},
    {"gpt2", "transformer.wpe", "position_embd"},
};

TEST(GgufNames, GoBothWays) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.hf);
    const GgufFamily* family = FindGgufFamily(c.model_type);
    ASSERT_NE(family, nullptr);
    const GgufModuleName there = GgufModuleOfHf(*family, c.hf);
    EXPECT_EQ(there.gguf, c.gguf);
    EXPECT_EQ(there.hf, c.hf);
    EXPECT_EQ(there.change, c.change);
    EXPECT_EQ(GgufModuleOfGguf(*family, c.gguf).hf, c.hf);
  }
}

TEST(GgufNames, HfFilesWithoutTheRootAreKnown) {
  const GgufModuleName name = GgufModuleOfHf(*FindGgufFamily("gpt2"), "h.0.mlp.c_fc");
  EXPECT_EQ(name.gguf, "blk.0.ffn_up");
  EXPECT_EQ(name.hf, "transformer.h.0.mlp.c_fc");
}

TEST(GgufNames, StrangersAreNotNamed) {
  const GgufFamily& llama = *FindGgufFamily("llama");
  for (const std::string_view name :
       {"model.layers.0.self_attn", "model.layers.00.self_attn.q_proj", "model.layers.x.self_attn.q_proj",
        "model.layers.1234567.self_attn.q_proj", "model.layers.0.self_attn.q_norm", "model", "", "model.layers."}) {
    EXPECT_FALSE(GgufModuleOfHf(llama, name)) << name;
  }
  EXPECT_FALSE(GgufModuleOfGguf(llama, "blk.0.attn_qkv"));
  EXPECT_FALSE(GgufModuleOfGguf(llama, "blk.attn_q"));
  EXPECT_EQ(FindGgufFamily("bert"), nullptr);
  EXPECT_EQ(FindGgufArchitecture("mistral"), nullptr);
  EXPECT_EQ(FindGgufArchitecture("gemma3"), FindGgufFamily("gemma3_text"));
}

// llama.cpp's converter: [heads, 2, half, in] with the middle two swapped.
TEST(GgufNames, RotaryRowsAreAPermutationWithinEachHead) {
  constexpr int64_t kHeadDim = 6;
  std::set<int64_t> seen;
  for (int64_t head = 0; head < 2; ++head) {
    for (int64_t within = 0; within < kHeadDim; ++within) {
      const int64_t half = within % 2;
      const int64_t pair = within / 2;
      const int64_t expected = head * kHeadDim + half * (kHeadDim / 2) + pair;
      EXPECT_EQ(HfRotaryRow(head * kHeadDim + within, kHeadDim), expected);
      seen.insert(expected);
    }
  }
  EXPECT_EQ(seen.size(), 12U);
}

}  // namespace
}  // namespace strata::format
