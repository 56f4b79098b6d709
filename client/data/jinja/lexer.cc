#include "client/data/jinja/lexer.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "client/data/jinja/text.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::jinja {
namespace {

constexpr std::string_view kNothing;

// Line feeds only, and none at the very end.
std::string WithLineFeeds(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r' && i + 1 < source.size() && source[i + 1] == '\n') continue;
    out += source[i] == '\r' ? '\n' : source[i];
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

bool IsNameByte(char c) { return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_'; }

bool AllSpace(std::string_view text) { return Strip(text, Side::kBoth).empty(); }

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(WithLineFeeds(source)) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (pos_ < source_.size()) STRATA_RETURN_IF_ERROR(Text());
    Push(TokenKind::kEnd, kNothing);
    return std::move(tokens_);
  }

 private:
  std::string_view rest() const { return std::string_view(source_).substr(pos_); }
  char At(size_t pos) const { return pos < source_.size() ? source_[pos] : '\0'; }
  bool Starts(std::string_view text) const { return rest().starts_with(text); }
  absl::Status Fault(std::string_view what) const {
    return absl::InvalidArgumentError(Cat("line ", line_, ": ", what));
  }

  Token& Push(TokenKind kind, std::string_view text) {
    tokens_.push_back({.kind = kind, .text = std::string(text), .line = line_});
    return tokens_.back();
  }
  void Skip(size_t count) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(pos_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(pos_ + count), '\n'));
    pos_ += count;
    after_line_feed_ = pos_ > 0 && source_[pos_ - 1] == '\n';
  }
  size_t Space() const { return rest().size() - Strip(rest(), Side::kLeft).size(); }  // bytes of it that come next

  absl::Status Text();
  void PushText(std::string_view text, char sign, bool output);
  absl::Status Comment();
  bool Raw(std::string_view text, char sign, absl::Status& status);
  void CloseBlock();
  absl::Status Tag(bool output);
  bool CloseTag(bool output);
  absl::Status One();
  absl::Status Name();
  absl::Status Number();
  absl::StatusOr<std::string> Unescape(std::string_view text) const;
  absl::Status String();
  absl::Status Operator();

  std::string source_;
  size_t pos_ = 0;
  int line_ = 1;
  bool after_line_feed_ = true;  // what was taken last ended a line
  std::string open_;             // closing brackets that are waited for
  std::vector<Token> tokens_;
};

// Text up to the next tag, and that tag.
absl::Status Lexer::Text() {
  size_t at = pos_;
  do {
    at = source_.find('{', at);
  } while (at != std::string::npos && At(at + 1) != '{' && At(at + 1) != '%' && At(at + 1) != '#' && ++at != 0);
  const std::string text = source_.substr(pos_, at == std::string::npos ? at : at - pos_);
  if (at == std::string::npos) {
    Push(TokenKind::kText, text);
    Skip(text.size());
    return absl::OkStatus();
  }
  const bool starts_line = after_line_feed_;
  Skip(text.size());
  after_line_feed_ = starts_line;
  const char kind = At(pos_ + 1), sign = At(pos_ + 2) == '-' || At(pos_ + 2) == '+' ? At(pos_ + 2) : '\0';
  absl::Status status;
  if (kind == '%' && Raw(text, sign, status)) return status;
  PushText(text, sign, kind == '{');
  Skip(sign != '\0' ? 3 : 2);
  return kind == '#' ? Comment() : Tag(kind == '{');
}

void Lexer::PushText(std::string_view text, char sign, bool output) {
  if (sign == '-') {
    text = Strip(text, Side::kRight);
  } else if (sign != '+' && !output) {
    const size_t line = text.rfind('\n') + 1;  // 0: none
    if ((line > 0 || after_line_feed_) && AllSpace(text.substr(line))) text = text.substr(0, line);
  }
  if (!text.empty()) Push(TokenKind::kText, text);
}

// Behind the closing sign of a block or comment: -%} takes all white space, %} a line feed, +%} nothing.
void Lexer::CloseBlock() {
  const bool minus = Starts("-"), plus = Starts("+");
  Skip(minus || plus ? 3 : 2);
  if (minus) {
    Skip(Space());
  } else if (!plus && At(pos_) == '\n') {
    Skip(1);
  }
}

