// One row as a document, as a prompt or as a question with choices.
#ifndef STRATA_CLIENT_DATA_ROW_READER_H_
#define STRATA_CLIENT_DATA_ROW_READER_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/data/chat_template.h"
#include "client/data/example.h"
#include "client/data/tokenizer.h"

namespace strata::data {

// What a prompt's text is: the beginning of a text, or what a user says to the model.
enum class PromptForm { kText, kUserTurn };

// Several ways to go on from a prompt, one of which is right.
struct ChoiceRow {
  struct Choice {
    std::vector<int32_t> ids;   // at least one
    size_t num_characters = 0;  // of its text
  };
  std::vector<int32_t> question;  // at least one
  std::vector<Choice> choices;    // at least two
  size_t answer = 0;
};

// Every error is INVALID_ARGUMENT: what is wrong with the row. Its texts are never quoted. Const use is thread-safe.
struct RowReader {
  const Tokenizer* tokenizer = nullptr;  // null: only rows of input_ids can be read
  int64_t vocab_size = 0;                // 0: not checked
  const ChatTemplate* chat = nullptr;    // null: rows of messages cannot be read,
  absl::Status no_chat;                  // for this reason

  // A document in one of the forms of ReadDataset.
  absl::StatusOr<Example> Read(const OrderedJson& row) const;
  // What a model is to go on from: {"prompt"} or {"text"}, with the post-processor's special tokens; {"messages"}, or a
  // {"prompt"} that is a list of them, as the chat template writes them, with the beginning of the assistant's turn
  // unless "add_generation_prompt" is false; or {"input_ids"[, "attention_mask"]}. Never empty.
  absl::StatusOr<std::vector<int32_t>> ReadPrompt(const OrderedJson& row, PromptForm form) const;
  // A text without tokens is BOS.
  absl::StatusOr<std::vector<int32_t>> ReadPromptText(const std::string& text, PromptForm form) const;
  // {"question", "choices": [STRING..], "answer": INDEX}. The question is a prompt, a choice is what follows it letter
  // by letter: where white space parts them, it is part of the choice.
  absl::StatusOr<ChoiceRow> ReadChoices(const OrderedJson& row) const;

 private:
  absl::StatusOr<Example> FromText(const std::string& text) const;
  absl::StatusOr<Example> FromCompletion(const std::string& prompt, const std::string& completion) const;
  absl::StatusOr<Example> FromMessages(const ChatRow& row) const;
  absl::StatusOr<Example> FromIds(const OrderedJson& row) const;
  absl::Status DropPadding(const OrderedJson& row, Example& example) const;
  absl::StatusOr<std::vector<int32_t>> PromptOfChat(const ChatRow& row) const;
  absl::StatusOr<ChoiceRow::Choice> ReadChoice(const std::string& text) const;
  absl::Status NeedTokenizer() const;
  absl::Status NeedChat() const;
  absl::StatusOr<std::vector<int32_t>> Integers(const OrderedJson& row, const char* key, int64_t low,
                                                int64_t high) const;
  void AppendEos(std::vector<int32_t>& ids) const;
  absl::Status CheckIds(const std::vector<int32_t>& ids) const;
  int64_t id_bound() const { return vocab_size > 0 ? vocab_size : int64_t{INT32_MAX}; }
};

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_ROW_READER_H_
