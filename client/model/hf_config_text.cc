#include <algorithm>
#include <cmath>
#include <string>

#include "client/model/family.h"
#include "client/model/model_config.h"
#include "nlohmann/json.hpp"

namespace strata::model {
namespace {

using Json = nlohmann::ordered_json;

// transformers takes no 8.0 where it wants an integer, and no 30 where it wants a float: a double is written as one.
Json WholeNumber(double value) {
  if (value == std::floor(value) && std::abs(value) < 9e15) return static_cast<int64_t>(value);
  return value;
}

Json NumberOrOff(double value) { return value > 0 ? Json(value) : Json(); }

Json ScalingText(const RopeConfig& rope) {
  switch (rope.scaling) {
    case RopeScaling::kNone:
      break;
    case RopeScaling::kLinear:
      return {{"rope_type", "linear"}, {"factor", rope.factor}};
    case RopeScaling::kDynamic:
      return {{"rope_type", "dynamic"}, {"factor", rope.factor}};
    case RopeScaling::kLlama3:
      return {{"rope_type", "llama3"},
              {"factor", rope.factor},
              {"low_freq_factor", rope.low_freq_factor},
              {"high_freq_factor", rope.high_freq_factor},
              {"original_max_position_embeddings", rope.original_max_positions}};
    case RopeScaling::kYarn:
      return {{"rope_type", "yarn"},
              {"factor", rope.factor},
              {"original_max_position_embeddings", rope.original_max_positions},
              {"beta_fast", rope.beta_fast},
              {"beta_slow", rope.beta_slow},
              {"attention_factor", rope.attention_factor},
              {"truncate", rope.truncate}};
    case RopeScaling::kLongRope:
      return {{"rope_type", "longrope"},
              {"factor", rope.factor},
              {"original_max_position_embeddings", rope.original_max_positions},
              {"attention_factor", rope.attention_factor},
              {"short_factor", rope.short_factors},
              {"long_factor", rope.long_factors}};
  }
  return nullptr;
}

void WriteWindows(const Family& family, const ModelConfig& config, Json& json) {
  if (family.windows == WindowRule::kNone) return;
  const bool any = !config.windows.empty();
  json["sliding_window"] = any ? Json(*std::max_element(config.windows.begin(), config.windows.end())) : Json();
  if (family.windows == WindowRule::kEvery) return;
  if (family.windows == WindowRule::kSwitched) json["use_sliding_window"] = any;
  if (!any) return;
  const bool all = std::find(config.windows.begin(), config.windows.end(), 0) == config.windows.end();
  if (family.windows == WindowRule::kListed && all) return;
  Json types = Json::array();
  for (const int64_t window : config.windows) types.push_back(window > 0 ? "sliding_attention" : "full_attention");
  json["layer_types"] = types;
}

std::string_view ActivationName(kernels::Unit unit) {
  if (unit == kernels::Unit::kSwiglu) return "silu";
  return unit == kernels::Unit::kGeglu ? "gelu_pytorch_tanh" : "gelu_new";
}

}  // namespace

std::string HfConfigText(const ModelConfig& config) {
  const Family& family = FamilyOf(config);
  const ConfigKeys& keys = family.keys;
  Json json = Json::object();
  const auto set = [&json](const char* key, Json value) {
    if (*key != '\0') json[key] = std::move(value);
  };
  set(keys.hidden_size, config.hidden_size);
  set(keys.intermediate_size, config.intermediate_size);
  set(keys.num_layers, config.num_layers);
  set(keys.num_heads, config.num_heads);
  set(keys.num_kv_heads, config.num_kv_heads);
  set(keys.max_positions, config.max_positions);
  set(keys.norm_eps, config.norm_eps);
  set(keys.activation, ActivationName(config.unit));
  set(keys.attention_bias, config.qkv_bias);
  set(keys.mlp_bias, config.mlp_bias);
  set(keys.query_scalar, WholeNumber(config.query_scalar));
  set(keys.attention_softcap, NumberOrOff(config.attention_softcap));
  set(keys.logit_softcap, NumberOrOff(config.logit_softcap));
  set("vocab_size", config.vocab_size);
  set("tie_word_embeddings", config.tied_embeddings);
  WriteWindows(family, config, json);
  if (!config.learned_positions) {
    set("head_dim", config.head_dim);
    set("rope_theta", config.rope.theta);
    set("rope_scaling", ScalingText(config.rope));
    set(keys.window_theta, config.window_rope.theta);
    set(keys.rotary_share, config.rope.share);
    // Phi-3's classes look for it beside the scaling.
    if (config.rope.scaling == RopeScaling::kLongRope) {
      set("original_max_position_embeddings", config.rope.original_max_positions);
    }
  }
  Json file = {{"architectures", {family.hf_class}}, {"model_type", config.architecture}};
  if (family.section.empty()) {
    file.update(json);
  } else {
    file[std::string(family.section)] = std::move(json);
  }
  return file.dump(2) + "\n";
}

}  // namespace strata::model
