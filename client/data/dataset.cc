#include "client/data/dataset.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "client/data/lines.h"
#include "client/data/row_reader.h"
#include "client/data/row_source.h"
#include "common/runtime/random.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::data {
namespace {

// Tokens [begin, begin + max_length) of a row, as far as there are such.
Example PieceOf(const Example& row, size_t begin, size_t max_length) {
  const size_t end = std::min(begin + max_length, row.ids.size());
  const auto part = [&](const std::vector<int32_t>& all) {
    return all.empty() ? all
                       : std::vector<int32_t>(all.begin() + static_cast<int64_t>(begin),
                                              all.begin() + static_cast<int64_t>(end));
  };
  return {.ids = part(row.ids), .labels = part(row.labels), .position_ids = part(row.position_ids)};
}

absl::StatusOr<Dataset> ReadRows(RowSource& source, const RowReader& reader, const DatasetOptions& options,
                                 RowsBuilder builder) {
  Dataset dataset;
  const auto read = [&](const OrderedJson& row) -> absl::Status {
    STRATA_ASSIGN_OR_RETURN(const Example example, reader.Read(row));
    const size_t length = example.ids.size();
    const bool is_long = length > options.max_length;
    dataset.num_truncated += is_long && !options.split_long_rows ? 1 : 0;
    dataset.num_split += is_long && options.split_long_rows ? 1 : 0;
    bool learned = false;
    for (size_t begin = 0; begin < (options.split_long_rows ? length : 1); begin += options.max_length) {
      const Example piece = PieceOf(example, begin, options.max_length);
      if (piece.num_targets() == 0) continue;
      learned = true;
      STRATA_RETURN_IF_ERROR(builder.Add(piece));
    }
    dataset.num_empty += learned ? 0 : 1;
    return absl::OkStatus();
  };
  STRATA_ASSIGN_OR_RETURN(BadRows bad, ForEachRow(source, options.skip_bad_rows, read));
  dataset.num_bad = bad.count;
  dataset.bad_rows = std::move(bad.text);
  STRATA_ASSIGN_OR_RETURN(dataset.rows, std::move(builder).Finish());
  return dataset;
}

RowReader ReaderOf(const Tokenizer* tokenizer, int64_t vocab_size, const DatasetOptions& options) {
  return {tokenizer, vocab_size, options.chat, options.no_chat};
}

}  // namespace

int64_t Example::num_targets() const {
  int64_t n = 0;
  for (size_t i = 1; i < labels.size(); ++i) n += labels[i] != kIgnored;
  return n;
}

std::vector<std::string> NotesOn(const Dataset& dataset) {
  std::vector<std::string> notes;
  const auto note = [&](uint64_t count, std::string_view what) {
    if (count > 0) notes.push_back(Cat(count, what));
  };
  note(dataset.num_truncated, " rows are longer than max_length and were cut");
  note(dataset.num_split, " rows are longer than max_length and were split");
  note(dataset.num_empty, " rows have nothing to learn and were left out");
  if (dataset.num_bad > 0) notes.push_back(Cat(dataset.num_bad, " bad rows were skipped:\n", dataset.bad_rows));
  return notes;
}

absl::StatusOr<Dataset> ParseJsonl(std::string_view text, std::string_view place, const Tokenizer* tokenizer,
                                   int64_t vocab_size, const DatasetOptions& options) {
  return ReadRows(*RowsOf(LinesOf(text), std::string(place)), ReaderOf(tokenizer, vocab_size, options), options,
                  RowsBuilder());
}

absl::StatusOr<Dataset> ReadDataset(runtime::FileSystem& files, const std::string& path, const Tokenizer* tokenizer,
                                    int64_t vocab_size, const DatasetOptions& options) {
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<RowSource> source, OpenRows(files, path));
  RowsBuilder builder(&files, {.scratch = options.scratch, .max_resident_bytes = options.max_resident_bytes});
  return ReadRows(*source, ReaderOf(tokenizer, vocab_size, options), options, std::move(builder));
}

BatchOrder::BatchOrder(uint64_t num_rows, uint32_t batch_size, bool shuffle, uint64_t seed, uint64_t round,
                       std::string site)
    : num_rows_(num_rows),
      batch_size_(batch_size),
      shuffle_(shuffle),
      seed_(seed),
      round_(round),
      site_(std::move(site)) {}

uint64_t BatchOrder::steps_per_epoch() const { return (num_rows_ + batch_size_ - 1) / batch_size_; }

std::vector<uint32_t> BatchOrder::Rows(uint64_t step) const {
  if (num_rows_ == 0) return {};
  const uint64_t epoch = step / steps_per_epoch();
  if (order_.empty() || epoch != epoch_) {
    order_.resize(num_rows_);
    if (shuffle_) {
      const std::string purpose = Cat("shuffle/", epoch);
      runtime::Philox({.purpose = purpose, .seed = seed_, .round = round_, .site = site_}).Permutation(order_);
    } else {
      std::iota(order_.begin(), order_.end(), 0U);
    }
    epoch_ = epoch;
  }
  const uint64_t begin = step % steps_per_epoch() * batch_size_;
  const uint64_t end = std::min<uint64_t>(begin + batch_size_, num_rows_);
  return {order_.begin() + static_cast<int64_t>(begin), order_.begin() + static_cast<int64_t>(end)};
}

PackedBatch Pack(const std::vector<const Example*>& rows) {
  PackedBatch batch;
  batch.starts.push_back(0);
  for (const Example* row : rows) {
    const size_t n = row->ids.size();
    batch.ids.insert(batch.ids.end(), row->ids.begin(), row->ids.end());
    for (size_t i = 0; i < n; ++i) {
      batch.positions.push_back(row->position_ids.empty() ? static_cast<int32_t>(i) : row->position_ids[i]);
      const int32_t target = i + 1 < n ? row->labels[i + 1] : kIgnored;
      batch.targets.push_back(target);
      batch.num_targets += target != kIgnored;
    }
    batch.starts.push_back(static_cast<int32_t>(batch.ids.size()));
  }
  return batch;
}

std::vector<const Example*> Pointers(const std::vector<Example>& rows) {
  std::vector<const Example*> pointers;
  pointers.reserve(rows.size());
  for (const Example& row : rows) pointers.push_back(&row);
  return pointers;
}

}  // namespace strata::data
