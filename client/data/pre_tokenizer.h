// Splitting of normalised text into the words that the model sees: the `pre_tokenizer` of a tokenizer.json.
#ifndef STRATA_CLIENT_DATA_PRE_TOKENIZER_H_
#define STRATA_CLIENT_DATA_PRE_TOKENIZER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/data/json_fields.h"

namespace strata::data {

struct Piece {
  std::string text;
  bool at_start = false;  // nothing of the input lies before it
};

// Const use is thread-safe. REQUIRES: pieces are well-formed UTF-8 and not empty; so are the results.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void Apply(std::vector<Piece>& pieces) const = 0;
};

// ByteLevel, Split, Digits, Metaspace, Whitespace, WhitespaceSplit, Punctuation, CharDelimiterSplit, BertPreTokenizer,
// FixedLength, Sequence. INVALID_ARGUMENT: another type (named), wrong fields.
absl::StatusOr<std::unique_ptr<PreTokenizer>> ParsePreTokenizer(const Fields& fields);

// The prepend_scheme of a Metaspace step, the older add_prefix_space included. Decoders share it.
enum class PrependScheme { kFirst, kNever, kAlways };
absl::StatusOr<PrependScheme> ParsePrependScheme(const Fields& fields);

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_PRE_TOKENIZER_H_
