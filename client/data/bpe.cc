#include "client/data/bpe.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <tuple>

#include "absl/strings/str_format.h"
#include "client/data/unicode.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::data {

absl::StatusOr<std::unique_ptr<Bpe>> Bpe::Create(const std::vector<std::pair<std::string, int32_t>>& vocab,
                                                 BpeOptions options) {
  auto bpe = std::unique_ptr<Bpe>(new Bpe(std::move(options)));
  bpe->ids_.reserve(vocab.size());
  int32_t max_id = -1;
  for (const auto& [token, id] : vocab) {
    if (id < 0 || id >= kMaxId) {
      return absl::InvalidArgumentError(Cat("token '", token, "' has id ", id, "; ids lie in [0, ", kMaxId, ")"));
    }
    max_id = std::max(max_id, id);
  }
  bpe->tokens_.resize(max_id + 1);
  for (const auto& [token, id] : vocab) {
    if (bpe->tokens_[id].has_value()) {
      return absl::InvalidArgumentError(
          Cat("id ", id, " belongs to two tokens, '", *bpe->tokens_[id], "' and '", token, "'"));
    }
    bpe->tokens_[id] = token;
    if (!bpe->ids_.emplace(token, id).second) {
      return absl::InvalidArgumentError(Cat("token '", *bpe->tokens_[id], "' has two ids"));
    }
  }
  for (int b = 0; b < 256; ++b) {
    bpe->byte_ids_[b] = bpe->Id(absl::StrFormat("<0x%02X>", b)).value_or(-1);
  }
  if (bpe->options_.unk_token.has_value()) {
    bpe->unk_id_ = bpe->Id(*bpe->options_.unk_token);
    if (!bpe->unk_id_.has_value()) {
      return absl::InvalidArgumentError(Cat("unk_token '", *bpe->options_.unk_token, "' is not in the vocabulary"));
    }
  }
  return bpe;
}

std::optional<int32_t> Bpe::Id(std::string_view token) const {
  const auto it = ids_.find(token);
  return it == ids_.end() ? std::nullopt : std::optional<int32_t>(it->second);
}

const std::string* Bpe::Token(int32_t id) const {
  if (id < 0 || static_cast<size_t>(id) >= tokens_.size() || !tokens_[id].has_value()) return nullptr;
  return &*tokens_[id];
}

absl::Status Bpe::AddMerge(std::string_view left, std::string_view right, int32_t rank) {
  const std::string& prefix = options_.continuing_subword_prefix;
  std::string_view tail = right;
  if (!prefix.empty() && tail.size() >= prefix.size()) tail.remove_prefix(prefix.size());
  const std::string merged = Cat(left, tail);
  for (const std::string_view token : {left, right, std::string_view(merged)}) {
    if (!Id(token).has_value()) {
      return absl::InvalidArgumentError(Cat("merge ", rank, " ('", left, "' '", right, "') needs the token '", token,
                                            "', which is not in the vocabulary"));
    }
  }
  merges_[Key(*Id(left), *Id(right))] = {rank, *Id(merged)};
  return absl::OkStatus();
}

void Bpe::AddScoredMerges(const std::vector<double>& scores, const std::vector<bool>& mergeable) {
  std::vector<double> descending = scores;
  std::sort(descending.begin(), descending.end(), std::greater<>());
  descending.erase(std::unique(descending.begin(), descending.end()), descending.end());
  for (int32_t id = 0; id <= max_id(); ++id) {
    const std::string* token = Token(id);
    if (token == nullptr || !mergeable[id] || token->size() > kMaxMergedBytes) continue;
    const auto rank = std::lower_bound(descending.begin(), descending.end(), scores[id], std::greater<>());
    for (size_t cut = 0; cut < token->size();) {
      NextCodePoint(*token, cut);
      if (cut >= token->size()) break;
      const auto left = Id(std::string_view(*token).substr(0, cut));
      const auto right = Id(std::string_view(*token).substr(cut));
      if (!left.has_value() || !right.has_value() || !mergeable[*left] || !mergeable[*right]) continue;
      merges_[Key(*left, *right)] = {static_cast<int32_t>(rank - descending.begin()), id};
    }
  }
}

bool Bpe::AppendBytes(std::string_view character, std::vector<Symbol>& symbols) const {
  for (const char c : character) {
    if (byte_ids_[static_cast<unsigned char>(c)] < 0) return false;
  }
  for (const char c : character) symbols.push_back({byte_ids_[static_cast<unsigned char>(c)], 0, 0, false});
  return true;
}

