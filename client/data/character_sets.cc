#include "client/data/character_sets.h"

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_join.h"
#include "common/status/cat.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace strata::data {
namespace {

bool Compiles(const std::string& pattern) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), PCRE2_UTF | PCRE2_UCP,
                                   &error, &offset, nullptr);
  pcre2_code_free(code);
  return code != nullptr;
}

const absl::flat_hash_map<std::string, std::string>& NamedSets() {
  static const auto* sets = new absl::flat_hash_map<std::string, std::string>{
      {"any", R"(\p{Any})"},
      {"assigned", R"(\P{Cn})"},
      {"letter", R"(\p{L})"},
      {"uppercaseletter", R"(\p{Lu})"},
      {"lowercaseletter", R"(\p{Ll})"},
      {"titlecaseletter", R"(\p{Lt})"},
      {"modifierletter", R"(\p{Lm})"},
      {"otherletter", R"(\p{Lo})"},
      {"mark", R"(\p{M})"},
      {"nonspacingmark", R"(\p{Mn})"},
      {"spacingmark", R"(\p{Mc})"},
      {"enclosingmark", R"(\p{Me})"},
      {"number", R"(\p{N})"},
      {"decimalnumber", R"(\p{Nd})"},
      {"letternumber", R"(\p{Nl})"},
      {"othernumber", R"(\p{No})"},
      {"punctuation", R"(\p{P})"},
      {"symbol", R"(\p{S})"},
      {"mathsymbol", R"(\p{Sm})"},
      {"currencysymbol", R"(\p{Sc})"},
      {"modifiersymbol", R"(\p{Sk})"},
      {"othersymbol", R"(\p{So})"},
      {"separator", R"(\p{Z})"},
      {"spaceseparator", R"(\p{Zs})"},
      {"control", R"(\p{Cc})"},
      {"other", R"(\p{C})"},
      {"alpha", R"(\p{Alphabetic})"},
      {"alnum", R"(\p{Alphabetic}\p{Nd})"},
      {"digit", R"(\p{Nd})"},
      {"upper", R"(\p{Uppercase})"},
      {"lower", R"(\p{Lowercase})"},
      {"punct", R"(\p{P}$+<=>\^`|~)"},
      {"cntrl", R"(\p{Cc})"},
      {"blank", R"(\p{Zs}\x{9})"},
      {"xdigit", kHexMembers},
      {"ascii", R"(\x{0}-\x{7f})"},
      {"space", kSpaceMembers},
      {"whitespace", kSpaceMembers},
      {"word", kWordMembers},
  };
  return *sets;
}

}  // namespace

void CharacterSet::Add(const CharacterSet& other) {
  members += other.members;
  others.insert(others.end(), other.others.begin(), other.others.end());
}

CharacterSet SetOf(std::string_view members, bool negated) {
  if (!negated) return {std::string(members), {}};
  return {"", {Cat("[^", members, "]")}};
}

std::string SetExpression(const CharacterSet& set, bool negated) {
  if (set.others.empty() && set.members.empty()) return negated ? kAnyCharacter : "(?!)";
  if (set.others.empty()) return Cat(negated ? "[^" : "[", set.members, "]");
  if (set.members.empty() && set.others.size() == 1 && !negated) return set.others[0];
  std::vector<std::string> parts = set.others;
  if (!set.members.empty()) parts.insert(parts.begin(), Cat("[", set.members, "]"));
  const std::string any = absl::StrJoin(parts, "|");
  return negated ? Cat("(?:(?!", any, ")", kAnyCharacter, ")") : Cat("(?:", any, ")");
}

absl::StatusOr<std::string> NamedMembers(std::string_view name) {
  const auto unknown = [&] { return absl::NotFoundError(Cat("no character property is called '", name, "'")); };
  std::string key;
  for (const char c : name) {
    if (c == ' ' || c == '_' || c == '-') continue;
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c))) return unknown();
    key += absl::ascii_tolower(static_cast<unsigned char>(c));
  }
  if (const auto it = NamedSets().find(key); it != NamedSets().end()) return it->second;
  if (key.size() <= 2 && !key.empty()) {  // general categories; PCRE2 takes them in this case only
    key[0] = absl::ascii_toupper(static_cast<unsigned char>(key[0]));
    std::string category = Cat("\\p{", key, "}");
    if (Compiles(category)) return category;
  }
  for (const char* prefix : {"sc:", ""}) {
    std::string property = Cat("\\p{", prefix, key, "}");
    if (Compiles(property)) return property;
  }
  return unknown();
}

}  // namespace strata::data
