#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "client/data/jinja/builtins.h"
#include "client/data/jinja/operators.h"
#include "client/data/jinja/text.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::jinja {
namespace {

// A filter of a text without arguments.
template <std::string (*function)(std::string_view)>
absl::StatusOr<Value> OfText(FilterCall call) {
  STRATA_RETURN_IF_ERROR(Bind(call.name, std::move(call.arguments), {}).status());
  STRATA_ASSIGN_OR_RETURN(const std::string text, ToText(call.input));
  return Value(function(text));
}

// Unlike str.title(): words begin behind white space, a hyphen or an opening bracket only.
std::string TitleOfWords(std::string_view text) {
  std::string out;
  bool begins = true;
  for (const std::string_view c : Characters(text)) {
    out += begins ? Upper(c) : Lower(c);
    begins = AllAre(CharacterClass::kSpace, c) || std::string_view("-({[<").find(c) != std::string_view::npos;
  }
  return out;
}

std::string Same(std::string_view text) { return std::string(text); }

absl::StatusOr<Value> Unchanged(FilterCall call) {
  STRATA_RETURN_IF_ERROR(Bind(call.name, std::move(call.arguments), {}).status());
  return call.input;
}

absl::StatusOr<Value> Trim(FilterCall call) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> arguments, Bind(call.name, std::move(call.arguments), {"chars"}));
  STRATA_ASSIGN_OR_RETURN(const std::string text, ToText(call.input));
  if (arguments[0].is_undefined() || arguments[0].is_none()) return Value(Strip(text, Side::kBoth));
  STRATA_ASSIGN_OR_RETURN(const std::string_view set, TextOf(arguments[0], "chars"));
  return Value(Strip(text, Side::kBoth, set));
}

absl::StatusOr<Value> ReplaceText(FilterCall call) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> arguments,
                          Bind(call.name, std::move(call.arguments), {"old", "new", "count"}, 2));
  STRATA_ASSIGN_OR_RETURN(const std::string text, ToText(call.input));
  STRATA_ASSIGN_OR_RETURN(const std::string from, ToText(arguments[0]));
  STRATA_ASSIGN_OR_RETURN(const std::string to, ToText(arguments[1]));
  STRATA_ASSIGN_OR_RETURN(const int64_t most, IntegerOr(arguments[2], -1, "count"));
  auto replaced = Replace(text, from, to, most, kMaxBytes);
  if (!replaced.has_value()) return absl::InvalidArgumentError("a result that is too large");
  return Value(*std::move(replaced));
}

// tojson's indent: none, a number of spaces or a text.
absl::Status ReadIndent(const Value& indent, JsonStyle& style) {
  if (indent.is_undefined() || indent.is_none()) return absl::OkStatus();
  if (indent.text() != nullptr) {
    style.indent = *indent.text();
  } else {
    STRATA_ASSIGN_OR_RETURN(const int64_t width, IntegerOf(indent, "indent"));
    style.indent = std::string(static_cast<size_t>(std::clamp<int64_t>(width, 0, 1000)), ' ');
  }
  style.item_separator = ",";
  return absl::OkStatus();
}

absl::StatusOr<Value> ToJsonFilter(FilterCall call) {
  STRATA_ASSIGN_OR_RETURN(
      const std::vector<Value> arguments,
      Bind(call.name, std::move(call.arguments), {"ensure_ascii", "indent", "separators", "sort_keys"}));
  JsonStyle style;
  style.ascii = arguments[0].Truth();
  style.sort_keys = arguments[3].Truth();
  STRATA_RETURN_IF_ERROR(ReadIndent(arguments[1], style));
  if (arguments[2].Truth()) {
    const Sequence* pair = arguments[2].sequence();
    if (pair == nullptr || pair->items.size() != 2) {
      return absl::InvalidArgumentError("tojson() expects a pair of separators");
    }
    STRATA_ASSIGN_OR_RETURN(style.item_separator, TextOf(pair->items[0], "a separator"));
    STRATA_ASSIGN_OR_RETURN(style.key_separator, TextOf(pair->items[1], "a separator"));
  }
  if (call.input.is_undefined()) return absl::InvalidArgumentError("Object of type Undefined is not JSON serializable");
  STRATA_ASSIGN_OR_RETURN(std::string text, ToJson(call.input, style));
  return Value(std::move(text));
}

