// A template's source as tokens, with the white space taken away that `trim_blocks`, `lstrip_blocks` and the signs in
// {%- -%} say.
#ifndef STRATA_CLIENT_DATA_JINJA_LEXER_H_
#define STRATA_CLIENT_DATA_JINJA_LEXER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace strata::jinja {

enum class TokenKind {
  kText,  // between the tags
  kBlockBegin,
  kBlockEnd,
  kOutputBegin,
  kOutputEnd,
  kName,
  kString,  // `text` is unescaped
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  std::string text;
  int line = 1;
  int64_t integer = 0;
  double number = 0;
};

// Ends with a kEnd. INVALID_ARGUMENT: "line N: ..".
absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source);

}  // namespace strata::jinja

#endif  // STRATA_CLIENT_DATA_JINJA_LEXER_H_
