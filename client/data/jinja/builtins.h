// The filters, tests, methods and functions that templates may use.
#ifndef STRATA_CLIENT_DATA_JINJA_BUILTINS_H_
#define STRATA_CLIENT_DATA_JINJA_BUILTINS_H_

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/data/jinja/arguments.h"
#include "client/data/jinja/value.h"

namespace strata::jinja {

// What a filter gets.
struct FilterCall {
  Budget& budget;
  std::string_view name;
  const Value& input;
  Arguments arguments;
};
using FilterFunction = absl::StatusOr<Value> (*)(FilterCall call);
using FilterTable = std::vector<std::pair<std::string_view, FilterFunction>>;
const FilterTable& TextFilters();      // filters.cc
const FilterTable& SequenceFilters();  // filters_sequence.cc

bool IsFilter(std::string_view name);
bool IsTest(std::string_view name);
// INVALID_ARGUMENT: what Jinja raises an exception for, or a name that is not known. RESOURCE_EXHAUSTED: the budget.
absl::StatusOr<Value> ApplyFilter(FilterCall call);
absl::StatusOr<bool> ApplyTest(std::string_view name, const Value& value, Arguments arguments);

// Methods of texts, lists, dicts. Those that would change their object are refused, as in a sandbox.
bool HasMethod(const Value& value, std::string_view name);
absl::StatusOr<Value> CallMethod(const Value& value, std::string_view name, Arguments arguments);

// Owns what a rendering makes besides data.
using ObjectPool = std::vector<std::unique_ptr<Object>>;
struct Moment {
  absl::Time time;
  absl::TimeZone zone;
};
// range, dict, namespace, raise_exception and, with `now`, strftime_now.
std::vector<std::pair<std::string, Value>> Globals(ObjectPool& pool, std::optional<Moment> now);

}  // namespace strata::jinja

#endif  // STRATA_CLIENT_DATA_JINJA_BUILTINS_H_
