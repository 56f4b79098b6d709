#include "client/data/jinja/text.h"

#include <unicode/locid.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>
#include <unicode/utf8.h>

#include <array>
#include <charconv>
#include <cmath>

#include "absl/strings/str_format.h"

namespace strata::jinja {
namespace {

char32_t Next(std::string_view text, size_t& pos) {
  UChar32 code = 0;
  U8_NEXT_UNSAFE(text.data(), pos, code);
  return static_cast<char32_t>(code);
}

char32_t Previous(std::string_view text, size_t& pos) {
  UChar32 code = 0;
  U8_PREV_UNSAFE(text.data(), pos, code);
  return static_cast<char32_t>(code);
}

bool IsSpace(char32_t code) {
  return (code >= 0x1C && code <= 0x1F) || u_hasBinaryProperty(static_cast<UChar32>(code), UCHAR_WHITE_SPACE) != 0;
}

bool IsLineEnd(char32_t code) {
  return (code >= 0x0A && code <= 0x0D) || (code >= 0x1C && code <= 0x1E) || code == 0x85 || code == 0x2028 ||
         code == 0x2029;
}

bool IsCased(char32_t code) {
  const auto c = static_cast<UChar32>(code);
  return u_hasBinaryProperty(c, UCHAR_LOWERCASE) != 0 || u_hasBinaryProperty(c, UCHAR_UPPERCASE) != 0 || u_istitle(c);
}

icu::UnicodeString Wide(std::string_view text) {
  return icu::UnicodeString::fromUTF8(icu::StringPiece(text.data(), static_cast<int32_t>(text.size())));
}

std::string Narrow(const icu::UnicodeString& wide) {
  std::string out;
  wide.toUTF8String(out);
  return out;
}

bool IsPrintable(char32_t code) {
  if (code == ' ') return true;
  switch (u_charType(static_cast<UChar32>(code))) {
    case U_CONTROL_CHAR:
    case U_FORMAT_CHAR:
    case U_SURROGATE:
    case U_PRIVATE_USE_CHAR:
    case U_UNASSIGNED:
    case U_LINE_SEPARATOR:
    case U_PARAGRAPH_SEPARATOR:
    case U_SPACE_SEPARATOR:
      return false;
    default:
      return true;
  }
}

std::vector<std::string_view> SplitAtSpace(std::string_view text, int64_t most, bool from_right) {
  std::vector<std::string_view> parts;
  text = Strip(text, from_right ? Side::kRight : Side::kLeft);
  while (!text.empty() && most != 0) {
    size_t cut = from_right ? text.size() : 0;
    for (size_t pos = cut; from_right ? pos > 0 : pos < text.size(); cut = pos) {
      if (IsSpace(from_right ? Previous(text, pos) : Next(text, pos))) break;
    }
    parts.push_back(from_right ? text.substr(cut) : text.substr(0, cut));
    text = from_right ? Strip(text.substr(0, cut), Side::kRight) : Strip(text.substr(cut), Side::kLeft);
    --most;
  }
  if (!text.empty()) parts.push_back(text);
  return parts;
}

}  // namespace

bool IsWellFormed(std::string_view text) {
  const auto size = static_cast<int64_t>(text.size());
  for (int64_t pos = 0; pos < size;) {
    UChar32 code = 0;
    U8_NEXT(text.data(), pos, size, code);
    if (code < 0) return false;
  }
  return true;
}

size_t NumCharacters(std::string_view text) {
  size_t count = 0;
  for (const char c : text) count += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return count;
}

std::vector<std::string_view> Characters(std::string_view text) {
  std::vector<std::string_view> characters;
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    Next(text, pos);
    characters.push_back(text.substr(begin, pos - begin));
  }
  return characters;
}

void AppendCharacter(char32_t code, std::string& out) {
  std::array<char, U8_MAX_LENGTH> bytes{};
  size_t length = 0;
  U8_APPEND_UNSAFE(bytes.data(), length, code);
  out.append(bytes.data(), length);
}

char32_t CharacterAt(std::string_view text) {
  size_t pos = 0;
  return Next(text, pos);
}

std::string_view Strip(std::string_view text, Side side, std::optional<std::string_view> characters) {
  std::u32string set;
  if (characters.has_value()) {
    for (const std::string_view c : Characters(*characters)) set += CharacterAt(c);
  }
  const auto strips = [&](char32_t code) {
    return characters.has_value() ? set.find(code) != std::u32string::npos : IsSpace(code);
  };
  if (side != Side::kRight) {
    size_t begin = 0;
    for (size_t pos = 0; pos < text.size() && strips(Next(text, pos));) begin = pos;
    text.remove_prefix(begin);
  }
  if (side != Side::kLeft) {
    size_t end = text.size();
    for (size_t pos = end; pos > 0 && strips(Previous(text, pos));) end = pos;
    text = text.substr(0, end);
  }
  return text;
}

std::vector<std::string_view> Split(std::string_view text, std::optional<std::string_view> separator, int64_t most,
                                    bool from_right) {
  std::vector<std::string_view> parts;
  if (!separator.has_value()) {
    parts = SplitAtSpace(text, most, from_right);
  } else {
    for (; most != 0; --most) {
      const size_t at = from_right ? text.rfind(*separator) : text.find(*separator);
      if (at == std::string_view::npos) break;
      const size_t behind = at + separator->size();
      parts.push_back(from_right ? text.substr(behind) : text.substr(0, at));
      text = from_right ? text.substr(0, at) : text.substr(behind);
    }
    parts.push_back(text);
  }
  if (from_right) return {parts.rbegin(), parts.rend()};
  return parts;
}

