// How GGUF's names for tokenizers split text, as the steps of a tokenizer.json. Private to strata-client's readers and
// writers of tokenizers.
#ifndef STRATA_CLIENT_DATA_GGUF_STEPS_H_
#define STRATA_CLIENT_DATA_GGUF_STEPS_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "client/data/json_fields.h"

namespace strata::data {

// tokenizer.ggml.token_type
enum GgufTokenType : int { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

struct GgufSteps {
  Json steps;                  // `normalizer` (or none), `pre_tokenizer`, `decoder`
  bool ignore_merges = false;  // of the BPE model
  bool add_bos = false;        // where tokenizer.ggml.add_bos_token does not say
};

// A byte-level BPE by its tokenizer.ggml.pre. INVALID_ARGUMENT: a name that is not known, with those that are.
absl::StatusOr<GgufSteps> ByteLevelGgufSteps(std::string_view pre);
// The name under which ByteLevelGgufSteps gives what this tokenizer.json does. UNIMPLEMENTED: there is none.
absl::StatusOr<std::string> ByteLevelGgufName(const Json& tokenizer);
// Sentencepiece's BPE with byte fallback, which GGUF calls "llama".
Json SentencepieceGgufSteps(bool add_space_prefix);

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_GGUF_STEPS_H_
