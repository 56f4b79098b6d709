// Python's operators, subscripts and iteration. INVALID_ARGUMENT, everywhere: what Python raises an exception for.
#ifndef STRATA_CLIENT_DATA_JINJA_OPERATORS_H_
#define STRATA_CLIENT_DATA_JINJA_OPERATORS_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "client/data/jinja/value.h"

namespace strata::jinja {

absl::StatusOr<Value> BinaryOperator(std::string_view op, const Value& a, const Value& b);  // + - * / // % **
absl::StatusOr<Value> Negate(const Value& value);
absl::StatusOr<bool> CompareOperator(std::string_view op, const Value& a, const Value& b);  // == < in, not in, ..

// Characters of a text, items of a list, keys of a dict; nothing of an undefined value.
absl::StatusOr<std::vector<Value>> Iterate(const Value& value);
absl::StatusOr<size_t> LengthOf(const Value& value);

// value[key]; undefined where there is nothing.
absl::StatusOr<Value> GetItem(const Value& value, const Value& key);
absl::StatusOr<Value> GetSlice(const Value& value, const Value& start, const Value& stop, const Value& step);
// value.name without methods; undefined where there is nothing.
absl::StatusOr<Value> GetAttribute(const Value& value, std::string_view name);
// A dotted path of names and numbers; `absent`, where it is defined, takes the place of what is undefined on the way.
absl::StatusOr<Value> GetPath(const Value& value, std::string_view path, const Value& absent = Value());

// '%'-formatting. INVALID_ARGUMENT: also a conversion other than %s %r %d %i %f %%.
absl::StatusOr<std::string> FormatPercent(std::string_view format, const std::vector<Value>& arguments);

}  // namespace strata::jinja

#endif  // STRATA_CLIENT_DATA_JINJA_OPERATORS_H_
