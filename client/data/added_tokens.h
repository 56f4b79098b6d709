// Tokens that are found in the text before anything else happens to it: special ones and those added by hand.
#ifndef STRATA_CLIENT_DATA_ADDED_TOKENS_H_
#define STRATA_CLIENT_DATA_ADDED_TOKENS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "client/data/normalizer.h"
#include "client/data/text_map.h"

namespace strata::data {

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool single_word = false;  // only between characters that are no letters or digits
  bool lstrip = false;       // swallows the white space before it
  bool rstrip = false;       // and behind it
  bool normalized = false;   // looked for in the normalised text, itself normalised
  bool special = false;      // left out by Decode on request
  std::string shown;         // what Decode makes of it: the content, normalised where `normalized`; set by Finish
};

// A part of a text: a token, or text without tokens in it (id < 0).
struct Segment {
  size_t begin = 0, end = 0;
  int32_t id = -1;
};

// Const use is thread-safe.
class AddedTokens {
 public:
  // INVALID_ARGUMENT: an empty or over-long token, an id or a content twice.
  absl::Status Add(AddedToken token);
  // Builds the search structures; after the last Add. `normalizer` may be null.
  void Finish(const Normalizer* normalizer);

  // Splits at tokens with normalized == `normalized`: leftmost first, then longest.
  std::vector<Segment> Split(std::string_view text, bool normalized) const;

  const AddedToken* Find(int32_t id) const;
  std::optional<int32_t> Id(std::string_view content) const;
  bool IsSpecial(std::string_view content) const { return special_.contains(content); }
  int32_t max_id() const { return by_id_.empty() ? -1 : by_id_.rbegin()->first; }
  std::string Canonical() const;

 private:
  struct Node {
    std::vector<std::pair<unsigned char, uint32_t>> next;  // sorted by byte
    int32_t id = -1;
  };
  // A trie over bytes; node 0 is the root.
  struct Trie {
    std::vector<Node> nodes = std::vector<Node>(1);
    void Insert(std::string_view key, int32_t id);
    uint32_t Child(uint32_t node, unsigned char byte) const;  // 0: none
    // The longest key that starts at `pos`: {length, id}; length 0: none.
    std::pair<size_t, int32_t> Longest(std::string_view text, size_t pos) const;
  };

  static constexpr size_t kMaxTokenBytes = 1024;
  std::map<int32_t, AddedToken> by_id_;
  TextMap<int32_t> ids_;
  TextMap<bool> special_;
  Trie plain_, normalized_;
};

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_ADDED_TOKENS_H_
