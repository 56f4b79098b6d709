// Rewriting of text before it is split: the `normalizer` of a tokenizer.json.
#ifndef STRATA_CLIENT_DATA_NORMALIZER_H_
#define STRATA_CLIENT_DATA_NORMALIZER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/data/json_fields.h"
#include "client/data/regex.h"

namespace strata::data {

// What a Replace or Split step looks for: {"String": ..} or {"Regex": ..}.
absl::StatusOr<Regex> ParsePattern(const Fields& fields, std::string_view key);

// Const use is thread-safe. REQUIRES: text is well-formed UTF-8; so is the result.
class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual std::string Apply(std::string text) const = 0;
};

// NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, Prepend, Replace, ByteLevel, BertNormalizer, Sequence.
// INVALID_ARGUMENT: another type (named), wrong fields.
absl::StatusOr<std::unique_ptr<Normalizer>> ParseNormalizer(const Fields& fields);

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_NORMALIZER_H_
