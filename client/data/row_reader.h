// One line of a JSONL file as a document.
#ifndef STRATA_CLIENT_DATA_ROW_READER_H_
#define STRATA_CLIENT_DATA_ROW_READER_H_

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

// The forms of a row are ReadJsonl's. Const use is thread-safe.
struct RowReader {
  const Tokenizer* tokenizer = nullptr;  // null: only rows of input_ids can be read
  int64_t vocab_size = 0;                // 0: not checked
  const ChatTemplate* chat = nullptr;    // null: rows of messages cannot be read,
  absl::Status no_chat;                  // for this reason

  // INVALID_ARGUMENT: what is wrong with the row. Its texts are never quoted.
  absl::StatusOr<Example> Read(std::string_view line) const;

 private:
  absl::StatusOr<Example> FromText(const std::string& text) const;
  absl::StatusOr<Example> FromCompletion(const std::string& prompt, const std::string& completion) const;
  absl::StatusOr<Example> FromMessages(const ChatRow& row) const;
  absl::StatusOr<Example> FromIds(const OrderedJson& row) const;
  absl::Status NeedTokenizer() const;
  absl::StatusOr<std::vector<int32_t>> Integers(const OrderedJson& row, const char* key, int64_t low,
                                                int64_t high) const;
  void AppendEos(std::vector<int32_t>& ids) const;
  absl::Status CheckIds(const Example& example) const;
  int64_t id_bound() const { return vocab_size > 0 ? vocab_size : int64_t{INT32_MAX}; }
};

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_ROW_READER_H_
