// Rows of a JSONL file as token ids and labels, and how a step's rows are laid out.
#ifndef STRATA_CLIENT_DATA_DATASET_H_
#define STRATA_CLIENT_DATA_DATASET_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "client/data/tokenizer.h"
#include "common/runtime/file_system.h"

namespace strata::data {

// One document. labels[i] belongs to ids[i] (unshifted); -100 = no target. The first token is never a target.
struct Example {
  std::vector<int32_t> ids;
  std::vector<int32_t> labels;
  std::vector<int32_t> position_ids;  // empty: 0..n-1
  int64_t num_targets() const;        // labels != -100 at index >= 1
};

struct DatasetOptions {
  uint32_t max_length = 1024;  // longer rows are cut
};

// A file's rows, in file order. A row has exactly one of the forms
//   {"text"}: with the post-processor's special tokens, then EOS unless it is there already;
//   {"prompt", "completion"}: tokenised apart and joined, special tokens at the prompt only, EOS behind the completion,
//   the prompt masked;
//   {"input_ids"[, "labels"][, "position_ids"]}: as they are; labels default to the ids.
// Other keys are not looked at. A tokenizer without EOS adds none.
struct Dataset {
  std::vector<Example> rows;
  uint64_t num_truncated = 0;  // rows cut to max_length
  uint64_t num_empty = 0;      // rows without a target, left out
};
// Lines of JSON (LF or CRLF; blank ones are skipped; the last may lack its line feed).
// INVALID_ARGUMENT: file:line of every bad row (no JSON or UTF-8, none or two of the forms, wrong types, ids outside
// the vocabulary, lengths that differ); at most 20 are named, then a count. Row texts are never quoted. `tokenizer` may
// be null when every row has input_ids; `vocab_size` bounds the ids (0: not checked).
absl::StatusOr<Dataset> ReadJsonl(runtime::FileSystem& files, const std::string& path, const Tokenizer* tokenizer,
                                  int64_t vocab_size, const DatasetOptions& options);
// The same from memory; `place` stands in messages where the path would.
absl::StatusOr<Dataset> ParseJsonl(std::string_view text, std::string_view place, const Tokenizer* tokenizer,
                                   int64_t vocab_size, const DatasetOptions& options);

// Splits by a hash of each row's ids, so that the same row always falls on the same side wherever it lies: {train, held
// out}. `share`: of the held-out rows, in [0, 1].
std::pair<std::vector<Example>, std::vector<Example>> SplitHoldout(std::vector<Example> rows, double share,
                                                                   uint64_t seed);

// Row indices in training order: epoch after epoch, each a permutation drawn from (seed, round, site, epoch) when
// `shuffle`, else file order. Step t is batch t % steps_per_epoch() of epoch t / steps_per_epoch(); the last batch of
// an epoch may be short, as in HF Trainer. Not thread-safe (the epoch's permutation is kept). REQUIRES: batch_size > 0.
class BatchOrder {
 public:
  BatchOrder(uint64_t num_rows, uint32_t batch_size, bool shuffle, uint64_t seed, uint64_t round, std::string site);
  uint64_t steps_per_epoch() const;                 // ceil(rows / batch_size)
  std::vector<uint32_t> Rows(uint64_t step) const;  // empty when there are no rows

 private:
  uint64_t num_rows_;
  uint32_t batch_size_;
  bool shuffle_;
  uint64_t seed_, round_;
  std::string site_;
  mutable uint64_t epoch_ = UINT64_MAX;  // whose permutation `order_` holds
  mutable std::vector<uint32_t> order_;
};

// Documents laid end to end: no padding, attention stays inside each.
struct PackedBatch {
  std::vector<int32_t> ids;  // [tokens]
  std::vector<int32_t>
      targets;  // [tokens]: the label of the NEXT token of the same document, -100 at a document's last token
  std::vector<int32_t> positions;  // [tokens]
  std::vector<int32_t> starts;     // document i is [starts[i], starts[i+1]); starts.back() == tokens
  int64_t num_targets = 0;
};
PackedBatch Pack(const std::vector<const Example*>& rows);

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_DATASET_H_
