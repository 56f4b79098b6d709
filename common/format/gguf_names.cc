#include "common/format/gguf_names.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_join.h"
#include "common/status/cat.h"

namespace strata::format {
namespace {

using enum GgufChange;

constexpr std::array kDecoder = {GgufModule{"token_embd", "embed_tokens"}, GgufModule{"output_norm", "norm"},
                                 GgufModule{"output", "lm_head"}};
constexpr std::array kGemmaDecoder = {GgufModule{"token_embd", "embed_tokens"},
                                      GgufModule{"output_norm", "norm", kPlusOne}, GgufModule{"output", "lm_head"}};
constexpr std::array kGpt2Decoder = {GgufModule{"token_embd", "wte"}, GgufModule{"position_embd", "wpe"},
                                     GgufModule{"output_norm", "ln_f"}, GgufModule{"output", "lm_head"}};

constexpr std::array kLlamaLayer = {GgufModule{"attn_norm", "input_layernorm"},
                                    GgufModule{"attn_q", "self_attn.q_proj", kQueryRows},
                                    GgufModule{"attn_k", "self_attn.k_proj", kKeyRows},
                                    GgufModule{"attn_v", "self_attn.v_proj"},
                                    GgufModule{"attn_output", "self_attn.o_proj"},
                                    GgufModule{"ffn_norm", "post_attention_layernorm"},
                                    GgufModule{"ffn_gate", "mlp.gate_proj"},
                                    GgufModule{"ffn_up", "mlp.up_proj"},
                                    GgufModule{"ffn_down", "mlp.down_proj"}};
// Qwen 2 and 3: the rows of q and k stay as they are; Qwen 3 norms its heads.
constexpr std::array kQwenLayer = {
    GgufModule{"attn_norm", "input_layernorm"},    GgufModule{"attn_q", "self_attn.q_proj"},
    GgufModule{"attn_k", "self_attn.k_proj"},      GgufModule{"attn_v", "self_attn.v_proj"},
    GgufModule{"attn_output", "self_attn.o_proj"}, GgufModule{"attn_q_norm", "self_attn.q_norm"},
    GgufModule{"attn_k_norm", "self_attn.k_norm"}, GgufModule{"ffn_norm", "post_attention_layernorm"},
    GgufModule{"ffn_gate", "mlp.gate_proj"},       GgufModule{"ffn_up", "mlp.up_proj"},
    GgufModule{"ffn_down", "mlp.down_proj"}};
constexpr std::array kPhi3Layer = {
    GgufModule{"attn_norm", "input_layernorm"},    GgufModule{"attn_qkv", "self_attn.qkv_proj"},
    GgufModule{"attn_output", "self_attn.o_proj"}, GgufModule{"ffn_norm", "post_attention_layernorm"},
    GgufModule{"ffn_up", "mlp.gate_up_proj"},      GgufModule{"ffn_down", "mlp.down_proj"}};
// Gemma 2 and 3; Gemma 3 norms its heads.
constexpr std::array kGemmaLayer = {GgufModule{"attn_norm", "input_layernorm", kPlusOne},
                                    GgufModule{"attn_q", "self_attn.q_proj"},
                                    GgufModule{"attn_k", "self_attn.k_proj"},
                                    GgufModule{"attn_v", "self_attn.v_proj"},
                                    GgufModule{"attn_output", "self_attn.o_proj"},
                                    GgufModule{"attn_q_norm", "self_attn.q_norm", kPlusOne},
                                    GgufModule{"attn_k_norm", "self_attn.k_norm", kPlusOne},
                                    GgufModule{"post_attention_norm", "post_attention_layernorm", kPlusOne},
                                    GgufModule{"ffn_norm", "pre_feedforward_layernorm", kPlusOne},
                                    GgufModule{"post_ffw_norm", "post_feedforward_layernorm", kPlusOne},
                                    GgufModule{"ffn_gate", "mlp.gate_proj"},
                                    GgufModule{"ffn_up", "mlp.up_proj"},
                                    GgufModule{"ffn_down", "mlp.down_proj"}};
constexpr std::array kGpt2Layer = {GgufModule{"attn_norm", "ln_1"},
                                   GgufModule{"attn_qkv", "attn.c_attn", kTransposed},
                                   GgufModule{"attn_output", "attn.c_proj", kTransposed},
                                   GgufModule{"ffn_norm", "ln_2"},
                                   GgufModule{"ffn_up", "mlp.c_fc", kTransposed},
                                   GgufModule{"ffn_down", "mlp.c_proj", kTransposed}};

constexpr std::array<std::string_view, 2> kLlamaTypes = {"llama", "mistral"};
constexpr std::array<std::string_view, 1> kQwen2Types = {"qwen2"};
constexpr std::array<std::string_view, 1> kQwen3Types = {"qwen3"};
constexpr std::array<std::string_view, 1> kPhi3Types = {"phi3"};
constexpr std::array<std::string_view, 1> kGemma2Types = {"gemma2"};
constexpr std::array<std::string_view, 1> kGemma3Types = {"gemma3_text"};
constexpr std::array<std::string_view, 1> kGemma3VisionTypes = {"gemma3"};  // its text's part
constexpr std::array<std::string_view, 1> kGpt2Types = {"gpt2"};

constexpr std::array kFamilies = {
    GgufFamily{"llama", kLlamaTypes, "model", "layers", kDecoder, kLlamaLayer},
    GgufFamily{"qwen2", kQwen2Types, "model", "layers", kDecoder, kQwenLayer},
    GgufFamily{"qwen3", kQwen3Types, "model", "layers", kDecoder, kQwenLayer},
    GgufFamily{"phi3", kPhi3Types, "model", "layers", kDecoder, kPhi3Layer},
    GgufFamily{"gemma2", kGemma2Types, "model", "layers", kGemmaDecoder, kGemmaLayer},
    GgufFamily{"gemma3", kGemma3Types, "model", "layers", kGemmaDecoder, kGemmaLayer},
    GgufFamily{"gemma3", kGemma3VisionTypes, "model.language_model", "layers", kGemmaDecoder, kGemmaLayer},
    GgufFamily{"gpt2", kGpt2Types, "transformer", "h", kGpt2Decoder, kGpt2Layer}};

constexpr std::string_view kHead = "lm_head";

// Takes "PREFIX." off; false: `name` does not begin so.
bool Consume(std::string_view& name, std::string_view prefix) {
  if (!name.starts_with(prefix) || name.size() <= prefix.size() || name[prefix.size()] != '.') return false;
  name.remove_prefix(prefix.size() + 1);
  return true;
}

// Takes "N." off and returns N; empty: `name` does not begin with a layer's number.
std::string_view ConsumeLayer(std::string_view& name) {
  constexpr size_t kMaxDigits = 5;
  const size_t dot = name.find('.');
  if (dot == std::string_view::npos || dot == 0 || dot > kMaxDigits) return {};
  const std::string_view number = name.substr(0, dot);
  if (!std::all_of(number.begin(), number.end(), [](char c) { return c >= '0' && c <= '9'; })) return {};
  if (number.size() > 1 && number.front() == '0') return {};
  name.remove_prefix(dot + 1);
  return number;
}

GgufModuleName Find(const GgufFamily& family, std::string_view layer, std::string_view GgufModule::*key,
                    std::string_view name) {
  const std::span<const GgufModule> modules = layer.empty() ? family.modules : family.layer_modules;
  const auto it = std::find_if(modules.begin(), modules.end(), [&](const GgufModule& m) { return m.*key == name; });
  if (it == modules.end()) return {};
  if (layer.empty()) {
    return {std::string(it->gguf), it->hf == kHead ? std::string(kHead) : Cat(family.root, ".", it->hf), it->change};
  }
  return {Cat("blk.", layer, ".", it->gguf), Cat(family.root, ".", family.layers, ".", layer, ".", it->hf), it->change};
}

}  // namespace

const GgufFamily* FindGgufFamily(std::string_view model_type) {
  for (const GgufFamily& family : kFamilies) {
    if (std::find(family.model_types.begin(), family.model_types.end(), model_type) != family.model_types.end()) {
      return &family;
    }
  }
  return nullptr;
}

const GgufFamily* FindGgufArchitecture(std::string_view architecture) {
  const auto it = std::find_if(kFamilies.begin(), kFamilies.end(),
                               [&](const GgufFamily& family) { return family.architecture == architecture; });
  return it == kFamilies.end() ? nullptr : &*it;
}

std::string KnownGgufModelTypes() {
  return absl::StrJoin(kFamilies, ", ", [](std::string* out, const GgufFamily& family) {
    out->append(
        absl::StrJoin(family.model_types, ", ", [](std::string* o, std::string_view type) { o->append(type); }));
  });
}

GgufModuleName GgufModuleOfHf(const GgufFamily& family, std::string_view hf) {
  if (hf == kHead) return Find(family, "", &GgufModule::hf, hf);
  Consume(hf, family.root);
  if (!Consume(hf, family.layers)) return Find(family, "", &GgufModule::hf, hf);
  const std::string_view layer = ConsumeLayer(hf);
  return layer.empty() ? GgufModuleName{} : Find(family, layer, &GgufModule::hf, hf);
}

GgufModuleName GgufModuleOfGguf(const GgufFamily& family, std::string_view gguf) {
  if (!Consume(gguf, "blk")) return Find(family, "", &GgufModule::gguf, gguf);
  const std::string_view layer = ConsumeLayer(gguf);
  return layer.empty() ? GgufModuleName{} : Find(family, layer, &GgufModule::gguf, gguf);
}

int64_t HfRotaryRow(int64_t row, int64_t head_dim) {
  const int64_t within = row % head_dim;
  return row - within + (within % 2) * (head_dim / 2) + within / 2;
}

}  // namespace strata::format
