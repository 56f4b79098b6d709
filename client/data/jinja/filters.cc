#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/numbers.h"
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

absl::StatusOr<Value> ToInteger(FilterCall call) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> arguments, Bind(call.name, std::move(call.arguments), {"default"}));
  const Value absent = arguments[0].is_undefined() ? Value(int64_t{0}) : arguments[0];
  if (call.input.integer().has_value()) return Value(*call.input.integer());
  int64_t integer = 0;
  double number = call.input.number().value_or(0);
  if (call.input.text() != nullptr) {
    const std::string text(Strip(*call.input.text(), Side::kBoth));
    if (absl::SimpleAtoi(text, &integer)) return Value(integer);
    if (!absl::SimpleAtod(text, &number)) return absent;
  } else if (!call.input.number().has_value()) {
    return absent;
  }
  return std::fabs(number) < 0x1p63 ? Value(static_cast<int64_t>(number)) : absent;
}

absl::StatusOr<Value> ToFloat(FilterCall call) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> arguments, Bind(call.name, std::move(call.arguments), {"default"}));
  if (call.input.number().has_value()) return Value(*call.input.number());
  double number = 0;
  if (call.input.text() != nullptr && absl::SimpleAtod(*call.input.text(), &number)) return Value(number);
  return arguments[0].is_undefined() ? Value(0.0) : arguments[0];
}

absl::StatusOr<Value> Absolute(FilterCall call) {
  STRATA_RETURN_IF_ERROR(Bind(call.name, std::move(call.arguments), {}).status());
  if (!call.input.number().has_value()) return absl::InvalidArgumentError(Cat("abs() of a ", call.input.type()));
  return *call.input.number() < 0 ? Negate(call.input) : call.input;
}

absl::StatusOr<Value> Round(FilterCall call) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> arguments,
                          Bind(call.name, std::move(call.arguments), {"precision", "method"}));
  STRATA_ASSIGN_OR_RETURN(const int64_t precision, IntegerOr(arguments[0], 0, "precision"));
  const std::string method = arguments[1].text() == nullptr ? "common" : *arguments[1].text();
  if (!call.input.number().has_value()) return absl::InvalidArgumentError(Cat("round() of a ", call.input.type()));
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
