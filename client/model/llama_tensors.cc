#include "client/model/llama_tensors.h"

#include <string_view>
#include <utility>

#include "absl/strings/str_join.h"
#include "common/status/cat.h"

namespace strata::model {
namespace {

struct Linear {
  std::string_view name;
  int64_t out = 0, in = 0;
  bool bias = false;
  int64_t rotary_heads = 0;
};

std::vector<Linear> LinearsOfLayer(const ModelConfig& c) {
  const int64_t queries = c.num_heads * c.head_dim;
  const int64_t keys = c.num_kv_heads * c.head_dim;
  return {{"self_attn.q_proj", queries, c.hidden_size, c.attention_bias, c.num_heads},
          {"self_attn.k_proj", keys, c.hidden_size, c.attention_bias, c.num_kv_heads},
          {"self_attn.v_proj", keys, c.hidden_size, c.attention_bias},
          {"self_attn.o_proj", c.hidden_size, queries, c.attention_bias},
          {"mlp.gate_proj", c.intermediate_size, c.hidden_size, c.mlp_bias},
          {"mlp.up_proj", c.intermediate_size, c.hidden_size, c.mlp_bias},
          {"mlp.down_proj", c.hidden_size, c.intermediate_size, c.mlp_bias}};
}

std::string LayerPrefix(int64_t layer) { return Cat("model.layers.", layer, "."); }

}  // namespace

std::vector<ExpectedTensor> ExpectedTensors(const ModelConfig& config) {
  std::vector<ExpectedTensor> tensors;
  tensors.push_back({"model.embed_tokens.weight", {config.vocab_size, config.hidden_size}});
  tensors.push_back({"model.norm.weight", {config.hidden_size}});
  if (!config.tied_embeddings) tensors.push_back({"lm_head.weight", {config.vocab_size, config.hidden_size}});
  const std::vector<Linear> linears = LinearsOfLayer(config);
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const std::string prefix = LayerPrefix(layer);
    tensors.push_back({Cat(prefix, "input_layernorm.weight"), {config.hidden_size}});
    tensors.push_back({Cat(prefix, "post_attention_layernorm.weight"), {config.hidden_size}});
    for (const Linear& linear : linears) {
      tensors.push_back({Cat(prefix, linear.name, ".weight"), {linear.out, linear.in}, linear.rotary_heads});
      if (linear.bias) tensors.push_back({Cat(prefix, linear.name, ".bias"), {linear.out}, linear.rotary_heads});
    }
  }
  return tensors;
}

std::vector<config::ModuleShape> LlamaLinearModules(const ModelConfig& config) {
  std::vector<config::ModuleShape> modules;
  const std::vector<Linear> linears = LinearsOfLayer(config);
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    for (const Linear& linear : linears) {
      modules.push_back({.name = Cat(LayerPrefix(layer), linear.name), .out = linear.out, .in = linear.in});
    }
  }
  if (!config.tied_embeddings) {
    modules.push_back({.name = "lm_head", .out = config.vocab_size, .in = config.hidden_size});
  }
  return modules;
}

std::string ShapeText(const std::vector<int64_t>& shape) { return Cat("[", absl::StrJoin(shape, ", "), "]"); }

}  // namespace strata::model
