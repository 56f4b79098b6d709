#include "client/data/row_reader.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "client/data/chat_rows.h"
#include "client/data/unicode.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::data {
namespace {

constexpr int32_t kMaxPosition = 1 << 30;

absl::Status Fault(std::string_view what) { return absl::InvalidArgumentError(std::string(what)); }

absl::StatusOr<std::string> Text(const OrderedJson& row, const char* key) {
  const auto found = row.find(key);
  if (found == row.end()) return Fault(Cat("'", key, "' is missing"));
  if (!found->is_string()) return Fault(Cat("'", key, "' must be a string, found ", found->type_name()));
  return found->get<std::string>();
}

bool HoldsList(const OrderedJson& row, const char* key) {
  const auto found = row.find(key);
  return found != row.end() && found->is_array();
}

// A template would put a token of an image's place where no image is.
absl::Status NeedTextAlone(const ChatRow& row) {
  const auto messages = row.find("messages");
  if (messages == row.end() || !messages->is_array()) return absl::OkStatus();
  for (size_t i = 0; i < messages->size(); ++i) {
    const OrderedJson& message = (*messages)[i];
    const auto content = message.is_object() ? message.find("content") : message.end();
    if (content == message.end() || !content->is_array()) continue;
    for (size_t j = 0; j < content->size(); ++j) {
      const OrderedJson& part = (*content)[j];
      if (part.is_object() && part.contains("type") && part["type"] != "text") {
        return Fault(Cat("'messages'[", i, "].'content'[", j,
                         "] must be of type 'text': images and the like are not trained on"));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status RowReader::NeedTokenizer() const {
  return tokenizer != nullptr ? absl::OkStatus() : Fault("a row of text, but the model has no tokenizer");
}

absl::Status RowReader::NeedChat() const {
  STRATA_RETURN_IF_ERROR(NeedTokenizer());
  return chat != nullptr ? absl::OkStatus() : Fault(Cat("a row of messages, but ", no_chat.message()));
}

void RowReader::AppendEos(std::vector<int32_t>& ids) const {
  const auto eos = tokenizer->eos_id();
  if (eos.has_value() && (ids.empty() || ids.back() != *eos)) ids.push_back(*eos);
}

// A tokenizer may know more tokens than the model has embeddings.
absl::Status RowReader::CheckIds(const std::vector<int32_t>& ids) const {
  for (const int32_t id : ids) {
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
  STRATA_RETURN_IF_ERROR(CheckIds(example.ids));
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
  STRATA_RETURN_IF_ERROR(CheckIds(example.ids));
  return example;
}

absl::StatusOr<Example> RowReader::FromMessages(const ChatRow& row) const {
  STRATA_RETURN_IF_ERROR(NeedChat());
  STRATA_ASSIGN_OR_RETURN(const TrainedChat trained, TrainedChatOf(row));
  STRATA_RETURN_IF_ERROR(NeedTextAlone(trained.row));
  absl::StatusOr<Example> example = EncodeChat(*chat, *tokenizer, trained);
  if (!example.ok()) return Fault(std::string(example.status().message()));
  STRATA_RETURN_IF_ERROR(CheckIds(example->ids));
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
  STRATA_RETURN_IF_ERROR(DropPadding(row, example));
  return example;
}

// A row stands for its tokens alone: what a mask leaves out of it can only be padding at its ends.
absl::Status RowReader::DropPadding(const OrderedJson& row, Example& example) const {
  if (!row.contains("attention_mask") || row["attention_mask"].is_null()) return absl::OkStatus();
  const absl::StatusOr<std::vector<int32_t>> read = Integers(row, "attention_mask", 0, 2);
  if (!read.ok()) {
    return absl::Status(read.status().code(), Cat(read.status().message(),
                                                  "; leave attention_mask out, or give 0 or 1 "
                                                  "for each token and packed documents in rows of their own"));
  }
  const std::vector<int32_t>& mask = *read;
  if (mask.size() != example.ids.size()) {
    return Fault(Cat(example.ids.size(), " input_ids, but ", mask.size(), " of attention_mask"));
  }
  const auto begin = std::find(mask.begin(), mask.end(), 1);
  const auto end = std::find(mask.rbegin(), std::make_reverse_iterator(begin), 1).base();
  if (const auto hole = std::find(begin, end, 0); hole != end) {
    return Fault(Cat("'attention_mask'[", hole - mask.begin(),
                     "] is 0 between ones: only padding at the ends of a row is left out"));
  }
  for (std::vector<int32_t>* values : {&example.ids, &example.labels, &example.position_ids}) {
    if (values->size() != mask.size()) continue;
    *values = {values->begin() + (begin - mask.begin()), values->begin() + (end - mask.begin())};
  }
  return absl::OkStatus();
}

absl::StatusOr<Example> RowReader::Read(const OrderedJson& row) const {
  const bool text = row.contains("text"), ids = row.contains("input_ids"), messages = row.contains("messages");
  const bool completion = row.contains("completion") || row.contains("prompt");
  if (const int forms = text + ids + messages + completion; forms != 1) {
    return Fault(
        Cat(forms == 0 ? "none" : "more than one",
            " of the forms {\"text\"}, {\"messages\"}, {\"prompt\", \"completion\"}, {\"input_ids\", \"labels\"}"));
  }
  if (ids) return FromIds(row);
  if (messages || HoldsList(row, "prompt") || HoldsList(row, "completion")) return FromMessages(row);
  STRATA_ASSIGN_OR_RETURN(const std::string first, Text(row, text ? "text" : "prompt"));
  if (text) return FromText(first);
  STRATA_ASSIGN_OR_RETURN(const std::string second, Text(row, "completion"));
  return FromCompletion(first, second);
}

absl::StatusOr<std::vector<int32_t>> RowReader::ReadPromptText(const std::string& text, PromptForm form) const {
  if (form == PromptForm::kUserTurn) {
    return PromptOfChat({{"messages", {{{"role", "user"}, {"content", text}}}}});
  }
  STRATA_RETURN_IF_ERROR(NeedTokenizer());
  std::vector<int32_t> ids = tokenizer->Encode(text, true);
  if (ids.empty() && tokenizer->bos_id().has_value()) ids.push_back(*tokenizer->bos_id());
  if (ids.empty()) return Fault("an empty text, and the model's tokenizer has no BOS to begin with");
  STRATA_RETURN_IF_ERROR(CheckIds(ids));
  return ids;
}

absl::StatusOr<std::vector<int32_t>> RowReader::PromptOfChat(const ChatRow& row) const {
  STRATA_RETURN_IF_ERROR(NeedChat());
  STRATA_RETURN_IF_ERROR(NeedTextAlone(row));
  const auto begin = row.find("add_generation_prompt");
  if (begin != row.end() && !begin->is_boolean()) return Fault("'add_generation_prompt' must be true or false");
  const absl::StatusOr<std::string> text = chat->Render(row, begin == row.end() || begin->get<bool>());
  if (!text.ok()) return Fault(std::string(text.status().message()));
  std::vector<int32_t> ids = tokenizer->Encode(*text, false);
  if (ids.empty()) return Fault("the chat template makes nothing of the row");
  STRATA_RETURN_IF_ERROR(CheckIds(ids));
  return ids;
}

absl::StatusOr<std::vector<int32_t>> RowReader::ReadPrompt(const OrderedJson& row, PromptForm form) const {
  const bool prompt = row.contains("prompt"), text = row.contains("text"), ids = row.contains("input_ids"),
             messages = row.contains("messages");
  if (const int forms = prompt + text + ids + messages; forms != 1) {
    return Fault(Cat(forms == 0 ? "none" : "more than one",
                     " of the forms {\"prompt\"}, {\"text\"}, {\"messages\"}, {\"input_ids\"}"));
  }
  if (messages) return PromptOfChat(row);
  if (HoldsList(row, "prompt")) {
    ChatRow turns = row;
    turns["messages"] = row["prompt"];
    return PromptOfChat(turns);
  }
  if (ids) {
    Example prompt;
    STRATA_ASSIGN_OR_RETURN(prompt.ids, Integers(row, "input_ids", 0, id_bound()));
    STRATA_RETURN_IF_ERROR(DropPadding(row, prompt));
    if (prompt.ids.empty())
      return Fault("no token is left to go on from: 'input_ids' is empty, or attention_mask is 0");
    return prompt.ids;
  }
  STRATA_ASSIGN_OR_RETURN(const std::string value, Text(row, prompt ? "prompt" : "text"));
  return ReadPromptText(value, form);
}

absl::StatusOr<ChoiceRow::Choice> RowReader::ReadChoice(const std::string& text) const {
  ChoiceRow::Choice choice{.ids = tokenizer->Encode(text, false), .num_characters = NumCodePoints(text)};
  if (choice.ids.empty()) return Fault("is empty");
  STRATA_RETURN_IF_ERROR(CheckIds(choice.ids));
  return choice;
}

absl::StatusOr<ChoiceRow> RowReader::ReadChoices(const OrderedJson& row) const {
  ChoiceRow out;
  STRATA_ASSIGN_OR_RETURN(const std::string question, Text(row, "question"));
  STRATA_ASSIGN_OR_RETURN(out.question, ReadPromptText(question, PromptForm::kText));
  const auto choices = row.find("choices");
  if (choices == row.end() || !choices->is_array() || choices->size() < 2) {
    return Fault("'choices' must be a list of two or more strings");
  }
  for (size_t i = 0; i < choices->size(); ++i) {
    const OrderedJson& item = (*choices)[i];
    if (!item.is_string()) return Fault(Cat("'choices'[", i, "] must be a string, found ", item.type_name()));
    auto choice = ReadChoice(item.get_ref<const std::string&>());
    if (!choice.ok()) return Fault(Cat("'choices'[", i, "]: ", choice.status().message()));
    out.choices.push_back(*std::move(choice));
  }
  const auto answer = row.find("answer");
  if (answer == row.end() || !answer->is_number_integer() || *answer < 0 || *answer >= choices->size()) {
    return Fault(Cat("'answer' must be the index of a choice, from 0 to ", choices->size() - 1));
  }
  out.answer = answer->get<size_t>();
  return out;
}

}  // namespace strata::data
