// Model families as data. A family is one entry of the table in families.cc: what its configuration's keys are called,
// which tensors a layer has, and the features that its configuration does not say.
#ifndef STRATA_CLIENT_MODEL_FAMILY_H_
#define STRATA_CLIENT_MODEL_FAMILY_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "client/model/model_files.h"

namespace strata::model {

// A layer's linear modules that read the same input; the step treats each group as one matrix.
enum GroupIndex { kQkv = 0, kOut = 1, kGateUp = 2, kDown = 3, kNumGroups = 4 };
// Where a layer's norms stand: before and after each block, and on the heads of q and k.
enum NormIndex {
  kAttentionNorm = 0,
  kMlpNorm = 1,
  kPostAttentionNorm = 2,
  kPostMlpNorm = 3,
  kQueryNorm = 4,
  kKeyNorm = 5,
  kNumNorms = 6
};

// What the rows of a linear module are.
enum class LinearRows { kQueries, kKeys, kValues, kQueriesKeysValues, kHidden, kIntermediate, kTwoIntermediate };

// HF's names inside a layer, without ".weight" and ".bias". GGUF's are in common/format/gguf_names.h.
struct LinearEntry {
  std::string_view name;
  GroupIndex group = kQkv;
  LinearRows rows = LinearRows::kHidden;
};
struct NormEntry {
  std::string_view name;
  NormIndex place = kAttentionNorm;
};

// Which layers attend to a window of `sliding_window` tokens.
enum class WindowRule {
  kNone,      // no key is read
  kEvery,     // all
  kListed,    // as `layer_types` says, else all
  kSwitched,  // as `layer_types` says, else from `max_window_layers` on; only with `use_sliding_window`
  kPattern,   // as `layer_types` says, else all but each `window_pattern`-th
};

// Keys of config.json; empty: not read, the default holds.
struct ConfigKeys {
  const char* hidden_size = "hidden_size";
  const char* intermediate_size = "intermediate_size";
  const char* num_layers = "num_hidden_layers";
  const char* num_heads = "num_attention_heads";
  const char* num_kv_heads = "num_key_value_heads";
  const char* max_positions = "max_position_embeddings";
  const char* norm_eps = "rms_norm_eps";
  const char* activation = "hidden_act";
  const char* attention_bias = "";
  const char* mlp_bias = "";
  const char* query_scalar = "";
  const char* attention_softcap = "";
  const char* logit_softcap = "";
  const char* window_theta = "";  // rope_theta of the layers with a window, where it is another
  const char* rotary_share = "";  // empty: whole heads turn
};

// A name that older releases gave to what is under another beginning now.
struct OlderName {
  std::string_view older, name;
};

struct Family {
  std::string_view hf_class;  // in `architectures`
  ModelConfig defaults;       // features, and values of keys that are missing; its architecture is the family's name
  std::span<const LinearEntry> linears;  // in model order
  std::span<const NormEntry> norms;
  ConfigKeys keys = {};
  std::string_view prefix = "model.";  // of every tensor but the head; base models are published without it
  std::string_view layers = "layers.", embedding = "embed_tokens", positions = {}, final_norm = "norm";
  bool input_major = false;        // HF stores linear matrices [in, out]
  int64_t intermediate_times = 0;  // hidden_size, where intermediate_size is missing; 0: it must be there
  WindowRule windows = WindowRule::kNone;
  int64_t default_window = 0, window_pattern = 0;
  // GGUF does not say query_pre_attn_scalar: it is head_dim, or hidden_size / num_heads in models of so many layers.
  int64_t even_scalar_layers = 0;
  // Ends of the names of stored buffers that the configuration says already.
  std::span<const std::string_view> buffers = {};
  // Of a model that takes more than text, the part that reads and writes text: the object of config.json that describes
  // it (empty: the file does) and what the names of the other parts' tensors begin with.
  std::string_view section = {};
  std::span<const std::string_view> other_parts = {};
  std::span<const OlderName> older_names = {};  // beginnings of tensors' names
};

const std::vector<Family>& Families();
// Null: not known.
const Family* FindFamily(std::string_view architecture);
const Family* FindFamilyByClass(std::string_view hf_class);
// REQUIRES: config.architecture is a family's.
const Family& FamilyOf(const ModelConfig& config);

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_FAMILY_H_