absl::Status Lexer::Comment() {
  const size_t end = source_.find("#}", pos_);
  if (end == std::string::npos) return Fault("missing end of comment tag");
  const bool signs = end > pos_ && (At(end - 1) == '-' || At(end - 1) == '+');
  Skip(end - pos_ - (signs ? 1 : 0));
  CloseBlock();
  return absl::OkStatus();
}

// {% raw %}..{% endraw %}: whether there is one here.
bool Lexer::Raw(std::string_view text, char sign, absl::Status& status) {
  const auto begins = [&](size_t pos, std::string_view word) -> size_t {  // where the word ends, 0: it is not there
    pos += 2 + (At(pos + 2) == '-' || At(pos + 2) == '+' ? 1 : 0);
    const std::string_view after = Strip(std::string_view(source_).substr(pos), Side::kLeft);
    if (!after.starts_with(word)) return 0;
    const std::string_view end = Strip(after.substr(word.size()), Side::kLeft);
    const bool closes = end.starts_with("%}") || end.starts_with("-%}") || (word == "endraw" && end.starts_with("+%}"));
    return closes ? source_.size() - end.size() : 0;
  };
  const size_t begin = begins(pos_, "raw");
  if (begin == 0) return false;
  PushText(text, sign, false);
  const bool minus = At(begin) == '-';
  Skip(begin + (minus ? 3 : 2) - pos_);
  if (minus) Skip(Space());
  for (size_t at = source_.find("{%", pos_); at != std::string::npos; at = source_.find("{%", at + 2)) {
    const size_t end = begins(at, "endraw");
    if (end == 0) continue;
    const std::string inner = source_.substr(pos_, at - pos_);
    const char inner_sign = At(at + 2) == '-' || At(at + 2) == '+' ? At(at + 2) : '\0';
    PushText(inner, inner_sign, false);
    Skip(end - pos_);
    CloseBlock();
    return true;
  }
  status = Fault("missing end of raw directive");
  return true;
}

bool Lexer::CloseTag(bool output) {
  if (!open_.empty()) return false;
  if (output) {
    const bool minus = Starts("-}}");
    if (!minus && !Starts("}}")) return false;
    Push(TokenKind::kOutputEnd, kNothing);
    Skip(minus ? 3 : 2);
    if (minus) Skip(Space());
    return true;
  }
  if (!Starts("%}") && !Starts("-%}") && !Starts("+%}")) return false;
  Push(TokenKind::kBlockEnd, kNothing);
  CloseBlock();
  return true;
}

absl::Status Lexer::Tag(bool output) {
  Push(output ? TokenKind::kOutputBegin : TokenKind::kBlockBegin, kNothing);
  while (pos_ < source_.size()) {
    if (CloseTag(output)) return absl::OkStatus();
    STRATA_RETURN_IF_ERROR(One());
  }
  return Fault(Cat("the template ends within a tag; ", output ? "'}}'" : "'%}'", " is expected"));
}

absl::Status Lexer::One() {
  const char c = At(pos_);
  const bool digit = absl::ascii_isdigit(static_cast<unsigned char>(c));
  const size_t space = Space();
  Skip(space);
  if (space > 0) return absl::OkStatus();
  if (digit) return Number();
  if (IsNameByte(c)) return Name();
  return c == '\'' || c == '"' ? String() : Operator();
}

absl::Status Lexer::Name() {
  size_t end = pos_;
  while (IsNameByte(At(end))) ++end;
  Push(TokenKind::kName, rest().substr(0, end - pos_));
  Skip(end - pos_);
  return absl::OkStatus();
}

