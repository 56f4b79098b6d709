#include <algorithm>
#include <utility>

#include "client/data/jinja/builtins.h"
#include "client/data/jinja/operators.h"
#include "client/data/jinja/text.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::jinja {
namespace {

constexpr std::string_view kGenerator = "generator";

// What a filter compares: the item, or what the path `attribute` of it leads to; texts without regard to case unless
// `case_sensitive`.
absl::StatusOr<Value> KeyOf(const Value& item, const Value& attribute, bool case_sensitive,
                            const Value& absent = Value()) {
  Value key = item;
  if (attribute.integer().has_value()) {
    STRATA_ASSIGN_OR_RETURN(key, GetItem(item, attribute));
  } else if (attribute.text() != nullptr) {
    STRATA_ASSIGN_OR_RETURN(key, GetPath(item, *attribute.text(), absent));
  }
  if (!case_sensitive && key.text() != nullptr) return Value(Lower(*key.text()));
  return key;
}

bool IsOneByOne(const Value& value) { return value.view() != nullptr && !value.view()->sized(); }

absl::StatusOr<Value> First(FilterCall call) {
  STRATA_RETURN_IF_ERROR(Bind(call.name, std::move(call.arguments), {}).status());
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(call.input));
  return items.empty() ? Value::MakeUndefined("No first item, sequence was empty.") : items.front();
}

absl::StatusOr<Value> Last(FilterCall call) {
  STRATA_RETURN_IF_ERROR(Bind(call.name, std::move(call.arguments), {}).status());
  if (IsOneByOne(call.input))
    return absl::InvalidArgumentError(Cat("'", call.input.type(), "' object is not reversible"));
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(call.input));
  return items.empty() ? Value::MakeUndefined("No last item, sequence was empty.") : items.back();
}

absl::StatusOr<Value> ToList(FilterCall call) {
  STRATA_RETURN_IF_ERROR(Bind(call.name, std::move(call.arguments), {}).status());
  STRATA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(call.input));
  return Value::MakeList(std::move(items));
}

absl::StatusOr<Value> Reverse(FilterCall call) {
  STRATA_RETURN_IF_ERROR(Bind(call.name, std::move(call.arguments), {}).status());
  STRATA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(call.input));
  std::reverse(items.begin(), items.end());
  if (IsOneByOne(call.input) || call.input.is_undefined()) return Value::MakeList(std::move(items));
  if (call.input.text() == nullptr) return Value::MakeView(std::move(items), "list_reverseiterator");
  std::string text;
  for (const Value& character : items) text += *character.text();
  return Value(std::move(text));
}

absl::StatusOr<Value> Join(FilterCall call) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> arguments,
                          Bind(call.name, std::move(call.arguments), {"d", "attribute"}));
  STRATA_ASSIGN_OR_RETURN(const std::string separator, ToText(arguments[0]));
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(call.input));
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    STRATA_ASSIGN_OR_RETURN(const Value item, KeyOf(items[i], arguments[1], true));
    STRATA_ASSIGN_OR_RETURN(const std::string text, ToText(item));
    if (out.size() + separator.size() + text.size() > kMaxBytes) {
      return absl::InvalidArgumentError("a result that is too large");
    }
    if (i > 0) out += separator;
    out += text;
  }
  return Value(std::move(out));
}

absl::StatusOr<Value> Items(FilterCall call) {
  STRATA_RETURN_IF_ERROR(Bind(call.name, std::move(call.arguments), {}).status());
  if (call.input.is_undefined()) return Value::MakeView({}, kGenerator);
  if (call.input.dict() == nullptr) return absl::InvalidArgumentError("Can only get item pairs from a mapping.");
  STRATA_ASSIGN_OR_RETURN(const Value items, CallMethod(call.input, "items", {}));
  return Value::MakeView(items.view()->items, kGenerator);
}

// Items in order of their keys, stably. INVALID_ARGUMENT: keys that cannot be compared.
absl::StatusOr<std::vector<Value>> Sorted(std::vector<std::pair<Value, Value>> keyed, bool reverse) {
  absl::Status status;
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    const auto less = reverse ? CompareOperator("<", b.first, a.first) : CompareOperator("<", a.first, b.first);
    if (!less.ok()) status = less.status();
    return less.ok() && *less;
  });
  STRATA_RETURN_IF_ERROR(status);
  std::vector<Value> items;
  items.reserve(keyed.size());
  for (auto& [key, item] : keyed) items.push_back(std::move(item));
  return items;
}

absl::StatusOr<Value> Sort(FilterCall call) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> arguments,
                          Bind(call.name, std::move(call.arguments), {"reverse", "case_sensitive", "attribute"}));
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(call.input));
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : items) {
    STRATA_ASSIGN_OR_RETURN(Value key, KeyOf(item, arguments[2], arguments[1].Truth()));
    keyed.emplace_back(std::move(key), item);
  }
  STRATA_ASSIGN_OR_RETURN(std::vector<Value> sorted, Sorted(std::move(keyed), arguments[0].Truth()));
  return Value::MakeList(std::move(sorted));
}

absl::StatusOr<Value> DictSort(FilterCall call) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> arguments,
                          Bind(call.name, std::move(call.arguments), {"case_sensitive", "by", "reverse"}));
  if (call.input.dict() == nullptr) return absl::InvalidArgumentError(Cat("dictsort() of a ", call.input.type()));
  const bool by_value = arguments[1].text() != nullptr && *arguments[1].text() == "value";
  std::vector<std::pair<Value, Value>> keyed;
  for (const auto& [key, item] : call.input.dict()->entries) {
    STRATA_ASSIGN_OR_RETURN(Value sort_key, KeyOf(by_value ? item : key, Value(), arguments[0].Truth()));
    STRATA_ASSIGN_OR_RETURN(Value pair, Value::MakeList({key, item}, true));
    keyed.emplace_back(std::move(sort_key), std::move(pair));
  }
  STRATA_ASSIGN_OR_RETURN(std::vector<Value> sorted, Sorted(std::move(keyed), arguments[2].Truth()));
  return Value::MakeList(std::move(sorted));
}

