#include <algorithm>
#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "client/data/jinja/builtins.h"
#include "client/data/jinja/operators.h"
#include "client/data/jinja/text.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::jinja {
namespace {

constexpr auto kTextMethods = std::to_array<std::string_view>(
    {"capitalize", "count",   "endswith", "find",         "format",       "index",      "isalnum", "isalpha",
     "isdigit",    "islower", "isspace",  "isupper",      "join",         "lower",      "lstrip",  "partition",
     "replace",    "rfind",   "rindex",   "removeprefix", "removesuffix", "rpartition", "rsplit",  "rstrip",
     "split",      "strip",   "title",    "splitlines",   "startswith",   "upper",      "zfill"});
constexpr auto kListMethods = std::to_array<std::string_view>({"count", "index"});
constexpr auto kDictMethods = std::to_array<std::string_view>({"copy", "get", "items", "keys", "values"});
// They would change their object.
constexpr auto kUnsafeListMethods =
    std::to_array<std::string_view>({"append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"});
constexpr auto kUnsafeDictMethods =
    std::to_array<std::string_view>({"clear", "pop", "popitem", "setdefault", "update"});

template <typename Names>
bool Has(const Names& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool IsUnsafe(const Value& value, std::string_view name) {
  return (value.sequence() != nullptr && !value.sequence()->is_tuple && Has(kUnsafeListMethods, name)) ||
         (value.dict() != nullptr && Has(kUnsafeDictMethods, name));
}

absl::StatusOr<Value> TextList(const std::vector<std::string_view>& parts, bool is_tuple = false) {
  std::vector<Value> items;
  items.reserve(parts.size());
  for (const std::string_view part : parts) items.emplace_back(part);
  return Value::MakeList(std::move(items), is_tuple);
}

// The characters that strip() takes away: none given, white space.
absl::StatusOr<Value> StripMethod(std::string_view text, std::string_view name, Arguments arguments) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> bound, Bind(name, std::move(arguments), {"chars"}));
  const Side side = name == "strip" ? Side::kBoth : name == "lstrip" ? Side::kLeft : Side::kRight;
  if (bound[0].is_undefined() || bound[0].is_none()) return Value(Strip(text, side));
  STRATA_ASSIGN_OR_RETURN(const std::string_view set, TextOf(bound[0], "the characters to strip"));
  return Value(Strip(text, side, set));
}

absl::StatusOr<Value> SplitMethod(std::string_view text, std::string_view name, Arguments arguments) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> bound, Bind(name, std::move(arguments), {"sep", "maxsplit"}));
  STRATA_ASSIGN_OR_RETURN(const int64_t most, IntegerOr(bound[1], -1, "maxsplit"));
  const bool from_right = name == "rsplit";
  if (bound[0].is_undefined() || bound[0].is_none()) return TextList(Split(text, std::nullopt, most, from_right));
  STRATA_ASSIGN_OR_RETURN(const std::string_view separator, TextOf(bound[0], "the separator"));
  if (separator.empty()) return absl::InvalidArgumentError("empty separator");
  return TextList(Split(text, separator, most, from_right));
}

absl::StatusOr<Value> PartitionMethod(std::string_view text, std::string_view name, Arguments arguments) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> bound, Bind(name, std::move(arguments), {"sep"}, 1));
  STRATA_ASSIGN_OR_RETURN(const std::string_view separator, TextOf(bound[0], "the separator"));
  if (separator.empty()) return absl::InvalidArgumentError("empty separator");
  const bool right = name == "rpartition";
  const size_t at = right ? text.rfind(separator) : text.find(separator);
  if (at == std::string_view::npos) {
    return right ? TextList({"", "", text}, true) : TextList({text, "", ""}, true);
  }
  return TextList({text.substr(0, at), separator, text.substr(at + separator.size())}, true);
}