// The word's characters as tokens; unknown ones as bytes, as the unknown token, or left out.
std::vector<Bpe::Symbol> Bpe::Characters(std::string_view word) const {
  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  bool unknown = false;  // an unknown token waits to be written
  const bool plain = options_.continuing_subword_prefix.empty() && options_.end_of_word_suffix.empty();
  for (size_t pos = 0; pos < word.size();) {
    const size_t begin = pos;
    NextCodePoint(word, pos);
    std::string_view character = word.substr(begin, pos - begin);
    std::string extended;
    if (!plain) {
      extended = Cat(begin > 0 ? options_.continuing_subword_prefix : "", character,
                     pos == word.size() ? options_.end_of_word_suffix : "");
      character = extended;
    }
    if (const auto it = ids_.find(character); it != ids_.end()) {
      if (unknown) symbols.push_back({*unk_id_, 0, 0, false});
      unknown = false;
      symbols.push_back({it->second, 0, 0, false});
      continue;
    }
    if (options_.byte_fallback && AppendBytes(character, symbols)) continue;
    if (!unk_id_.has_value()) continue;
    if (unknown && !options_.fuse_unk) symbols.push_back({*unk_id_, 0, 0, false});
    unknown = true;
  }
  if (unknown) symbols.push_back({*unk_id_, 0, 0, false});
  const auto n = static_cast<int32_t>(symbols.size());
  for (int32_t i = 0; i < n; ++i) {
    symbols[i].previous = i - 1;
    symbols[i].next = i + 1 < n ? i + 1 : -1;
  }
  return symbols;
}

void Bpe::MergeAll(std::vector<Symbol>& symbols) const {
  struct Candidate {
    int32_t rank, position, merged;
    bool operator<(const Candidate& other) const {  // the queue's top is its largest
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };
  std::vector<Candidate> storage;
  storage.reserve(symbols.size() * 2);
  std::priority_queue<Candidate> queue(std::less<Candidate>(), std::move(storage));
  const auto offer = [&](int32_t position) {
    const int32_t next = symbols[position].next;
    if (next < 0) return;
    const auto it = merges_.find(Key(symbols[position].id, symbols[next].id));
    if (it != merges_.end()) queue.push({it->second.rank, position, it->second.merged});
  };
  for (size_t i = 0; i + 1 < symbols.size(); ++i) offer(static_cast<int32_t>(i));
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    Symbol& left = symbols[top.position];
    if (left.removed || left.next < 0) continue;
    Symbol& right = symbols[left.next];
    const auto it = merges_.find(Key(left.id, right.id));
    if (it == merges_.end() || it->second.merged != top.merged) continue;  // overtaken by another merge
    left.id = top.merged;
    left.next = right.next;
    right.removed = true;
    if (right.next >= 0) symbols[right.next].previous = top.position;
    if (left.previous >= 0) offer(left.previous);
    offer(top.position);
  }
}

std::vector<int32_t> Bpe::EncodeUncached(std::string_view word) const {
  std::vector<Symbol> symbols = Characters(word);
  MergeAll(symbols);
  std::vector<int32_t> ids;
  for (const Symbol& symbol : symbols) {
    if (!symbol.removed) ids.push_back(symbol.id);
  }
  return ids;
}

void Bpe::Encode(std::string_view word, std::vector<int32_t>& ids) const {
  if (options_.ignore_merges) {
    if (const auto it = ids_.find(word); it != ids_.end()) {
      ids.push_back(it->second);
      return;
    }
  }
  const bool cacheable = word.size() <= kMaxCachedBytes;
  CacheShard& shard = cache_[TextHash()(word) % kNumShards];
  if (cacheable) {
    const absl::MutexLock lock(&shard.mutex);
    if (const auto it = shard.words.find(word); it != shard.words.end()) {
      ids.insert(ids.end(), it->second.begin(), it->second.end());
      return;
    }
  }
  std::vector<int32_t> encoded = EncodeUncached(word);
  ids.insert(ids.end(), encoded.begin(), encoded.end());
  if (!cacheable) return;
  const absl::MutexLock lock(&shard.mutex);
  if (shard.words.size() < kMaxCachedWords) shard.words.emplace(word, std::move(encoded));
}

std::string Bpe::Canonical() const {
  std::string out =
      Cat("bpe ", options_.fuse_unk, options_.byte_fallback, options_.ignore_merges, " unk ", unk_id_.value_or(-1),
          " prefix ", options_.continuing_subword_prefix.size(), ":", options_.continuing_subword_prefix, " suffix ",
          options_.end_of_word_suffix.size(), ":", options_.end_of_word_suffix, "\n");
  for (size_t id = 0; id < tokens_.size(); ++id) {
    if (tokens_[id].has_value()) out += Cat(id, " ", tokens_[id]->size(), ":", *tokens_[id], "\n");
  }
  std::vector<Merge> merges;
  merges.reserve(merges_.size());
  for (const auto& [key, ranked] : merges_) {
    merges.push_back(
        {static_cast<int32_t>(key >> 32), static_cast<int32_t>(key & 0xFFFFFFFFU), ranked.merged, ranked.rank});
  }
  std::sort(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) {
    return std::tie(a.rank, a.left, a.right) < std::tie(b.rank, b.left, b.right);
  });
  // Only the order counts: two files whose rank numbers differ by gaps mean the same.
  int32_t previous = -1, order = -1;
  for (const Merge& merge : merges) {
    if (merge.rank != previous) ++order;
    previous = merge.rank;
    out += Cat(order, " ", merge.left, " ", merge.right, " ", merge.merged, "\n");
  }
  return out;
}

}  // namespace strata::data
