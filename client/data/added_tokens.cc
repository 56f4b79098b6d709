#include "client/data/added_tokens.h"

#include <algorithm>

#include "client/data/unicode.h"
#include "common/status/cat.h"

namespace strata::data {
namespace {

bool EndsWithWord(std::string_view text) {
  size_t pos = text.size();
  return pos > 0 && IsWordCharacter(PreviousCodePoint(text, pos));
}

bool StartsWithWord(std::string_view text) {
  size_t pos = 0;
  return !text.empty() && IsWordCharacter(NextCodePoint(text, pos));
}

// Where the white space that ends `text` begins.
size_t TrailingSpace(std::string_view text) {
  size_t pos = text.size();
  while (pos > 0) {
    size_t next = pos;
    if (!IsWhitespace(PreviousCodePoint(text, next))) break;
    pos = next;
  }
  return pos;
}

size_t LeadingSpaceBytes(std::string_view text) {
  size_t pos = 0;
  while (pos < text.size()) {
    size_t next = pos;
    if (!IsWhitespace(NextCodePoint(text, next))) break;
    pos = next;
  }
  return pos;
}

}  // namespace

uint32_t AddedTokens::Trie::Child(uint32_t node, unsigned char byte) const {
  const auto& next = nodes[node].next;
  const auto it = std::lower_bound(next.begin(), next.end(), byte,
                                   [](const auto& edge, unsigned char value) { return edge.first < value; });
  return it != next.end() && it->first == byte ? it->second : 0;
}

void AddedTokens::Trie::Insert(std::string_view key, int32_t id) {
  uint32_t node = 0;
  for (const char c : key) {
    const auto byte = static_cast<unsigned char>(c);
    uint32_t child = Child(node, byte);
    if (child == 0) {
      child = static_cast<uint32_t>(nodes.size());
      nodes.emplace_back();
      auto& next = nodes[node].next;
      next.insert(std::upper_bound(next.begin(), next.end(), std::make_pair(byte, 0U)), {byte, child});
    }
    node = child;
  }
  if (nodes[node].id < 0) nodes[node].id = id;
}

std::pair<size_t, int32_t> AddedTokens::Trie::Longest(std::string_view text, size_t pos) const {
  std::pair<size_t, int32_t> longest{0, -1};
  uint32_t node = 0;
  for (size_t at = pos; at < text.size(); ++at) {
    node = Child(node, static_cast<unsigned char>(text[at]));
    if (node == 0) break;
    if (nodes[node].id >= 0) longest = {at + 1 - pos, nodes[node].id};
  }
  return longest;
}

absl::Status AddedTokens::Add(AddedToken token) {
  if (token.content.empty() || token.content.size() > kMaxTokenBytes) {
    return absl::InvalidArgumentError(
        Cat("added token ", token.id, " has ", token.content.size(), " bytes; 1 to ", kMaxTokenBytes, " are expected"));
  }
  if (by_id_.contains(token.id)) {
    return absl::InvalidArgumentError(Cat("id ", token.id, " belongs to two added tokens, '", by_id_[token.id].content,
                                          "' and '", token.content, "'"));
  }
  if (!ids_.emplace(token.content, token.id).second) {
    return absl::InvalidArgumentError(Cat("added token '", token.content, "' is there twice"));
  }
  if (token.special) special_.emplace(token.content, true);
  const int32_t id = token.id;
  by_id_.emplace(id, std::move(token));
  return absl::OkStatus();
}

void AddedTokens::Finish(const Normalizer* normalizer) {
  for (auto& [id, token] : by_id_) {
    token.shown = token.normalized && normalizer != nullptr ? normalizer->Apply(token.content, MaxRewrittenBytes(0))
                                                            : token.content;
  }
  // Where two normalise to the same, a special one goes first.
  for (const bool special : {true, false}) {
    for (const auto& [id, token] : by_id_) {
      if (token.special != special || token.shown.empty()) continue;
      (token.normalized ? normalized_ : plain_).Insert(token.shown, id);
    }
  }
}

std::vector<Segment> AddedTokens::Split(std::string_view text, bool normalized) const {
  const Trie& trie = normalized ? normalized_ : plain_;
  std::vector<Segment> segments;
  size_t done = 0;
  for (size_t pos = 0; pos < text.size();) {
    const auto [length, id] = trie.Longest(text, pos);
    if (length == 0) {
      ++pos;
      continue;
    }
    const AddedToken& token = by_id_.at(id);
    size_t begin = pos, end = pos + length;
    pos = end;  // the search goes on behind the match, whatever becomes of it
    if (token.single_word && (EndsWithWord(text.substr(0, begin)) || StartsWithWord(text.substr(end)))) continue;
    if (token.lstrip) begin = std::max(TrailingSpace(text.substr(0, begin)), done);
    if (token.rstrip) end += LeadingSpaceBytes(text.substr(end));
    if (done < begin) segments.push_back({done, begin, -1});
    segments.push_back({begin, end, id});
    done = end;
  }
  if (done < text.size()) segments.push_back({done, text.size(), -1});
  return segments;
}

const AddedToken* AddedTokens::Find(int32_t id) const {
  const auto it = by_id_.find(id);
  return it == by_id_.end() ? nullptr : &it->second;
}

std::optional<int32_t> AddedTokens::Id(std::string_view content) const {
  const auto it = ids_.find(content);
  return it == ids_.end() ? std::nullopt : std::optional<int32_t>(it->second);
}

std::string AddedTokens::Canonical() const {
  std::string out = "added\n";
  for (const auto& [id, token] : by_id_) {
    out += Cat(id, " ", token.single_word, token.lstrip, token.rstrip, token.normalized, token.special, " ",
               token.content.size(), ":", token.content, "\n");
  }
  return out;
}

}  // namespace strata::data