// text[start:end] by characters, and where it begins; nothing where it would begin behind its end.
struct Window {
  std::string_view text;
  size_t start = 0;
};
absl::StatusOr<std::optional<Window>> WindowOf(std::string_view text, const Value& start, const Value& end) {
  if (start.is_undefined() && end.is_undefined()) return Window{.text = text};
  const std::vector<std::string_view> characters = Characters(text);
  const auto size = static_cast<int64_t>(characters.size());
  STRATA_ASSIGN_OR_RETURN(int64_t first, IntegerOr(start, 0, "where to start"));
  STRATA_ASSIGN_OR_RETURN(int64_t last, IntegerOr(end, size, "where to end"));
  if (first < 0) first = std::max<int64_t>(first + size, 0);
  last = last < 0 ? std::max<int64_t>(last + size, 0) : std::min(last, size);
  if (first > last) return std::nullopt;
  const auto offset = [&](int64_t i) {
    return i == size ? text.size() : static_cast<size_t>(characters[static_cast<size_t>(i)].data() - text.data());
  };
  return Window{.text = text.substr(offset(first), offset(last) - offset(first)), .start = static_cast<size_t>(first)};
}

// startswith and endswith: one text, or a tuple of which one will do.
absl::StatusOr<Value> AffixMethod(std::string_view text, std::string_view name, Arguments arguments) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> bound,
                          Bind(name, std::move(arguments), {"affix", "start", "end"}, 1));
  STRATA_ASSIGN_OR_RETURN(const std::optional<Window> window, WindowOf(text, bound[1], bound[2]));
  const bool tuple = bound[0].sequence() != nullptr && bound[0].sequence()->is_tuple;
  for (const Value& affix : tuple ? bound[0].sequence()->items : std::vector<Value>{bound[0]}) {
    STRATA_ASSIGN_OR_RETURN(const std::string_view part, TextOf(affix, Cat(name, "'s argument")));
    if (!window.has_value()) continue;
    if (name == "startswith" ? window->text.starts_with(part) : window->text.ends_with(part)) return Value(true);
  }
  return Value(false);
}

absl::StatusOr<Value> RemoveAffixMethod(std::string_view text, std::string_view name, Arguments arguments) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> bound, Bind(name, std::move(arguments), {"affix"}, 1));
  STRATA_ASSIGN_OR_RETURN(const std::string_view affix, TextOf(bound[0], Cat(name, "'s argument")));
  if (name == "removeprefix") return Value(text.starts_with(affix) ? text.substr(affix.size()) : text);
  return Value(text.ends_with(affix) ? text.substr(0, text.size() - affix.size()) : text);
}

// find, rfind, index, rindex: in characters.
absl::StatusOr<Value> FindMethod(std::string_view text, std::string_view name, Arguments arguments) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> bound, Bind(name, std::move(arguments), {"sub", "start", "end"}, 1));
  STRATA_ASSIGN_OR_RETURN(const std::string_view part, TextOf(bound[0], "what is looked for"));
  STRATA_ASSIGN_OR_RETURN(const std::optional<Window> window, WindowOf(text, bound[1], bound[2]));
  size_t at = std::string_view::npos;
  if (window.has_value()) at = name[0] == 'r' ? window->text.rfind(part) : window->text.find(part);
  if (at != std::string_view::npos) return Value(window->start + NumCharacters(window->text.substr(0, at)));
  if (name.ends_with("index")) return absl::InvalidArgumentError("substring not found");
  return Value(int64_t{-1});
}

absl::StatusOr<Value> CountMethod(std::string_view text, Arguments arguments) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> bound,
                          Bind("count", std::move(arguments), {"sub", "start", "end"}, 1));
  STRATA_ASSIGN_OR_RETURN(const std::string_view part, TextOf(bound[0], "what is counted"));
  STRATA_ASSIGN_OR_RETURN(const std::optional<Window> window, WindowOf(text, bound[1], bound[2]));
  if (!window.has_value()) return Value(int64_t{0});
  if (part.empty()) return Value(NumCharacters(window->text) + 1);
  return Value(Split(window->text, part, -1, false).size() - 1);
}