std::vector<std::string_view> SplitLines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t begin = 0;
  for (size_t pos = 0; pos < text.size();) {
    const size_t end = pos;
    const char32_t code = Next(text, pos);
    if (!IsLineEnd(code)) continue;
    if (code == '\r' && pos < text.size() && text[pos] == '\n') ++pos;
    lines.push_back(text.substr(begin, (keep_ends ? pos : end) - begin));
    begin = pos;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

std::optional<std::string> Replace(std::string_view text, std::string_view from, std::string_view to, int64_t most,
                                   size_t max_bytes) {
  std::string out;
  while (most != 0) {
    // An empty text stands before every character and at the end.
    const size_t at = text.find(from);
    if (at == std::string_view::npos) break;
    out.append(text.substr(0, at)).append(to);
    text.remove_prefix(at + from.size());
    --most;
    if (out.size() + text.size() > max_bytes) return std::nullopt;
    if (!from.empty()) continue;
    if (text.empty()) return out;
    size_t pos = 0;
    Next(text, pos);
    out.append(text.substr(0, pos));
    text.remove_prefix(pos);
  }
  return out.append(text);
}

std::string Upper(std::string_view text) { return Narrow(Wide(text).toUpper(icu::Locale::getRoot())); }
std::string Lower(std::string_view text) { return Narrow(Wide(text).toLower(icu::Locale::getRoot())); }

std::string Capitalize(std::string_view text) {
  size_t pos = 0;
  if (text.empty()) return "";
  const char32_t first = Next(text, pos);
  std::string out = Narrow(icu::UnicodeString(static_cast<UChar32>(first)).toTitle(nullptr, icu::Locale::getRoot()));
  return out + Lower(text.substr(pos));
}

std::string Title(std::string_view text) {
  std::string out;
  bool inside = false;
  for (const std::string_view c : Characters(text)) {
    out += inside ? Lower(c) : Capitalize(c);
    inside = IsCased(CharacterAt(c));
  }
  return out;
}

bool IsUpper(std::string_view text) { return Upper(text) == text && Lower(text) != text; }
bool IsLower(std::string_view text) { return Lower(text) == text && Upper(text) != text; }

bool AllAre(CharacterClass which, std::string_view text) {
  for (size_t pos = 0; pos < text.size();) {
    const char32_t code = Next(text, pos);
    const auto c = static_cast<UChar32>(code);
    const bool digit = u_charDigitValue(c) >= 0;
    const bool right = which == CharacterClass::kSpace   ? IsSpace(code)
                       : which == CharacterClass::kDigit ? digit
                       : which == CharacterClass::kAlpha ? u_isalpha(c) != 0
                                                         : u_isalpha(c) != 0 || digit || u_getNumericValue(c) >= 0;
    if (!right) return false;
  }
  return !text.empty();
}

std::string Quoted(std::string_view text) {
  const bool apostrophe = text.find('\'') != std::string_view::npos;
  const char quote = apostrophe && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string out(1, quote);
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    const char32_t code = Next(text, pos);
    if (code == static_cast<char32_t>(quote) || code == '\\') {
      out += '\\';
      out += static_cast<char>(code);
    } else if (code == '\n' || code == '\r' || code == '\t') {
      out += code == '\n' ? "\\n" : code == '\r' ? "\\r" : "\\t";
    } else if (IsPrintable(code)) {
      out += text.substr(begin, pos - begin);
    } else {
      const auto number = static_cast<uint32_t>(code);
      out += code < 0x100     ? absl::StrFormat("\\x%02x", number)
             : code < 0x10000 ? absl::StrFormat("\\u%04x", number)
                              : absl::StrFormat("\\U%08x", number);
    }
  }
  return out + quote;
}

std::string JsonQuoted(std::string_view text, bool ascii) {
  std::string out = "\"";
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    const char32_t code = Next(text, pos);
    constexpr std::string_view kShort = "\"\\\n\r\t\f\b", kLetters = "\"\\nrtfb";
    const size_t known = code < 0x80 ? kShort.find(static_cast<char>(code)) : std::string_view::npos;
    if (known != std::string_view::npos) {
      out += '\\';
      out += kLetters[known];
    } else if (code < 0x20 || (ascii && code >= 0x7F && code < 0x10000)) {
      out += absl::StrFormat("\\u%04x", static_cast<uint32_t>(code));
    } else if (ascii && code >= 0x10000) {
      out += absl::StrFormat("\\u%04x\\u%04x", 0xD7C0 + (static_cast<uint32_t>(code) >> 10),
                             0xDC00 + (static_cast<uint32_t>(code) & 0x3FF));
    } else {
      out += text.substr(begin, pos - begin);
    }
  }
  return out + "\"";
}

std::string FloatText(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  const double size = std::fabs(value);
  const bool plain = size == 0 || (size >= 1e-4 && size < 1e16);
  std::array<char, 64> digits{};
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value,
                                 plain ? std::chars_format::fixed : std::chars_format::scientific);
  std::string out(digits.data(), end.ptr);
  if (plain && out.find('.') == std::string::npos) out += ".0";
  return out;
}

}  // namespace strata::jinja
