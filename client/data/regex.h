// Regular expressions as tokenizer files write them (Oniguruma's syntax and classes), run by PCRE2.
#ifndef STRATA_CLIENT_DATA_REGEX_H_
#define STRATA_CLIENT_DATA_REGEX_H_

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace strata::data {

struct Span {
  size_t begin = 0, end = 0;  // bytes
};

// The same expression in PCRE2's syntax. What differs: \s \w \h \v \b, [:posix:] and \p{} names mean Oniguruma's sets;
// nested classes and && in classes; {n,m}+ is a repeat of a repeat; (?m) lets the dot match newlines. INVALID_ARGUMENT:
// an unfinished class, group or escape, or a construct without a counterpart, with its offset.
absl::StatusOr<std::string> TranslateRegex(std::string_view pattern);

// A compiled expression. Const use is thread-safe. Matching effort is bounded: where an expression backtracks beyond
// all bounds, the rest of the text counts as not matching.
class Regex {
 public:
  static absl::StatusOr<Regex> Compile(std::string_view pattern);
  static absl::StatusOr<Regex> Literal(std::string_view text);
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

  // All matches from left to right; an empty match directly behind another does not count.
  // REQUIRES: text is well-formed UTF-8.
  std::vector<Span> FindAll(std::string_view text) const;

 private:
  struct Code;
  explicit Regex(std::unique_ptr<Code> code);
  std::unique_ptr<Code> code_;
  std::string literal_;  // set: a plain search instead of code_
};

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_REGEX_H_
