// Rows of a file as token ids and labels, and how a step's rows are laid out.
#ifndef STRATA_CLIENT_DATA_DATASET_H_
#define STRATA_CLIENT_DATA_DATASET_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "client/data/chat_template.h"
#include "client/data/example.h"
#include "client/data/rows.h"
#include "client/data/tokenizer.h"
#include "common/runtime/file_system.h"

namespace strata::data {

struct DatasetOptions {
  uint32_t max_length = 1024;          // longer rows are cut,
  bool skip_bad_rows = false;          // bad rows are counted and left out; false: they are an error
  bool split_long_rows = false;        // or become several of at most max_length tokens
  const ChatTemplate* chat = nullptr;  // for rows of messages; null: they are bad rows,
  absl::Status no_chat = absl::NotFoundError("there is no chat template");  // for this reason
  std::string scratch = {};  // folder for tokens beyond max_resident_bytes; empty: they stay in memory
  size_t max_resident_bytes = size_t{64} << 20;
};

// The rows of a file, or of several one after another, in file order. A row has exactly one of the forms
//   {"text"}: with the post-processor's special tokens, then EOS unless it is there already;
//   {"messages"}: as the chat template writes them, the assistant's turns to be learned (chat_rows.h);
//   {"prompt", "completion"}, both lists of messages: one conversation, the completion's turns to be learned;
//   {"prompt", "completion"}: tokenised apart and joined, special tokens at the prompt only, EOS behind the completion,
//   the prompt masked;
//   {"input_ids"[, "labels"][, "position_ids"][, "attention_mask"]}: as they are, without the padding at either end
//   that the mask has zeros for; labels default to the ids.
// Other keys are not looked at. A tokenizer without EOS adds none.
struct Dataset {
  Rows rows;
  uint64_t num_truncated = 0;  // rows cut to max_length
  uint64_t num_split = 0;      // rows that became several; a piece without a target is left out
  uint64_t num_empty = 0;      // rows without a target, left out
  uint64_t num_bad = 0;        // skipped
  std::string bad_rows;        // lines of "file:line: reason" of the first 20 of them, then a count
};
// What became of rows, a line each: cut, split, without a target, bad.
std::vector<std::string> NotesOn(const Dataset& dataset);

// `path` means a file, a folder of them or a pattern (row_files.h): lines of JSON (LF or CRLF; blank ones are skipped;
// the last may lack its line feed), also compressed by zstd, or Parquet, whose columns are a row's keys
// (parquet_rows.h). Each row is read and tokenised once, in one pass: memory holds the tokens up to max_resident_bytes,
// the rest lies in `scratch`. INVALID_ARGUMENT: file:row of every bad row (no JSON or UTF-8, none or two of the forms,
// wrong types, a conversation that the template refuses, ids outside the vocabulary, lengths that differ); at most 20
// are named, then a count. Row texts are never quoted. DATA_LOSS: a damaged file. `tokenizer` may be null when every
// row has input_ids; `vocab_size` bounds the ids (0: not checked).
absl::StatusOr<Dataset> ReadDataset(runtime::FileSystem& files, const std::string& path, const Tokenizer* tokenizer,
                                    int64_t vocab_size, const DatasetOptions& options);
// The same of lines of JSON in memory, into memory; `place` stands in messages where the path would.
absl::StatusOr<Dataset> ParseJsonl(std::string_view text, std::string_view place, const Tokenizer* tokenizer,
                                   int64_t vocab_size, const DatasetOptions& options);

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
std::vector<const Example*> Pointers(const std::vector<Example>& rows);

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_DATASET_H_
