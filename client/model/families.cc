#include <algorithm>

#include "client/model/family.h"

namespace strata::model {
namespace {

constexpr LinearEntry kSplitLinears[] = {
    {"self_attn.q_proj", kQkv, LinearRows::kQueries},      {"self_attn.k_proj", kQkv, LinearRows::kKeys},
    {"self_attn.v_proj", kQkv, LinearRows::kValues},       {"self_attn.o_proj", kOut, LinearRows::kHidden},
    {"mlp.gate_proj", kGateUp, LinearRows::kIntermediate}, {"mlp.up_proj", kGateUp, LinearRows::kIntermediate},
    {"mlp.down_proj", kDown, LinearRows::kHidden}};
constexpr NormEntry kTwoNorms[] = {{"input_layernorm", kAttentionNorm}, {"post_attention_layernorm", kMlpNorm}};
constexpr std::string_view kFrequencies[] = {".rotary_emb.inv_freq"};

Family Llama() {
  return {.hf_class = "LlamaForCausalLM",
          .defaults = {.architecture = "llama"},
          .linears = kSplitLinears,
          .norms = kTwoNorms,
          .keys = {.attention_bias = "attention_bias", .mlp_bias = "mlp_bias"},
          .buffers = kFrequencies};
}

Family Mistral() {
  return {.hf_class = "MistralForCausalLM",
          .defaults = {.architecture = "mistral", .num_kv_heads = 8},
          .linears = kSplitLinears,
          .norms = kTwoNorms,
          .windows = WindowRule::kListed,
          .default_window = 4096,
          .buffers = kFrequencies};
}

Family Qwen2() {
  return {.hf_class = "Qwen2ForCausalLM",
          .defaults = {.architecture = "qwen2", .num_kv_heads = 32, .qkv_bias = true},
          .linears = kSplitLinears,
          .norms = kTwoNorms,
          .windows = WindowRule::kSwitched,
          .default_window = 4096,
          .buffers = kFrequencies};
}

constexpr NormEntry kQwen3Norms[] = {{"input_layernorm", kAttentionNorm},
                                     {"post_attention_layernorm", kMlpNorm},
                                     {"self_attn.q_norm", kQueryNorm},
                                     {"self_attn.k_norm", kKeyNorm}};

Family Qwen3() {
  return {.hf_class = "Qwen3ForCausalLM",
          .defaults = {.architecture = "qwen3", .num_kv_heads = 32, .head_dim = 128},
          .linears = kSplitLinears,
          .norms = kQwen3Norms,
          .keys = {.attention_bias = "attention_bias"},
          .windows = WindowRule::kSwitched,
          .default_window = 4096,
          .buffers = kFrequencies};
}

constexpr LinearEntry kPhi3Linears[] = {{"self_attn.qkv_proj", kQkv, LinearRows::kQueriesKeysValues},
                                        {"self_attn.o_proj", kOut, LinearRows::kHidden},
                                        {"mlp.gate_up_proj", kGateUp, LinearRows::kTwoIntermediate},
                                        {"mlp.down_proj", kDown, LinearRows::kHidden}};

Family Phi3() {
  return {.hf_class = "Phi3ForCausalLM",
          .defaults = {.architecture = "phi3", .norm_eps = 1e-5},
          .linears = kPhi3Linears,
          .norms = kTwoNorms,
          .keys = {.rotary_share = "partial_rotary_factor"},
          .windows = WindowRule::kEvery,
          .buffers = kFrequencies};
}

constexpr NormEntry kGemma2Norms[] = {{"input_layernorm", kAttentionNorm},
                                      {"post_attention_layernorm", kPostAttentionNorm},
                                      {"pre_feedforward_layernorm", kMlpNorm},
                                      {"post_feedforward_layernorm", kPostMlpNorm}};

Family Gemma2() {
  return {.hf_class = "Gemma2ForCausalLM",
          .defaults = {.architecture = "gemma2",
                       .num_kv_heads = 4,
                       .head_dim = 256,
                       .norm_offset = 1,
                       .unit = kernels::Unit::kGeglu,
                       .query_scalar = 256,
                       .attention_softcap = 50,
                       .logit_softcap = 30,
                       .scaled_embeddings = true,
                       .tied_embeddings = true},
          .linears = kSplitLinears,
          .norms = kGemma2Norms,
          .keys = {.activation = "hidden_activation",
                   .attention_bias = "attention_bias",
                   .query_scalar = "query_pre_attn_scalar",
                   .attention_softcap = "attn_logit_softcapping",
                   .logit_softcap = "final_logit_softcapping"},
          .windows = WindowRule::kPattern,
          .default_window = 4096,
          .window_pattern = 2,
          .even_scalar_layers = 46};
}

constexpr NormEntry kGemma3Norms[] = {
    {"input_layernorm", kAttentionNorm},     {"post_attention_layernorm", kPostAttentionNorm},
    {"pre_feedforward_layernorm", kMlpNorm}, {"post_feedforward_layernorm", kPostMlpNorm},
    {"self_attn.q_norm", kQueryNorm},        {"self_attn.k_norm", kKeyNorm}};

Family Gemma3() {
  Family family = Gemma2();
  family.hf_class = "Gemma3ForCausalLM";
  family.defaults.architecture = "gemma3_text";
  family.defaults.rope.theta = 1e6;
  family.defaults.attention_softcap = family.defaults.logit_softcap = 0;
  family.norms = kGemma3Norms;
  // transformers has the key and reads it, but caps no score.
  family.keys.attention_softcap = "";
  family.keys.window_theta = "rope_local_base_freq";
  family.window_pattern = 6;
  family.even_scalar_layers = 62;
  return family;
}

constexpr std::string_view kVisionParts[] = {"vision_tower.", "multi_modal_projector.", "model.vision_tower.",
                                             "model.multi_modal_projector."};
constexpr OlderName kLlavaNames[] = {{"language_model.model.", "model.language_model."},
                                     {"language_model.lm_head.", "lm_head."}};

// The published files of 4B and more say of their text's part only what these defaults do not.
Family Gemma3WithVision() {
  Family family = Gemma3();
  family.hf_class = "Gemma3ForConditionalGeneration";
  family.defaults.architecture = "gemma3";
  family.defaults.num_heads = 8;
  family.defaults.vocab_size = 262208;
  family.defaults.max_positions = 131072;
  family.prefix = "model.language_model.";
  family.section = "text_config";
  family.other_parts = kVisionParts;
  family.older_names = kLlavaNames;
  return family;
}

constexpr LinearEntry kGpt2Linears[] = {{"attn.c_attn", kQkv, LinearRows::kQueriesKeysValues},
                                        {"attn.c_proj", kOut, LinearRows::kHidden},
                                        {"mlp.c_fc", kGateUp, LinearRows::kIntermediate},
                                        {"mlp.c_proj", kDown, LinearRows::kHidden}};
constexpr NormEntry kGpt2Norms[] = {{"ln_1", kAttentionNorm}, {"ln_2", kMlpNorm}};
constexpr std::string_view kGpt2Buffers[] = {".attn.bias", ".attn.masked_bias"};

Family Gpt2() {
  return {.hf_class = "GPT2LMHeadModel",
          .defaults = {.architecture = "gpt2",
                       .norm = NormKind::kLayer,
                       .norm_eps = 1e-5,
                       .unit = kernels::Unit::kGelu,
                       .learned_positions = true,
                       .tied_embeddings = true,
                       .qkv_bias = true,
                       .output_bias = true,
                       .mlp_bias = true},
          .linears = kGpt2Linears,
          .norms = kGpt2Norms,
          .keys = {.hidden_size = "n_embd",
                   .intermediate_size = "n_inner",
                   .num_layers = "n_layer",
                   .num_heads = "n_head",
                   .num_kv_heads = "",
                   .max_positions = "n_positions",
                   .norm_eps = "layer_norm_epsilon",
                   .activation = "activation_function"},
          .prefix = "transformer.",
          .layers = "h.",
          .embedding = "wte",
          .positions = "wpe",
          .final_norm = "ln_f",
          .input_major = true,
          .intermediate_times = 4,
          .buffers = kGpt2Buffers};
}

template <typename F>
const Family* FindWhere(const F& wanted) {
  const auto it = std::find_if(Families().begin(), Families().end(), wanted);
  return it == Families().end() ? nullptr : &*it;
}

}  // namespace

const std::vector<Family>& Families() {
  static const auto& families = *new std::vector<Family>{
      Llama(), Mistral(), Qwen2(), Qwen3(), Phi3(), Gemma2(), Gemma3(), Gemma3WithVision(), Gpt2()};
  return families;
}

const Family* FindFamily(std::string_view architecture) {
  return FindWhere([&](const Family& f) { return f.defaults.architecture == architecture; });
}
const Family* FindFamilyByClass(std::string_view hf_class) {
  return FindWhere([&](const Family& f) { return f.hf_class == hf_class; });
}

const Family& FamilyOf(const ModelConfig& config) { return *FindFamily(config.architecture); }

}  // namespace strata::model
