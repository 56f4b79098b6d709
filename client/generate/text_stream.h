// Tokens as text, piece by piece as they come.
#ifndef STRATA_CLIENT_GENERATE_TEXT_STREAM_H_
#define STRATA_CLIENT_GENERATE_TEXT_STREAM_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "client/data/tokenizer.h"

namespace strata::generate {

// What tokens add to the text of those before them, without special tokens, up to the first stop string. Pieces are
// whole UTF-8 characters; what may yet become part of a stop string waits. Not thread-safe.
class TextStream {
 public:
  // `tokenizer` and `stops` are borrowed. `prompt`: the tokens before, of which the last few are looked at (a space may
  // depend on them). REQUIRES: stop strings are not empty.
  TextStream(const data::Tokenizer& tokenizer, const std::vector<int32_t>& prompt,
             const std::vector<std::string>& stops);

  // The text that is certain now; nothing after a stop string.
  std::string Append(int32_t id);
  // The rest, a character cut short as U+FFFD. Once, after the last token.
  std::string Finish();
  // A stop string came; it is not part of the text.
  bool stopped() const { return stopped_; }

 private:
  std::string Decoded(bool final);
  std::string Release(const std::string& piece, bool final);
  size_t Unsettled() const;

  const data::Tokenizer& tokenizer_;
  const std::vector<std::string>& stops_;
  std::vector<int32_t> ids_;  // those that were shown last, and those that were not yet
  size_t num_shown_;          // of ids_
  std::string waiting_;       // decoded text that may be the beginning of a stop string
  bool stopped_ = false;
};

}  // namespace strata::generate

#endif  // STRATA_CLIENT_GENERATE_TEXT_STREAM_H_
