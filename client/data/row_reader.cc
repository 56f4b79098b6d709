#include "client/data/row_reader.h"

#include <utility>

#include "client/data/chat_rows.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::data {
namespace {

constexpr int32_t kMaxPosition = 1 << 30;

absl::Status Fault(std::string_view what) { return absl::InvalidArgumentError(std::string(what)); }

}  // namespace

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

absl::StatusOr<Example> RowReader::FromMessages(const ChatRow& row) const {
  STRATA_RETURN_IF_ERROR(NeedTokenizer());
  if (chat == nullptr) return Fault(Cat("a row of messages, but ", no_chat.message()));
  STRATA_ASSIGN_OR_RETURN(Example example, EncodeChat(*chat, *tokenizer, row));
  STRATA_RETURN_IF_ERROR(CheckIds(example));
  return example;
}

absl::StatusOr<std::vector<int32_t>> RowReader::Integers(const OrderedJson& row, const char* key, int64_t low,
                                                         int64_t high) const {
  const OrderedJson& list = row.at(key);
  if (!list.is_array()) return Fault(Cat("'", key, "' must be a list of integers, found ", list.type_name()));
  std::vector<int32_t> values;
  values.reserve(list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    const OrderedJson& item = list[i];
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

absl::StatusOr<Example> RowReader::FromIds(const OrderedJson& row) const {
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
  OrderedJson row;
  try {
    row = OrderedJson::parse(line.begin(), line.end());
  } catch (const OrderedJson::parse_error& error) {
    return Fault(Cat("no valid JSON (at byte ", error.byte, " of the line)"));
  } catch (const OrderedJson::exception&) {
    return Fault("no valid JSON (a number out of range)");
  }
  if (!row.is_object()) return Fault(Cat("an object is expected, found ", row.type_name()));
  const bool text = row.contains("text"), ids = row.contains("input_ids"), messages = row.contains("messages");
  const bool completion = row.contains("completion") || row.contains("prompt");
  if (const int forms = text + ids + messages + completion; forms != 1) {
    return Fault(
        Cat(forms == 0 ? "none" : "more than one",
            " of the forms {\"text\"}, {\"messages\"}, {\"prompt\", \"completion\"}, {\"input_ids\", \"labels\"}"));
  }
  if (ids) return FromIds(row);
  if (messages) return FromMessages(row);
  for (const char* key : {"text", "prompt", "completion"}) {
    if (text != (key == std::string_view("text"))) continue;
    if (!row.contains(key)) return Fault(Cat("'", key, "' is missing"));
    if (!row[key].is_string()) return Fault(Cat("'", key, "' must be a string, found ", row[key].type_name()));
  }
  if (text) return FromText(row["text"].get_ref<const std::string&>());
  return FromCompletion(row["prompt"].get_ref<const std::string&>(), row["completion"].get_ref<const std::string&>());
}

}  // namespace strata::data
