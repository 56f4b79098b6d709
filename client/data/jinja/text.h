// What Python's str does, on UTF-8: characters are code points. REQUIRES, everywhere: well-formed UTF-8.
#ifndef STRATA_CLIENT_DATA_JINJA_TEXT_H_
#define STRATA_CLIENT_DATA_JINJA_TEXT_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace strata::jinja {

bool IsWellFormed(std::string_view text);
size_t NumCharacters(std::string_view text);
std::vector<std::string_view> Characters(std::string_view text);
void AppendCharacter(char32_t code, std::string& out);
char32_t CharacterAt(std::string_view text);  // the first. REQUIRES: not empty

enum class Side { kLeft, kRight, kBoth };
// Without `characters` white space, as str.isspace has it.
std::string_view Strip(std::string_view text, Side side, std::optional<std::string_view> characters = std::nullopt);

// At most `most` cuts (negative: all), counted from the right where `from_right`. Without a separator at runs of white
// space. REQUIRES: the separator is not empty.
std::vector<std::string_view> Split(std::string_view text, std::optional<std::string_view> separator, int64_t most,
                                    bool from_right);
std::vector<std::string_view> SplitLines(std::string_view text, bool keep_ends);
// At most `most` (negative: all); nothing where the result would be longer than `max_bytes`.
std::optional<std::string> Replace(std::string_view text, std::string_view from, std::string_view to, int64_t most,
                                   size_t max_bytes);

std::string Upper(std::string_view text);
std::string Lower(std::string_view text);
std::string Capitalize(std::string_view text);
std::string Title(std::string_view text);
bool IsUpper(std::string_view text);
bool IsLower(std::string_view text);
enum class CharacterClass { kAlpha, kDigit, kAlnum, kSpace };
bool AllAre(CharacterClass which, std::string_view text);  // false of an empty text

std::string Quoted(std::string_view text);                  // repr
std::string JsonQuoted(std::string_view text, bool ascii);  // json.dumps
std::string FloatText(double value);                        // repr: the fewest digits that read back as `value`

}  // namespace strata::jinja

#endif  // STRATA_CLIENT_DATA_JINJA_TEXT_H_