absl::StatusOr<Value> Indent(FilterCall call) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> arguments,
                          Bind(call.name, std::move(call.arguments), {"width", "first", "blank"}));
  STRATA_ASSIGN_OR_RETURN(const std::string text, ToText(call.input));
  std::string indent;
  if (arguments[0].text() != nullptr) {
    indent = *arguments[0].text();
  } else {
    STRATA_ASSIGN_OR_RETURN(const int64_t width, IntegerOr(arguments[0], 4, "width"));
    indent = std::string(static_cast<size_t>(std::clamp<int64_t>(width, 0, 1000)), ' ');
  }
  const std::string source = text + "\n";
  std::string out;
  bool is_first = true;
  for (const std::string_view line : SplitLines(source, false)) {
    if (!is_first) out += '\n';
    if (is_first ? arguments[1].Truth() : !line.empty() || arguments[2].Truth()) out += indent;
    out += line;
    is_first = false;
    if (out.size() > kMaxBytes) return absl::InvalidArgumentError("a result that is too large");
  }
  return Value(std::move(out));
}

absl::StatusOr<Value> Default(FilterCall call) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> arguments,
                          Bind(call.name, std::move(call.arguments), {"default_value", "boolean"}));
  const bool absent = call.input.is_undefined() || (arguments[1].Truth() && !call.input.Truth());
  if (!absent) return call.input;
  return arguments[0].is_undefined() ? Value("") : arguments[0];
}

absl::StatusOr<Value> Length(FilterCall call) {
  STRATA_RETURN_IF_ERROR(Bind(call.name, std::move(call.arguments), {}).status());
  STRATA_ASSIGN_OR_RETURN(const size_t length, LengthOf(call.input));
  return Value(length);
}

// int(text, base): a sign, the base's prefix, digits with underscores between them; of base 0 as the prefix says.
std::optional<int64_t> ParseInteger(std::string_view text, int64_t base) {
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  const auto prefixed = [&](char letter) {
    return text.size() > 1 && text[0] == '0' && absl::ascii_tolower(static_cast<unsigned char>(text[1])) == letter;
  };
  bool bare = base == 0;
  for (const auto& [letter, its_base] : {std::pair('x', 16), {'o', 8}, {'b', 2}}) {
    if (!prefixed(letter) || (base != 0 && base != its_base)) continue;
    base = its_base;
    text.remove_prefix(2);
    if (text.starts_with('_')) text.remove_prefix(1);
    bare = false;
    break;
  }
  if (base == 0) base = 10;
  if (base < 2 || base > 36 || text.empty() || text.front() == '-' || text.front() == '_' || text.back() == '_')
    return std::nullopt;
  // Zeros before others have no meaning without a base.
  if (bare && text[0] == '0' && text.find_first_not_of("0_") != std::string_view::npos) return std::nullopt;
  std::string digits;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') digits += text[i];
    if (text[i] == '_' && text[i - 1] == '_') return std::nullopt;
  }
  if (negative) digits.insert(0, 1, '-');
  int64_t value = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, static_cast<int>(base));
  const bool whole = error == std::errc() && end == digits.data() + digits.size();
  return whole ? std::optional(value) : std::nullopt;
}

// float(text).
bool ParseFloat(const std::string& text, double& number) {
  return text.find_first_of("xX") == std::string::npos && absl::SimpleAtod(text, &number);
}

absl::StatusOr<Value> ToInteger(FilterCall call) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> arguments,
                          Bind(call.name, std::move(call.arguments), {"default", "base"}));
  STRATA_ASSIGN_OR_RETURN(const int64_t base, IntegerOr(arguments[1], 10, "base"));
  const Value absent = arguments[0].is_undefined() ? Value(int64_t{0}) : arguments[0];
  if (call.input.integer().has_value()) return Value(*call.input.integer());
  double number = call.input.number().value_or(0);
  if (call.input.text() != nullptr) {
    const std::string text(Strip(*call.input.text(), Side::kBoth));
    if (const auto integer = ParseInteger(text, base)) return Value(*integer);
    if (!ParseFloat(text, number)) return absent;
  } else if (!call.input.number().has_value()) {
    return absent;
  }
  return std::fabs(number) < 0x1p63 ? Value(static_cast<int64_t>(number)) : absent;
}

absl::StatusOr<Value> ToFloat(FilterCall call) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> arguments, Bind(call.name, std::move(call.arguments), {"default"}));
  if (call.input.number().has_value()) return Value(*call.input.number());
  double number = 0;
  if (call.input.text() != nullptr && ParseFloat(*call.input.text(), number)) return Value(number);
  return arguments[0].is_undefined() ? Value(0.0) : arguments[0];
}

absl::StatusOr<Value> Absolute(FilterCall call) {
  STRATA_RETURN_IF_ERROR(Bind(call.name, std::move(call.arguments), {}).status());
  if (!call.input.number().has_value()) return absl::InvalidArgumentError(Cat("abs() of a ", call.input.type()));
  return *call.input.number() < 0 ? Negate(call.input) : call.input;
}

