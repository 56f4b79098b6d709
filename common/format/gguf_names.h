// What GGUF calls the tensors of a model family, and how it stores them differently from Hugging Face's files.
#ifndef STRATA_COMMON_FORMAT_GGUF_NAMES_H_
#define STRATA_COMMON_FORMAT_GGUF_NAMES_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace strata::format {

// What GGUF does to a tensor beside renaming it.
enum class GgufChange {
  kNone,
  kQueryRows,  // rows of as many heads as there are query heads, in GGUF's rotary order
  kKeyRows,    // the same with the key heads
  kPlusOne,    // HF stores a norm's weight less one
  kTransposed  // HF stores the weight [in, out]
};

struct GgufModule {
  std::string_view gguf, hf;  // within a layer ("attn_q", "self_attn.q_proj"), or of the whole model
  GgufChange change = GgufChange::kNone;
};

// One row of a table: another family is another row.
struct GgufFamily {
  std::string_view architecture;                  // general.architecture
  std::span<const std::string_view> model_types;  // config.json's
  std::string_view root;                          // of HF names, all but the head's; some files leave it out
  std::string_view layers;                        // "layers": ROOT.layers.N.MODULE
  std::span<const GgufModule> modules, layer_modules;
};

// Null: not in the table. Of several families of one architecture a file's is the first.
const GgufFamily* FindGgufFamily(std::string_view model_type);
const GgufFamily* FindGgufArchitecture(std::string_view architecture);
// "llama, mistral, qwen2, ..": the model types that are known, for messages.
std::string KnownGgufModelTypes();

// A module by either name; empty names: the family has no such module.
struct GgufModuleName {
  std::string gguf;  // blk.3.attn_q
  std::string hf;    // model.layers.3.self_attn.q_proj
  GgufChange change = GgufChange::kNone;
  explicit operator bool() const { return !gguf.empty(); }
};
GgufModuleName GgufModuleOfHf(const GgufFamily& family, std::string_view hf);
GgufModuleName GgufModuleOfGguf(const GgufFamily& family, std::string_view gguf);

// HF's row that GGUF has at `row` of a matrix whose rotary pairs are adjacent rows there and half a head apart for HF.
int64_t HfRotaryRow(int64_t row, int64_t head_dim);

}  // namespace strata::format

#endif  // STRATA_COMMON_FORMAT_GGUF_NAMES_H_
