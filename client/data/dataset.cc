#include "client/data/dataset.h"

#include <algorithm>
#include <numeric>

#include "client/data/json_fields.h"
#include "client/data/unicode.h"
#include "common/runtime/random.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::data {
namespace {

constexpr int32_t kIgnored = -100;
constexpr size_t kMaxNamedFaults = 20;
constexpr int32_t kMaxPosition = 1 << 30;

struct RowReader {
  const Tokenizer* tokenizer;
  int64_t vocab_size;  // 0: not checked

  absl::StatusOr<Example> Read(std::string_view line) const;

 private:
  absl::StatusOr<Example> FromText(const std::string& text) const;
  absl::StatusOr<Example> FromCompletion(const std::string& prompt, const std::string& completion) const;
  absl::StatusOr<Example> FromIds(const Json& row) const;
  absl::Status NeedTokenizer() const;
  absl::StatusOr<std::vector<int32_t>> Integers(const Json& row, const char* key, int64_t low, int64_t high) const;
  void AppendEos(std::vector<int32_t>& ids) const;
  absl::Status CheckIds(const Example& example) const;
  int64_t id_bound() const { return vocab_size > 0 ? vocab_size : int64_t{INT32_MAX}; }
};

absl::Status Fault(std::string_view what) { return absl::InvalidArgumentError(std::string(what)); }

absl::Status RowReader::NeedTokenizer() const {
  return tokenizer != nullptr ? absl::OkStatus() : Fault("a row of text, but the model has no tokenizer");
}

void RowReader::AppendEos(std::vector<int32_t>& ids) const {
  const auto eos = tokenizer->eos_id();
  if (eos.has_value() && (ids.empty() || ids.back() != *eos)) ids.push_back(*eos);
}

// A tokenizer may know more tokens than the model has embeddings.
absl::Status RowReader::CheckIds(const Example& example) const {
  for (const int32_t id : example.ids) {
    if (id >= id_bound()) {
      return Fault(Cat("the tokenizer gives id ", id, ", but the model's vocabulary has ", vocab_size, " entries"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Example> RowReader::FromText(const std::string& text) const {
  STRATA_RETURN_IF_ERROR(NeedTokenizer());
  Example example;
  example.ids = tokenizer->Encode(text, true);
  AppendEos(example.ids);
  example.labels = example.ids;
  STRATA_RETURN_IF_ERROR(CheckIds(example));
  return example;
}

absl::StatusOr<Example> RowReader::FromCompletion(const std::string& prompt, const std::string& completion) const {
  STRATA_RETURN_IF_ERROR(NeedTokenizer());
  Example example;
  example.ids = tokenizer->Encode(prompt, true);
  example.labels.assign(example.ids.size(), kIgnored);
  std::vector<int32_t> ids = tokenizer->Encode(completion, false);
  AppendEos(ids);
  example.ids.insert(example.ids.end(), ids.begin(), ids.end());
  example.labels.insert(example.labels.end(), ids.begin(), ids.end());
  STRATA_RETURN_IF_ERROR(CheckIds(example));
  return example;
}

absl::StatusOr<std::vector<int32_t>> RowReader::Integers(const Json& row, const char* key, int64_t low,
                                                         int64_t high) const {
  const Json& list = row.at(key);
  if (!list.is_array()) return Fault(Cat("'", key, "' must be a list of integers, found ", list.type_name()));
  std::vector<int32_t> values;
  values.reserve(list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    const Json& item = list[i];
    if (!item.is_number_integer()) {
      return Fault(Cat("'", key, "'[", i, "] must be an integer, found ", item.type_name()));
    }
    const bool huge = item.is_number_unsigned() && item.get<uint64_t>() > INT32_MAX;
    const int64_t value = huge ? high : item.get<int64_t>();
    const bool ignored = value == kIgnored && key == std::string_view("labels");
    if (!ignored && (value < low || value >= high)) {
      return Fault(Cat("'", key, "'[", i, "] is ", item.dump(), ", outside [", low, ", ", high, ")"));
    }
    values.push_back(static_cast<int32_t>(value));
  }
  return values;
}

absl::StatusOr<Example> RowReader::FromIds(const Json& row) const {
  Example example;
  STRATA_ASSIGN_OR_RETURN(example.ids, Integers(row, "input_ids", 0, id_bound()));
  example.labels = example.ids;
  if (row.contains("labels")) {
    STRATA_ASSIGN_OR_RETURN(example.labels, Integers(row, "labels", 0, id_bound()));
  }
  if (row.contains("position_ids")) {
    STRATA_ASSIGN_OR_RETURN(example.position_ids, Integers(row, "position_ids", 0, kMaxPosition));
    if (example.position_ids.size() != example.ids.size()) {
      return Fault(Cat(example.ids.size(), " input_ids, but ", example.position_ids.size(), " position_ids"));
    }
  }
  if (example.labels.size() != example.ids.size()) {
    return Fault(Cat(example.ids.size(), " input_ids, but ", example.labels.size(), " labels"));
  }
  return example;
}

absl::StatusOr<Example> RowReader::Read(std::string_view line) const {
  Json row;
  try {
    row = Json::parse(line.begin(), line.end());
  } catch (const Json::parse_error& error) {
    return Fault(Cat("no valid JSON (at byte ", error.byte, " of the line)"));
  } catch (const Json::exception&) {
    return Fault("no valid JSON (a number out of range)");
  }
  if (!row.is_object()) return Fault(Cat("an object is expected, found ", row.type_name()));
  const bool text = row.contains("text"), ids = row.contains("input_ids");
  const bool completion = row.contains("completion") || row.contains("prompt");
  if (text + ids + completion != 1) {
    return Fault(Cat(text + ids + completion == 0 ? "none" : "more than one",
                     " of the forms {\"text\"}, {\"prompt\", \"completion\"}, {\"input_ids\", \"labels\"}"));
  }
  if (ids) return FromIds(row);
  for (const char* key : {"text", "prompt", "completion"}) {
    if (text != (key == std::string_view("text"))) continue;
    if (!row.contains(key)) return Fault(Cat("'", key, "' is missing"));
    if (!row[key].is_string()) return Fault(Cat("'", key, "' must be a string, found ", row[key].type_name()));
  }
  if (text) return FromText(row["text"].get_ref<const std::string&>());
  return FromCompletion(row["prompt"].get_ref<const std::string&>(), row["completion"].get_ref<const std::string&>());
}

bool Truncate(Example& example, size_t max_length) {
  if (example.ids.size() <= max_length) return false;
  example.ids.resize(max_length);
  example.labels.resize(max_length);
  if (!example.position_ids.empty()) example.position_ids.resize(max_length);
  return true;
}

bool IsBlank(std::string_view line) { return line.find_first_not_of(" \t\r") == std::string_view::npos; }

uint64_t Mix(uint64_t x) {  // the finaliser of splitmix64
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

double HashToUnit(const Example& row, uint64_t seed) {
  uint64_t hash = Mix(seed + 0x9E3779B97F4A7C15ULL);
  for (const int32_t id : row.ids) hash = Mix(hash ^ (static_cast<uint32_t>(id) + 0x9E3779B97F4A7C15ULL));
  return static_cast<double>(hash >> 11) * 0x1p-53;
}

}  // namespace

int64_t Example::num_targets() const {
  int64_t n = 0;
  for (size_t i = 1; i < labels.size(); ++i) n += labels[i] != kIgnored;
  return n;
}

absl::StatusOr<Dataset> ParseJsonl(std::string_view text, std::string_view place, const Tokenizer* tokenizer,
                                   int64_t vocab_size, const DatasetOptions& options) {
  const RowReader reader{tokenizer, vocab_size};
  Dataset dataset;
  std::string faults;
  size_t num_faults = 0;
  uint64_t number = 0;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    ++number;
    if (IsBlank(line)) continue;
    auto example = reader.Read(line);
    if (!example.ok()) {
      if (++num_faults <= kMaxNamedFaults) {
        faults += Cat(faults.empty() ? "" : "\n", place, ":", number, ": ", example.status().message());
      }
      continue;
    }
    dataset.num_truncated += Truncate(*example, options.max_length) ? 1 : 0;
    if (example->num_targets() == 0) {
      ++dataset.num_empty;
    } else {
      dataset.rows.push_back(*std::move(example));
    }
  }
  if (num_faults > kMaxNamedFaults) faults += Cat("\n", place, ": ", num_faults - kMaxNamedFaults, " more bad rows");
  if (num_faults > 0) return absl::InvalidArgumentError(faults);
  return dataset;
}

absl::StatusOr<Dataset> ReadJsonl(runtime::FileSystem& files, const std::string& path, const Tokenizer* tokenizer,
                                  int64_t vocab_size, const DatasetOptions& options) {
  STRATA_ASSIGN_OR_RETURN(const auto mapping, files.Map(path));
  const auto bytes = mapping->bytes();
  return ParseJsonl({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path, tokenizer, vocab_size, options);
}

std::pair<std::vector<Example>, std::vector<Example>> SplitHoldout(std::vector<Example> rows, double share,
                                                                   uint64_t seed) {
  std::pair<std::vector<Example>, std::vector<Example>> sides;
  for (Example& row : rows) {
    (HashToUnit(row, seed) < share ? sides.second : sides.first).push_back(std::move(row));
  }
  return sides;
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

}  // namespace strata::data
