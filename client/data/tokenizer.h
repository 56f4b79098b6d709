// Text <-> token ids, as the `tokenizers` library does it from a tokenizer.json, and the same from GGUF metadata.
#ifndef STRATA_CLIENT_DATA_TOKENIZER_H_
#define STRATA_CLIENT_DATA_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/format/gguf.h"
#include "common/runtime/file_system.h"

namespace strata::data {

// Const use is thread-safe. Input text must be UTF-8; ill-formed bytes count as U+FFFD.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  // Ids of `text`; with `add_special` what the post-processor adds (BOS, EOS, templates).
  virtual std::vector<int32_t> Encode(std::string_view text, bool add_special) const = 0;
  virtual std::string Decode(const std::vector<int32_t>& ids, bool skip_special) const = 0;
  virtual int32_t vocab_size() const = 0;  // highest id + 1, added tokens included
  // The vocabulary's last token, added ones apart; id -1: there is none.
  struct Last {
    int32_t id = -1;
    std::string token;
  };
  virtual Last last_of_vocabulary() const { return {}; }
  virtual std::optional<int32_t> eos_id() const = 0;
  virtual std::optional<int32_t> bos_id() const = 0;
  // Canonical bytes of vocabulary, merges and rules, for the base model's `semantics` digest.
  virtual std::string Canonical() const = 0;
};

// INVALID_ARGUMENT: no valid JSON, a model or a step that is not supported (named), ids out of range or twice.
// `tokenizer_config_json` (may be empty) says which token is EOS and BOS.
absl::StatusOr<std::unique_ptr<Tokenizer>> ParseTokenizerJson(std::string_view json,
                                                              std::string_view tokenizer_config_json,
                                                              std::string_view place);
absl::StatusOr<std::unique_ptr<Tokenizer>> TokenizerFromGguf(const format::Gguf& gguf, std::string_view place);
// A folder with tokenizer.json (and tokenizer_config.json, config.json / generation_config.json for eos where it
// lacks), or a GGUF file.
absl::StatusOr<std::unique_ptr<Tokenizer>> OpenTokenizer(runtime::FileSystem& files, const std::string& path);

// Tokens that end what a model says. Of a folder: eos_token_id of generation_config.json, else of config.json, one or
// several; of a GGUF file the ends of text, of turn and of message. Where they say none: the tokenizer's EOS.
absl::StatusOr<std::vector<int32_t>> EndIds(runtime::FileSystem& files, const std::string& path,
                                            const Tokenizer& tokenizer);

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_TOKENIZER_H_
