// Sets of characters as expressions: what brackets and \p{..} of Oniguruma mean, in PCRE2's syntax.
#ifndef STRATA_CLIENT_DATA_CHARACTER_SETS_H_
#define STRATA_CLIENT_DATA_CHARACTER_SETS_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace strata::data {

// Members of a class, as they stand between brackets.
inline constexpr char kSpaceMembers[] =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
inline constexpr char kWordMembers[] = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";
inline constexpr char kHexMembers[] = "0-9A-Fa-f";
inline constexpr char kAnyCharacter[] = R"([\x{0}-\x{10ffff}])";

// Plain members between brackets, and expressions that each match one character; the set is their union.
struct CharacterSet {
  std::string members;
  std::vector<std::string> others;

  void Add(const CharacterSet& other);
};

CharacterSet SetOf(std::string_view members, bool negated);
// An expression that matches one character of the set, or one that is not in it.
std::string SetExpression(const CharacterSet& set, bool negated);

// The members of a POSIX class, general category (short or long name), script or binary property; spelling is loose.
// NOT_FOUND: nothing has this name.
absl::StatusOr<std::string> NamedMembers(std::string_view name);

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_CHARACTER_SETS_H_
