#include "client/data/unicode.h"

#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>
#include <unicode/utf8.h>

#include <array>
#include <cstdint>

namespace strata::data {
namespace {

// Length of the well-formed sequence at `pos`; negative: length of the maximal ill-formed part.
int SequenceLength(std::string_view text, size_t pos) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0; };
  const unsigned char lead = byte(pos);
  if (lead < 0x80) return 1;
  unsigned char low = 0x80, high = 0xBF;
  int length = 0;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return -1;
  }
  for (int i = 1; i < length; ++i) {
    const unsigned char next = byte(pos + i);
    if (next < low || next > high) return -i;
    low = 0x80;
    high = 0xBF;
  }
  return length;
}

const icu::Normalizer2* Instance(NormalForm form) {
  UErrorCode error = U_ZERO_ERROR;
  switch (form) {
    case NormalForm::kNfc:
      return icu::Normalizer2::getNFCInstance(error);
    case NormalForm::kNfd:
      return icu::Normalizer2::getNFDInstance(error);
    case NormalForm::kNfkc:
      return icu::Normalizer2::getNFKCInstance(error);
    case NormalForm::kNfkd:
      return icu::Normalizer2::getNFKDInstance(error);
  }
  return nullptr;
}

bool IsAscii(std::string_view text) {
  for (const char c : text) {
    if (static_cast<unsigned char>(c) >= 0x80) return false;
  }
  return true;
}

constexpr bool StandsForItself(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
}

struct ByteTable {
  std::array<char32_t, 256> character{};
  std::array<int16_t, 0x144> byte{};
  constexpr ByteTable() {
    for (auto& b : byte) b = -1;
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      character[b] = StandsForItself(b) ? static_cast<char32_t>(b) : next++;
      byte[character[b]] = static_cast<int16_t>(b);
    }
  }
};
constexpr ByteTable kByteTable;

}  // namespace

char32_t NextCodePoint(std::string_view text, size_t& pos) {
  const auto lead = static_cast<unsigned char>(text[pos]);
  if (lead < 0x80) {
    ++pos;
    return lead;
  }
  const auto tail = [&](size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(text[pos + i]) & 0x3F); };
  char32_t code = 0;
  if (lead < 0xE0) {
    code = ((lead & 0x1FU) << 6) | tail(1);
    pos += 2;
  } else if (lead < 0xF0) {
    code = ((lead & 0x0FU) << 12) | (tail(1) << 6) | tail(2);
    pos += 3;
  } else {
    code = ((lead & 0x07U) << 18) | (tail(1) << 12) | (tail(2) << 6) | tail(3);
    pos += 4;
  }
  return code;
}

char32_t PreviousCodePoint(std::string_view text, size_t& pos) {
  do {
    --pos;
  } while (pos > 0 && (static_cast<unsigned char>(text[pos]) & 0xC0) == 0x80);
  size_t at = pos;
  return NextCodePoint(text, at);
}

void AppendUtf8(char32_t code, std::string& out) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | (code >> 6));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | (code >> 12));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | (code >> 18));
    out += static_cast<char>(0x80 | ((code >> 12) & 0x3F));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  }
}

size_t NumCodePoints(std::string_view text) {
  size_t n = 0;
  for (const char c : text) n += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return n;
}

std::string ToValidUtf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const int length = SequenceLength(text, pos);
    if (length > 0) {
      out.append(text, pos, length);
      pos += length;
    } else {
      out += "\xEF\xBF\xBD";
      pos += -length;
    }
  }
  return out;
}

bool IsValidUtf8(std::string_view text) {
  for (size_t pos = 0; pos < text.size();) {
    const int length = SequenceLength(text, pos);
    if (length < 0) return false;
    pos += length;
  }
  return true;
}

bool IsWhitespace(char32_t code) { return u_isUWhiteSpace(static_cast<UChar32>(code)) != 0; }
bool IsNumeric(char32_t code) { return (U_GET_GC_MASK(static_cast<UChar32>(code)) & U_GC_N_MASK) != 0; }
bool IsMark(char32_t code) { return (U_GET_GC_MASK(static_cast<UChar32>(code)) & U_GC_M_MASK) != 0; }

bool IsNonspacingMark(char32_t code) { return u_charType(static_cast<UChar32>(code)) == U_NON_SPACING_MARK; }

bool IsWordCharacter(char32_t code) {
  const auto c = static_cast<UChar32>(code);
  return u_isUAlphabetic(c) != 0 || (U_GET_GC_MASK(c) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0 ||
         u_hasBinaryProperty(c, UCHAR_JOIN_CONTROL) != 0;
}

bool IsControl(char32_t code) {
  return (U_GET_GC_MASK(static_cast<UChar32>(code)) & (U_GC_CC_MASK | U_GC_CF_MASK | U_GC_CO_MASK | U_GC_CN_MASK)) != 0;
}

bool IsPunctuation(char32_t code) {
  if (code < 0x80) {
    return (code >= 33 && code <= 47) || (code >= 58 && code <= 64) || (code >= 91 && code <= 96) ||
           (code >= 123 && code <= 126);
  }
  return (U_GET_GC_MASK(static_cast<UChar32>(code)) & U_GC_P_MASK) != 0;
}

std::string ToLower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const char32_t code = NextCodePoint(text, pos);
    if (code == 0x130) {  // the only character whose lower case is two
      out += "i\xCC\x87";
    } else {
      AppendUtf8(static_cast<char32_t>(u_tolower(static_cast<UChar32>(code))), out);
    }
  }
  return out;
}

std::string Normalize(NormalForm form, std::string_view text) {
  if (IsAscii(text)) return std::string(text);
  std::string out;
  UErrorCode error = U_ZERO_ERROR;
  const icu::Normalizer2* normalizer = Instance(form);
  if (normalizer == nullptr) return std::string(text);
  const icu::UnicodeString wide =
      icu::UnicodeString::fromUTF8(icu::StringPiece(text.data(), static_cast<int32_t>(text.size())));
  normalizer->normalize(wide, error).toUTF8String(out);
  return U_SUCCESS(error) ? out : std::string(text);
}

char32_t ByteToCharacter(unsigned char byte) { return kByteTable.character[byte]; }
int CharacterToByte(char32_t code) { return code < kByteTable.byte.size() ? kByteTable.byte[code] : -1; }

}  // namespace strata::data
