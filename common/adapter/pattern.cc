#define PCRE2_CODE_UNIT_WIDTH 8
#include "common/adapter/pattern.h"

#include <pcre2.h>

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "common/status/cat.h"

namespace strata::adapter {
namespace {

// Module names are short: an expression that needs more steps than this on one is a trap.
constexpr uint32_t kMatchLimit = 200000;

struct FreeCode {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct FreeMatchData {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct FreeMatchContext {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

bool IsPlain(std::string_view key) {
  return std::all_of(key.begin(), key.end(),
                     [](char c) { return absl::ascii_isalnum(c) || c == '_' || c == '-' || c == '.'; });
}

// The key has no operator but the dot, which stands for any character: the expression without an engine.
bool MatchesPlainKey(std::string_view key, std::string_view module) {
  if (module.size() < key.size()) return false;
  const size_t start = module.size() - key.size();
  if (start > 0 && module[start - 1] != '.') return false;
  for (size_t i = 0; i < key.size(); ++i) {
    if (key[i] != '.' && key[i] != module[start + i]) return false;
  }
  return true;
}

}  // namespace

struct Pattern::Code {
  std::unique_ptr<pcre2_code, FreeCode> code;
};

absl::StatusOr<Pattern> Pattern::Compile(std::string_view expression) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  auto code = std::make_shared<Code>();
  code->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(),
                                 PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_NEVER_BACKSLASH_C, &error, &offset,
                                 nullptr));
  if (code->code == nullptr) {
    std::array<PCRE2_UCHAR, 256> reason{};
    pcre2_get_error_message(error, reason.data(), reason.size());
    return absl::InvalidArgumentError(Cat("'", expression, "' is no valid regular expression: ",
                                          reinterpret_cast<const char*>(reason.data()), " at offset ", offset));
  }
  return Pattern(std::move(code));
}

bool Pattern::FullMatch(std::string_view text) const {
  const std::unique_ptr<pcre2_match_data, FreeMatchData> data(
      pcre2_match_data_create_from_pattern(code_->code.get(), nullptr));
  const std::unique_ptr<pcre2_match_context, FreeMatchContext> context(pcre2_match_context_create(nullptr));
  pcre2_set_match_limit(context.get(), kMatchLimit);
  return pcre2_match(code_->code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0, 0, data.get(),
                     context.get()) >= 0;
}

bool MatchesPatternKey(std::string_view key, std::string_view module) {
  if (IsPlain(key)) return MatchesPlainKey(key, module);
  const absl::StatusOr<Pattern> pattern = Pattern::Compile(Cat("(.*\\.)?(", key, ")"));
  return pattern.ok() && pattern->FullMatch(module);
}

}  // namespace strata::adapter