absl::StatusOr<Value> Unique(FilterCall call) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> arguments,
                          Bind(call.name, std::move(call.arguments), {"case_sensitive", "attribute"}));
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(call.input));
  std::vector<Value> seen, kept;
  for (const Value& item : items) {
    STRATA_ASSIGN_OR_RETURN(const Value key, KeyOf(item, arguments[1], arguments[0].Truth()));
    STRATA_RETURN_IF_ERROR(call.budget.Charge(seen.size()));
    if (std::any_of(seen.begin(), seen.end(), [&](const Value& other) { return other.Equals(key); })) continue;
    seen.push_back(key);
    kept.push_back(item);
  }
  return Value::MakeView(std::move(kept), kGenerator);
}

absl::StatusOr<Value> Sum(FilterCall call) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> arguments,
                          Bind(call.name, std::move(call.arguments), {"attribute", "start"}));
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(call.input));
  Value sum = arguments[1].is_undefined() ? Value(int64_t{0}) : arguments[1];
  for (const Value& item : items) {
    STRATA_ASSIGN_OR_RETURN(const Value term, KeyOf(item, arguments[0], true));
    STRATA_ASSIGN_OR_RETURN(sum, BinaryOperator("+", sum, term));
    STRATA_RETURN_IF_ERROR(call.budget.Charge(sum));
  }
  return sum;
}

// min and max.
absl::StatusOr<Value> Extreme(FilterCall call) {
  const std::string_view op = call.name == "min" ? "<" : ">";
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> arguments,
                          Bind(call.name, std::move(call.arguments), {"case_sensitive", "attribute"}));
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(call.input));
  Value best = Value::MakeUndefined("No aggregated item, sequence was empty."), best_key;
  for (const Value& item : items) {
    STRATA_ASSIGN_OR_RETURN(Value key, KeyOf(item, arguments[1], arguments[0].Truth()));
    bool better = best_key.is_undefined();
    if (!better) {
      STRATA_ASSIGN_OR_RETURN(better, CompareOperator(op, key, best_key));
    }
    if (!better) continue;
    best = item;
    best_key = std::move(key);
  }
  return best;
}

// Takes the first positional argument off. INVALID_ARGUMENT: there is none, or no text.
absl::StatusOr<std::string> TakeName(std::string_view filter, Arguments& arguments) {
  if (arguments.positional.empty() || arguments.positional[0].text() == nullptr) {
    return absl::InvalidArgumentError(Cat(filter, " expects a name as its first argument"));
  }
  std::string name = *arguments.positional[0].text();
  arguments.positional.erase(arguments.positional.begin());
  return name;
}

absl::StatusOr<Value> MapAttribute(FilterCall call) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> arguments,
                          Bind(call.name, std::move(call.arguments), {"attribute", "default"}, 1));
  STRATA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(call.input));
  for (Value& item : items) {
    STRATA_ASSIGN_OR_RETURN(item, KeyOf(item, arguments[0], true, arguments[1]));
  }
  return Value::MakeView(std::move(items), kGenerator);
}

absl::StatusOr<Value> Map(FilterCall call) {
  if (call.arguments.positional.empty()) return MapAttribute(std::move(call));
  STRATA_ASSIGN_OR_RETURN(const std::string filter, TakeName(call.name, call.arguments));
  STRATA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(call.input));
  for (Value& item : items) {
    const Value input = item;
    STRATA_ASSIGN_OR_RETURN(item, ApplyFilter({call.budget, filter, input, call.arguments}));
  }
  return Value::MakeView(std::move(items), kGenerator);
}

// select, reject, selectattr, rejectattr.
absl::StatusOr<Value> Select(FilterCall call) {
  const bool by_attribute = call.name.ends_with("attr"), keep = call.name.starts_with("select");
  std::string attribute, test;
  if (by_attribute) {
    STRATA_ASSIGN_OR_RETURN(attribute, TakeName(call.name, call.arguments));
  }
  if (!call.arguments.positional.empty()) {
    STRATA_ASSIGN_OR_RETURN(test, TakeName(call.name, call.arguments));
  }
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(call.input));
  std::vector<Value> kept;
  for (const Value& item : items) {
    STRATA_RETURN_IF_ERROR(call.budget.Charge(Budget::kStepCost));
    Value subject = item;
    if (by_attribute) {
      STRATA_ASSIGN_OR_RETURN(subject, GetPath(item, attribute));
    }
    bool passes = subject.Truth();
    if (!test.empty()) {
      STRATA_ASSIGN_OR_RETURN(passes, ApplyTest(test, subject, call.arguments));
    }
    if (passes == keep) kept.push_back(item);
  }
  return Value::MakeView(std::move(kept), kGenerator);
}

}  // namespace

const FilterTable& SequenceFilters() {
  static const FilterTable table = {
      {"dictsort", DictSort}, {"first", First},     {"items", Items},   {"join", Join},         {"last", Last},
      {"list", ToList},       {"map", Map},         {"max", Extreme},   {"min", Extreme},       {"reject", Select},
      {"rejectattr", Select}, {"reverse", Reverse}, {"select", Select}, {"selectattr", Select}, {"sort", Sort},
      {"sum", Sum},           {"unique", Unique},
  };
  return table;
}

}  // namespace strata::jinja
