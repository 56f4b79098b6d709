// UTF-8 and the character classes that tokenizer rules speak of.
#ifndef STRATA_CLIENT_DATA_UNICODE_H_
#define STRATA_CLIENT_DATA_UNICODE_H_

#include <cstddef>
#include <string>
#include <string_view>

namespace strata::data {

// The code point at `pos`, which moves behind it. REQUIRES: well-formed UTF-8, pos < text.size().
char32_t NextCodePoint(std::string_view text, size_t& pos);
// The code point that ends at `pos`, which moves to its start. REQUIRES: well-formed UTF-8, pos > 0.
char32_t PreviousCodePoint(std::string_view text, size_t& pos);
void AppendUtf8(char32_t code, std::string& out);
size_t NumCodePoints(std::string_view text);

// Every maximal ill-formed part replaced by U+FFFD (Unicode 15, section 3.9, "U+FFFD substitution of maximal
// subparts").
std::string ToValidUtf8(std::string_view text);
bool IsValidUtf8(std::string_view text);

bool IsWhitespace(char32_t code);      // property White_Space
bool IsNumeric(char32_t code);         // Nd, Nl, No
bool IsWordCharacter(char32_t code);   // Alphabetic, M, Nd, Pc, Join_Control
bool IsMark(char32_t code);            // Mn, Mc, Me
bool IsNonspacingMark(char32_t code);  // Mn
bool IsControl(char32_t code);         // Cc, Cf, Co, Cn
bool IsPunctuation(char32_t code);     // P*, and all of ASCII's

// Per character, without context: no final sigma.
std::string ToLower(std::string_view text);

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };
std::string Normalize(NormalForm form, std::string_view text);

// A byte <-> the printable character that stands for it in byte-level vocabularies (Radford et al. 2019).
char32_t ByteToCharacter(unsigned char byte);
// -1: the character stands for no byte.
int CharacterToByte(char32_t code);

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_UNICODE_H_
