// Tokens back to text: the `decoder` of a tokenizer.json.
#ifndef STRATA_CLIENT_DATA_DECODER_H_
#define STRATA_CLIENT_DATA_DECODER_H_

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/data/json_fields.h"

namespace strata::data {

// Const use is thread-safe. REQUIRES: tokens are well-formed UTF-8; so are the results.
class Decoder {
 public:
  virtual ~Decoder() = default;
  // The text is what is left, joined. A replacement that would make a token longer than `max_bytes` is not made.
  virtual std::vector<std::string> Apply(std::vector<std::string> tokens, size_t max_bytes) const = 0;
};

// ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace, BPEDecoder, Sequence.
// INVALID_ARGUMENT: another type (named), wrong fields.
absl::StatusOr<std::unique_ptr<Decoder>> ParseDecoder(const Fields& fields);

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_DECODER_H_