// Zeros behind the sign.
absl::StatusOr<Value> ZeroFillMethod(std::string_view text, Arguments arguments) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> bound, Bind("zfill", std::move(arguments), {"width"}, 1));
  STRATA_ASSIGN_OR_RETURN(const int64_t width, IntegerOf(bound[0], "the width"));
  const auto size = static_cast<int64_t>(NumCharacters(text));
  if (width > static_cast<int64_t>(kMaxBytes)) return absl::InvalidArgumentError("a result that is too large");
  std::string out(text);
  const size_t sign = text.starts_with('+') || text.starts_with('-') ? 1 : 0;
  out.insert(sign, static_cast<size_t>(std::max<int64_t>(width - size, 0)), '0');
  return Value(std::move(out));
}

absl::StatusOr<Value> ReplaceMethod(std::string_view text, Arguments arguments) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> bound,
                          Bind("replace", std::move(arguments), {"old", "new", "count"}, 2));
  STRATA_ASSIGN_OR_RETURN(const std::string_view from, TextOf(bound[0], "what is replaced"));
  STRATA_ASSIGN_OR_RETURN(const std::string_view to, TextOf(bound[1], "the replacement"));
  STRATA_ASSIGN_OR_RETURN(const int64_t most, IntegerOr(bound[2], -1, "count"));
  auto replaced = Replace(text, from, to, most, kMaxBytes);
  if (!replaced.has_value()) return absl::InvalidArgumentError("a result that is too large");
  return Value(*std::move(replaced));
}

absl::StatusOr<Value> JoinMethod(std::string_view separator, Arguments arguments) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> bound, Bind("join", std::move(arguments), {"iterable"}, 1));
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(bound[0]));
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    STRATA_ASSIGN_OR_RETURN(const std::string_view item, TextOf(items[i], "an item of join"));
    if (out.size() + separator.size() + item.size() > kMaxBytes) {
      return absl::InvalidArgumentError("a result that is too large");
    }
    if (i > 0) out += separator;
    out += item;
  }
  return Value(std::move(out));
}

// "{}", "{0}", "{name}", without conversions.
absl::StatusOr<Value> FormatMethod(std::string_view format, const Arguments& arguments) {
  std::string out;
  size_t next = 0;
  for (size_t i = 0; i < format.size(); ++i) {
    const char c = format[i];
    if (c != '{' && c != '}') {
      out += c;
      continue;
    }
    if (i + 1 < format.size() && format[i + 1] == c) {
      out += format[i++];
      continue;
    }
    const size_t end = c == '{' ? format.find('}', i) : std::string_view::npos;
    if (end == std::string_view::npos) return absl::InvalidArgumentError("a single brace in a format string");
    const std::string field(format.substr(i + 1, end - i - 1));
    const Value* value = nullptr;
    size_t index = next;
    if (field.empty() || absl::SimpleAtoi(field, &index)) {
      if (index < arguments.positional.size()) value = &arguments.positional[index];
      ++next;
    }
    for (const auto& [name, named] : arguments.named) {
      if (name == field) value = &named;
    }
    if (value == nullptr) return absl::InvalidArgumentError(Cat("format() has no argument for {", field, "}"));
    STRATA_ASSIGN_OR_RETURN(const std::string text, ToText(*value));
    out += text;
    if (out.size() > kMaxBytes) return absl::InvalidArgumentError("a result that is too large");
    i = end;
  }
  return Value(std::move(out));
}

absl::StatusOr<Value> PlainTextMethod(std::string_view text, std::string_view name, Arguments arguments) {
  if (name == "splitlines") {
    STRATA_ASSIGN_OR_RETURN(const std::vector<Value> bound, Bind(name, std::move(arguments), {"keepends"}));
    return TextList(SplitLines(text, bound[0].Truth()));
  }
  STRATA_RETURN_IF_ERROR(Bind(name, std::move(arguments), {}).status());
  if (name == "upper") return Value(Upper(text));
  if (name == "lower") return Value(Lower(text));
  if (name == "title") return Value(Title(text));
  if (name == "capitalize") return Value(Capitalize(text));
  if (name == "isupper") return Value(IsUpper(text));
  if (name == "islower") return Value(IsLower(text));
  return Value(AllAre(name == "isalpha"   ? CharacterClass::kAlpha
                      : name == "isdigit" ? CharacterClass::kDigit
                      : name == "isspace" ? CharacterClass::kSpace
                                          : CharacterClass::kAlnum,
                      text));
}