// To a multiple of 10 ** -precision, halves to the even one.
absl::StatusOr<Value> RoundedInteger(int64_t value, int64_t precision) {
  if (precision >= 0) return Value(value);
  int64_t unit = 1;
  for (int64_t i = precision; i < 0; ++i) {
    if (__builtin_mul_overflow(unit, int64_t{10}, &unit)) return Value(int64_t{0});
  }
  const int64_t rest = value % unit, down = value - rest;
  const int64_t twice_over = std::abs(rest) - (unit - std::abs(rest));
  const bool away = twice_over > 0 || (twice_over == 0 && down / unit % 2 != 0);
  int64_t rounded = down;
  if (away && __builtin_add_overflow(down, rest < 0 ? -unit : unit, &rounded)) {
    return absl::InvalidArgumentError("a result that is too large");
  }
  return Value(rounded);
}

// By what a number is exactly, not by its product with a power of ten: 2.675 is less than it looks.
absl::StatusOr<Value> RoundedAsWritten(double value, int64_t precision) {
  constexpr int64_t kAllDigits = 323;
  double rounded = value;
  if (std::isfinite(value) && precision < kAllDigits &&
      !absl::SimpleAtod(absl::StrFormat("%.*f", static_cast<int>(precision), value), &rounded)) {
    return absl::InternalError("a number does not read back");
  }
  return Value(rounded);
}

absl::StatusOr<Value> Round(FilterCall call) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> arguments,
                          Bind(call.name, std::move(call.arguments), {"precision", "method"}));
  STRATA_ASSIGN_OR_RETURN(const int64_t precision, IntegerOr(arguments[0], 0, "precision"));
  const std::string method = arguments[1].text() == nullptr ? "common" : *arguments[1].text();
  if (!call.input.number().has_value()) return absl::InvalidArgumentError(Cat("round() of a ", call.input.type()));
  if (method != "common" && method != "ceil" && method != "floor") {
    return absl::InvalidArgumentError("method must be common, ceil or floor");
  }
  if (method == "common" && call.input.integer().has_value()) return RoundedInteger(*call.input.integer(), precision);
  if (method == "common" && precision >= 0) return RoundedAsWritten(*call.input.number(), precision);
  const double scale = std::pow(10.0, static_cast<double>(precision)), scaled = *call.input.number() * scale;
  return Value((method == "ceil"    ? std::ceil(scaled)
                : method == "floor" ? std::floor(scaled)
                                    : std::nearbyint(scaled)) /
               scale);
}

absl::StatusOr<Value> Format(FilterCall call) {  // NOLINT(performance-unnecessary-value-param): as all filters
  STRATA_ASSIGN_OR_RETURN(const std::string format, ToText(call.input));
  STRATA_ASSIGN_OR_RETURN(std::string text, FormatPercent(format, call.arguments.positional));
  return Value(std::move(text));
}

const FilterFunction* FindFilter(std::string_view name) {
  for (const FilterTable* table : {&TextFilters(), &SequenceFilters()}) {
    for (const auto& [known, function] : *table) {
      if (known == name) return &function;
    }
  }
  return nullptr;
}

}  // namespace

const FilterTable& TextFilters() {
  static const FilterTable table = {
      {"abs", Absolute},        {"capitalize", OfText<Capitalize>},
      {"count", Length},        {"d", Default},
      {"default", Default},     {"float", ToFloat},
      {"format", Format},       {"indent", Indent},
      {"int", ToInteger},       {"length", Length},
      {"lower", OfText<Lower>}, {"replace", ReplaceText},
      {"round", Round},         {"safe", Unchanged},
      {"string", OfText<Same>}, {"title", OfText<TitleOfWords>},
      {"tojson", ToJsonFilter}, {"trim", Trim},
      {"upper", OfText<Upper>},
  };
  return table;
}

bool IsFilter(std::string_view name) { return FindFilter(name) != nullptr; }

absl::StatusOr<Value> ApplyFilter(FilterCall call) {
  const FilterFunction* function = FindFilter(call.name);
  if (function == nullptr) return absl::InvalidArgumentError(Cat("no filter named '", call.name, "'"));
  Budget& budget = call.budget;
  STRATA_RETURN_IF_ERROR(budget.Charge(call.input));
  STRATA_ASSIGN_OR_RETURN(Value value, (*function)(std::move(call)));
  STRATA_RETURN_IF_ERROR(budget.Charge(value));
  return value;
}

}  // namespace strata::jinja