absl::Status Lexer::Number() {
  size_t end = pos_;
  const auto digits = [&] {
    while (absl::ascii_isdigit(static_cast<unsigned char>(At(end))) || At(end) == '_') ++end;
  };
  const auto digit_at = [&](size_t pos) { return absl::ascii_isdigit(static_cast<unsigned char>(At(pos))); };
  digits();
  bool whole = true;
  if (At(end) == '.' && digit_at(end + 1) && At(pos_ - 1) != '.') {
    whole = false;
    ++end;
    digits();
  }
  if (At(end) == 'e' || At(end) == 'E') {
    const size_t sign = At(end + 1) == '+' || At(end + 1) == '-' ? 1 : 0;
    if (digit_at(end + 1 + sign)) {
      whole = false;
      end += 1 + sign;
      digits();
    }
  }
  std::string text = source_.substr(pos_, end - pos_);
  std::erase(text, '_');
  Token& token = Push(whole ? TokenKind::kInteger : TokenKind::kFloat, text);
  Skip(end - pos_);
  const bool good = whole ? absl::SimpleAtoi(text, &token.integer) : absl::SimpleAtod(text, &token.number);
  if (IsNameByte(At(pos_)) || !good) return Fault(Cat("a number that is not understood: ", text));
  return absl::OkStatus();
}

absl::StatusOr<std::string> Lexer::Unescape(std::string_view text) const {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      out += text[i];
      continue;
    }
    const char c = text[++i];  // the lexer leaves no text that ends in a lone backslash
    constexpr std::string_view kShort = "nrtabfv\\'\"", kMeant = "\n\r\t\a\b\f\v\\'\"";
    const size_t width = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (const size_t known = kShort.find(c); known != std::string_view::npos) {
      out += kMeant[known];
    } else if (width > 0) {
      const std::string_view hex = text.substr(i + 1, width);
      uint32_t code = 0;
      const auto end = std::from_chars(hex.data(), hex.data() + hex.size(), code, 16);
      if (hex.size() != width || end.ptr != hex.data() + width || code > 0x10FFFF ||
          (code >= 0xD800 && code < 0xE000)) {
        return Fault(Cat("a string with a \\", std::string(1, c), " escape that names no character"));
      }
      AppendCharacter(code, out);
      i += width;
    } else if (c >= '0' && c <= '7') {
      uint32_t code = 0;
      size_t end = i;
      while (end < text.size() && end < i + 3 && text[end] >= '0' && text[end] <= '7') {
        code = code * 8 + static_cast<uint32_t>(text[end++] - '0');
      }
      AppendCharacter(code, out);
      i = end - 1;
    } else if (c != '\n') {  // as Python: what is no escape stays as it is
      out += '\\';
      out += c;
    }
  }
  return out;
}

absl::Status Lexer::String() {
  const char quote = At(pos_);
  size_t end = pos_ + 1;
  while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
  if (end >= source_.size()) return Fault("a string that does not end");
  STRATA_ASSIGN_OR_RETURN(const std::string text, Unescape(rest().substr(1, end - pos_ - 1)));
  Push(TokenKind::kString, text);
  Skip(end + 1 - pos_);
  return absl::OkStatus();
}

absl::Status Lexer::Operator() {
  constexpr auto kOperators =
      std::to_array<std::string_view>({"//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
                                       "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"});
  const auto found = std::find_if(kOperators.begin(), kOperators.end(), [&](std::string_view o) { return Starts(o); });
  if (found == kOperators.end()) return Fault(Cat("unexpected character ", Quoted(Characters(rest())[0])));
  constexpr std::string_view kOpening = "([{", kClosing = ")]}";
  const char c = (*found)[0];
  if (kOpening.find(c) != std::string_view::npos) {
    open_ += kClosing[kOpening.find(c)];
  } else if (kClosing.find(c) != std::string_view::npos) {
    if (open_.empty()) return Fault(Cat("unexpected '", *found, "'"));
    if (open_.back() != c)
      return Fault(Cat("unexpected '", *found, "', expected '", std::string(1, open_.back()), "'"));
    open_.pop_back();
  }
  Push(TokenKind::kOperator, *found);
  Skip(found->size());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source) {
  if (!IsWellFormed(source)) return absl::InvalidArgumentError("the template is not valid UTF-8");
  return Lexer(source).Run();
}

}  // namespace strata::jinja