absl::StatusOr<Value> TextMethod(std::string_view text, std::string_view name, Arguments arguments) {
  if (name.ends_with("strip")) return StripMethod(text, name, std::move(arguments));
  if (name.ends_with("split")) return SplitMethod(text, name, std::move(arguments));
  if (name.ends_with("partition")) return PartitionMethod(text, name, std::move(arguments));
  if (name.ends_with("swith")) return AffixMethod(text, name, std::move(arguments));
  if (name.starts_with("remove")) return RemoveAffixMethod(text, name, std::move(arguments));
  if (name.ends_with("find") || name.ends_with("index")) return FindMethod(text, name, std::move(arguments));
  if (name == "count") return CountMethod(text, std::move(arguments));
  if (name == "zfill") return ZeroFillMethod(text, std::move(arguments));
  if (name == "replace") return ReplaceMethod(text, std::move(arguments));
  if (name == "join") return JoinMethod(text, std::move(arguments));
  if (name == "format") return FormatMethod(text, arguments);
  return PlainTextMethod(text, name, std::move(arguments));
}

absl::StatusOr<Value> ListMethod(const Sequence& list, std::string_view name, Arguments arguments) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> bound, Bind(name, std::move(arguments), {"value"}, 1));
  const auto same = [&](const Value& item) { return item.Equals(bound[0]); };
  if (name == "count") return Value(static_cast<size_t>(std::count_if(list.items.begin(), list.items.end(), same)));
  const auto found = std::find_if(list.items.begin(), list.items.end(), same);
  if (found == list.items.end()) return absl::InvalidArgumentError("the value is not in the list");
  return Value(static_cast<size_t>(found - list.items.begin()));
}

absl::StatusOr<Value> DictMethod(const Value& dict, std::string_view name, Arguments arguments) {
  if (name == "get") {
    STRATA_ASSIGN_OR_RETURN(const std::vector<Value> bound, Bind(name, std::move(arguments), {"key", "default"}, 1));
    const Value* found = dict.Find(bound[0]);
    if (found != nullptr) return *found;
    return bound[1].is_undefined() && bound[1].why().empty() ? Value::MakeNone() : bound[1];
  }
  STRATA_RETURN_IF_ERROR(Bind(name, std::move(arguments), {}).status());
  if (name == "copy") return dict;
  std::vector<Value> items;
  for (const auto& [key, value] : dict.dict()->entries) {
    if (name == "items") {
      STRATA_ASSIGN_OR_RETURN(Value pair, Value::MakeList({key, value}, true));
      items.push_back(std::move(pair));
    } else {
      items.push_back(name == "keys" ? key : value);
    }
  }
  return Value::MakeView(std::move(items), name == "items"  ? "dict_items"
                                           : name == "keys" ? "dict_keys"
                                                            : "dict_values");
}

}  // namespace

bool HasMethod(const Value& value, std::string_view name) {
  if (value.text() != nullptr) return Has(kTextMethods, name);
  if (value.sequence() != nullptr) return Has(kListMethods, name) || IsUnsafe(value, name);
  return value.dict() != nullptr && (Has(kDictMethods, name) || IsUnsafe(value, name));
}

absl::StatusOr<Value> CallMethod(const Value& value, std::string_view name, Arguments arguments) {
  if (IsUnsafe(value, name)) {
    return absl::InvalidArgumentError(
        Cat("access to attribute '", name, "' of '", value.type(), "' object is unsafe."));
  }
  if (value.text() != nullptr) return TextMethod(*value.text(), name, std::move(arguments));
  if (value.sequence() != nullptr) return ListMethod(*value.sequence(), name, std::move(arguments));
  return DictMethod(value, name, std::move(arguments));
}

}  // namespace strata::jinja
