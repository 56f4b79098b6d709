// Byte-pair encoding of one word (Sennrich et al. 2016), with the byte fallback of sentencepiece.
#ifndef STRATA_CLIENT_DATA_BPE_H_
#define STRATA_CLIENT_DATA_BPE_H_

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "client/data/text_map.h"

namespace strata::data {

struct BpeOptions {
  std::optional<std::string> unk_token;   // for characters outside the vocabulary; none: they are dropped
  std::string continuing_subword_prefix;  // before every character of a word but its first
  std::string end_of_word_suffix;         // behind its last
  bool fuse_unk = false;                  // one unknown token for a run of unknown characters
  bool byte_fallback = false;             // unknown characters become tokens <0xHH>
  bool ignore_merges = false;             // a word in the vocabulary is one token whatever the merges say
};

// Const use is thread-safe. The time of a word of n characters is O(n log n).
class Bpe {
 public:
  struct Merge {
    int32_t left = 0, right = 0, merged = 0;
    int32_t rank = 0;  // lower first; equal ranks from left to right
  };
  static constexpr int32_t kMaxId = 1 << 26;

  // `vocab`: (token, id) pairs. INVALID_ARGUMENT: an id out of [0, kMaxId) or twice, a token twice, an unk_token that
  // is not there.
  static absl::StatusOr<std::unique_ptr<Bpe>> Create(const std::vector<std::pair<std::string, int32_t>>& vocab,
                                                     BpeOptions options);
  // In order of rank; a pair given twice keeps the later. INVALID_ARGUMENT: left, right or their union is no token.
  absl::Status AddMerge(std::string_view left, std::string_view right, int32_t rank);
  // Merges as sentencepiece derives them: any two tokens whose union is a token, the highest score first. `scores` by
  // id. Tokens for which `mergeable` is false take no part.
  void AddScoredMerges(const std::vector<double>& scores, const std::vector<bool>& mergeable);

  void Encode(std::string_view word, std::vector<int32_t>& ids) const;

  std::optional<int32_t> Id(std::string_view token) const;
  const std::string* Token(int32_t id) const;  // nullptr: no such id
  int32_t num_tokens() const { return static_cast<int32_t>(ids_.size()); }
  int32_t max_id() const { return static_cast<int32_t>(tokens_.size()) - 1; }
  // Tokens by id, merges by rank, options: deterministic bytes.
  std::string Canonical() const;

 private:
  struct Ranked {
    int32_t rank, merged;
  };
  struct CacheShard {
    absl::Mutex mutex;
    TextMap<std::vector<int32_t>> words ABSL_GUARDED_BY(mutex);
  };
  struct Symbol {
    int32_t id, previous, next;
    bool removed;
  };
  static uint64_t Key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }

  explicit Bpe(BpeOptions options) : options_(std::move(options)) {}
  std::vector<Symbol> Characters(std::string_view word) const;
  bool AppendBytes(std::string_view character, std::vector<Symbol>& symbols) const;
  void MergeAll(std::vector<Symbol>& symbols) const;
  std::vector<int32_t> EncodeUncached(std::string_view word) const;

  static constexpr size_t kMaxMergedBytes = 1024;
  static constexpr size_t kNumShards = 16, kMaxCachedWords = 4096, kMaxCachedBytes = 96;
  BpeOptions options_;
  TextMap<int32_t> ids_;
  std::vector<std::optional<std::string>> tokens_;  // by id
  std::array<int32_t, 256> byte_ids_{};             // of <0xHH>, -1: none
  std::optional<int32_t> unk_id_;
  absl::flat_hash_map<uint64_t, Ranked> merges_;
  mutable std::array<CacheShard, kNumShards> cache_;
};

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_BPE_H_
