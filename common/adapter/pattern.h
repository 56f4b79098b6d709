// PEFT's two uses of regular expressions: a whole-name expression and the keys of rank_pattern and alpha_pattern.
#ifndef STRATA_COMMON_ADAPTER_PATTERN_H_
#define STRATA_COMMON_ADAPTER_PATTERN_H_

#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace strata::adapter {

// A compiled expression (PCRE2's syntax, which holds what Python's `re` patterns of module names use). Const use is
// thread-safe.
class Pattern {
 public:
  // INVALID_ARGUMENT: no valid expression, with PCRE2's reason and the offset.
  static absl::StatusOr<Pattern> Compile(std::string_view expression);
  // Python's re.fullmatch. An expression that backtracks without end counts as no match.
  bool FullMatch(std::string_view text) const;

 private:
  struct Code;
  explicit Pattern(std::shared_ptr<const Code> code) : code_(std::move(code)) {}
  std::shared_ptr<const Code> code_;
};

// Does a key of rank_pattern or alpha_pattern name this module: re.match(r"(.*\.)?(key)$", module). A key that is no
// valid expression names nothing.
bool MatchesPatternKey(std::string_view key, std::string_view module);

}  // namespace strata::adapter

#endif  // STRATA_COMMON_ADAPTER_PATTERN_H_
