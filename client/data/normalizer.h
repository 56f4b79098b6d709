// Rewriting of text before it is split: the `normalizer` of a tokenizer.json.
#ifndef STRATA_CLIENT_DATA_NORMALIZER_H_
#define STRATA_CLIENT_DATA_NORMALIZER_H_

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "client/data/json_fields.h"
#include "client/data/regex.h"

namespace strata::data {

// What a Replace or Split step looks for: {"String": ..} or {"Regex": ..}.
absl::StatusOr<Regex> ParsePattern(const Fields& fields, std::string_view key);

// More than any sensible rules make of a text.
inline size_t MaxRewrittenBytes(size_t num_bytes) { return (size_t{1} << 20) + 64 * num_bytes; }

// All matches replaced; nothing where the result would be longer than `max_bytes`.
std::optional<std::string> ReplaceAll(const Regex& pattern, std::string_view content, std::string_view text,
                                      size_t max_bytes);

// Const use is thread-safe. REQUIRES: text is well-formed UTF-8; so is the result.
class Normalizer {
 public:
  virtual ~Normalizer() = default;
  // A step whose result would be longer than `max_bytes` leaves its text as it is (a hostile file could double it over
  // and over).
  virtual std::string Apply(std::string text, size_t max_bytes) const = 0;
};

// NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, Prepend, Replace, ByteLevel, BertNormalizer, Sequence.
// INVALID_ARGUMENT: another type (named), wrong fields.
absl::StatusOr<std::unique_ptr<Normalizer>> ParseNormalizer(const Fields& fields);

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_NORMALIZER_H_
