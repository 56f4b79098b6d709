#include "client/data/jinja/arguments.h"

#include <algorithm>
#include <utility>

#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::jinja {

absl::Status Budget::Charge(uint64_t units) {
  if (units > left_) return absl::ResourceExhaustedError("the template needs more time or memory than a chat may take");
  left_ -= units;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Value>> Bind(std::string_view function, Arguments arguments,
                                        std::initializer_list<std::string_view> names, size_t num_required) {
  if (arguments.positional.size() > names.size()) {
    return absl::InvalidArgumentError(
        Cat(function, "() takes at most ", names.size(), " arguments, ", arguments.positional.size(), " are given"));
  }
  std::vector<Value> bound = std::move(arguments.positional);
  const size_t num_positional = bound.size();
  bound.resize(names.size());
  std::vector<bool> given(names.size());
  std::fill_n(given.begin(), num_positional, true);
  for (auto& [name, value] : arguments.named) {
    const auto found = std::find(names.begin(), names.end(), name);
    const auto at = static_cast<size_t>(found - names.begin());
    if (found == names.end() || given[at]) {
      return absl::InvalidArgumentError(
          Cat(function, "() got ", found == names.end() ? "an unexpected" : "twice the", " argument '", name, "'"));
    }
    given[at] = true;
    bound[at] = std::move(value);
  }
  for (size_t i = 0; i < num_required; ++i) {
    if (!given[i])
      return absl::InvalidArgumentError(Cat(function, "() needs the argument '", *(names.begin() + i), "'"));
  }
  return bound;
}

absl::StatusOr<std::string_view> TextOf(const Value& value, std::string_view what) {
  if (value.text() != nullptr) return std::string_view(*value.text());
  if (value.is_undefined()) return absl::InvalidArgumentError(value.why());
  return absl::InvalidArgumentError(Cat(what, " must be str, not ", value.type()));
}

absl::StatusOr<int64_t> IntegerOf(const Value& value, std::string_view what) {
  if (const auto integer = value.integer()) return *integer;
  if (value.is_undefined()) return absl::InvalidArgumentError(value.why());
  return absl::InvalidArgumentError(Cat(what, " must be int, not ", value.type()));
}

absl::StatusOr<int64_t> IntegerOr(const Value& value, int64_t absent, std::string_view what) {
  if (value.is_undefined() || value.is_none()) return absent;
  return IntegerOf(value, what);
}

}  // namespace strata::jinja
