#include "client/data/regex.h"

#include <utility>

#include "client/data/unicode.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace strata::data {
namespace {

constexpr size_t kMaxPatternBytes = 1 << 16;
constexpr uint32_t kMatchLimit = 2'000'000;
constexpr uint32_t kHeapLimitKib = 64 * 1024;

std::vector<Span> FindLiteral(std::string_view text, std::string_view literal) {
  std::vector<Span> spans;
  for (size_t at = text.find(literal); at != std::string_view::npos; at = text.find(literal, at + literal.size())) {
    spans.push_back({at, at + literal.size()});
  }
  return spans;
}

}  // namespace

struct Regex::Code {
  pcre2_code* code = nullptr;
  pcre2_match_context* context = nullptr;
  ~Code() {
    pcre2_match_context_free(context);
    pcre2_code_free(code);
  }
};

Regex::Regex(std::unique_ptr<Code> code) : code_(std::move(code)) {}
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

absl::StatusOr<Regex> Regex::Literal(std::string_view text) {
  Regex regex{nullptr};
  regex.literal_ = text;
  if (!text.empty()) return regex;
  return Compile("");  // matches between all characters
}

absl::StatusOr<Regex> Regex::Compile(std::string_view pattern) {
  if (pattern.size() > kMaxPatternBytes) {
    return absl::InvalidArgumentError(
        Cat("a regular expression of ", pattern.size(), " bytes; at most ", kMaxPatternBytes, " are read"));
  }
  STRATA_ASSIGN_OR_RETURN(const std::string translated, TranslateRegex(pattern));
  auto code = std::make_unique<Code>();
  pcre2_compile_context* compile = pcre2_compile_context_create(nullptr);
  pcre2_set_newline(compile, PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(compile, 200);
  int error = 0;
  PCRE2_SIZE offset = 0;
  code->code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset, compile);
  pcre2_compile_context_free(compile);
  if (code->code == nullptr) {
    PCRE2_UCHAR message[256];
    pcre2_get_error_message(error, message, sizeof(message));
    return absl::InvalidArgumentError(Cat("regular expression '", pattern,
                                          "' cannot be read: ", reinterpret_cast<const char*>(message), " (at ", offset,
                                          " of '", translated, "')"));
  }
  pcre2_jit_compile(code->code, PCRE2_JIT_COMPLETE);  // without it the interpreter runs
  code->context = pcre2_match_context_create(nullptr);
  pcre2_set_match_limit(code->context, kMatchLimit);
  pcre2_set_heap_limit(code->context, kHeapLimitKib);
  return Regex(std::move(code));
}

std::vector<Span> Regex::FindAll(std::string_view text) const {
  if (code_ == nullptr) return FindLiteral(text, literal_);
  std::vector<Span> spans;
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  bool matched = false;
  size_t start = 0, last_end = 0;
  while (start <= text.size()) {
    int rc = pcre2_match(code_->code, subject, text.size(), start, PCRE2_NO_UTF_CHECK, data, code_->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
      rc = pcre2_match(code_->code, subject, text.size(), start, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data,
                       code_->context);
    }
    if (rc < 0) break;
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data);
    const Span span{bounds[0], bounds[1]};
    if (span.end < span.begin || span.begin < start) break;  // \K in a lookaround
    if (span.begin == span.end && matched && span.end == last_end) {
      if (start >= text.size()) break;
      NextCodePoint(text, start);
      continue;
    }
    spans.push_back(span);
    matched = true;
    last_end = start = span.end;
  }
  pcre2_match_data_free(data);
  return spans;
}

}  // namespace strata::data
