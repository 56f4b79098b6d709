#include <algorithm>
#include <array>
#include <utility>

#include "client/data/jinja/builtins.h"
#include "client/data/jinja/operators.h"
#include "client/data/jinja/text.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::jinja {
namespace {

bool IsSequence(const Value& v) {
  return v.is_undefined() || v.text() != nullptr || v.sequence() != nullptr || v.dict() != nullptr;
}

using Predicate = bool (*)(const Value& value);
constexpr auto kPredicates = std::to_array<std::pair<std::string_view, Predicate>>({
    {"boolean", [](const Value& v) { return v.is_bool(); }},
    {"callable", [](const Value& v) { return v.object() != nullptr && v.object()->callable(); }},
    {"defined", [](const Value& v) { return !v.is_undefined(); }},
    {"false", [](const Value& v) { return v.is_bool() && !v.Truth(); }},
    {"float", [](const Value& v) { return v.is_float(); }},
    {"integer", [](const Value& v) { return v.integer().has_value() && !v.is_bool(); }},
    {"iterable", [](const Value& v) { return IsSequence(v) || v.view() != nullptr; }},
    {"lower", [](const Value& v) { return v.text() != nullptr && IsLower(*v.text()); }},
    {"mapping", [](const Value& v) { return v.dict() != nullptr; }},
    {"none", [](const Value& v) { return v.is_none(); }},
    {"number", [](const Value& v) { return v.number().has_value(); }},
    {"sequence", IsSequence},
    {"string", [](const Value& v) { return v.text() != nullptr; }},
    {"true", [](const Value& v) { return v.is_bool() && v.Truth(); }},
    {"undefined", [](const Value& v) { return v.is_undefined(); }},
    {"upper", [](const Value& v) { return v.text() != nullptr && IsUpper(*v.text()); }},
});

// Tests that are an operator with another value.
constexpr auto kComparisons = std::to_array<std::pair<std::string_view, std::string_view>>({
    {"eq", "=="},
    {"equalto", "=="},
    {"==", "=="},
    {"ne", "!="},
    {"!=", "!="},
    {"lt", "<"},
    {"lessthan", "<"},
    {"<", "<"},
    {"le", "<="},
    {"<=", "<="},
    {"gt", ">"},
    {"greaterthan", ">"},
    {">", ">"},
    {"ge", ">="},
    {">=", ">="},
    {"in", "in"},
    {"sameas", "=="},
});

template <typename Table>
auto Find(const Table& table, std::string_view name) {
  return std::find_if(table.begin(), table.end(), [&](const auto& entry) { return entry.first == name; });
}

absl::StatusOr<bool> Divides(const Value& value, int64_t divisor) {
  STRATA_ASSIGN_OR_RETURN(const Value rest, BinaryOperator("%", value, Value(divisor)));
  return !rest.Truth();
}

}  // namespace

bool IsTest(std::string_view name) {
  return Find(kPredicates, name) != kPredicates.end() || Find(kComparisons, name) != kComparisons.end() ||
         name == "divisibleby" || name == "even" || name == "odd" || name == "filter" || name == "test";
}

absl::StatusOr<bool> ApplyTest(std::string_view name, const Value& value, Arguments arguments) {
  if (const auto found = Find(kPredicates, name); found != kPredicates.end()) {
    STRATA_RETURN_IF_ERROR(Bind(name, std::move(arguments), {}).status());
    return found->second(value);
  }
  if (const auto found = Find(kComparisons, name); found != kComparisons.end()) {
    STRATA_ASSIGN_OR_RETURN(const std::vector<Value> other, Bind(name, std::move(arguments), {"other"}, 1));
    if (name == "sameas" && value.type() != other[0].type()) return false;
    return CompareOperator(found->second, value, other[0]);
  }
  if (name == "divisibleby") {
    STRATA_ASSIGN_OR_RETURN(const std::vector<Value> bound, Bind(name, std::move(arguments), {"num"}, 1));
    STRATA_ASSIGN_OR_RETURN(const int64_t divisor, IntegerOf(bound[0], "num"));
    return Divides(value, divisor);
  }
  STRATA_RETURN_IF_ERROR(Bind(name, std::move(arguments), {}).status());
  if (name == "filter") return value.text() != nullptr && IsFilter(*value.text());
  if (name == "test") return value.text() != nullptr && IsTest(*value.text());
  if (name != "even" && name != "odd") return absl::InvalidArgumentError(Cat("no test named '", name, "'"));
  STRATA_ASSIGN_OR_RETURN(const bool even, Divides(value, 2));
  return even == (name == "even");
}

}  // namespace strata::jinja
