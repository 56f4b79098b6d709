// Matching what a call gives to what a function takes, and what a rendering may cost.
#ifndef STRATA_CLIENT_DATA_JINJA_ARGUMENTS_H_
#define STRATA_CLIENT_DATA_JINJA_ARGUMENTS_H_

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/data/jinja/value.h"

namespace strata::jinja {

// Counts down: a step costs kStepCost, a value that is made its size.
class Budget {
 public:
  static constexpr uint64_t kStepCost = 64;
  explicit Budget(uint64_t units) : left_(units) {}
  absl::Status Charge(uint64_t units);
  absl::Status Charge(const Value& made) { return Charge(kStepCost + made.size_bytes()); }

 private:
  uint64_t left_;
};

// The arguments in the order of `names`; undefined where one is not given. INVALID_ARGUMENT: too many, an unknown name,
// one twice, fewer than `num_required`. `function` is named in errors.
absl::StatusOr<std::vector<Value>> Bind(std::string_view function, Arguments arguments,
                                        std::initializer_list<std::string_view> names, size_t num_required = 0);

// INVALID_ARGUMENT: another type.
absl::StatusOr<std::string_view> TextOf(const Value& value, std::string_view what);
absl::StatusOr<int64_t> IntegerOf(const Value& value, std::string_view what);
absl::StatusOr<int64_t> IntegerOr(const Value& value, int64_t absent, std::string_view what);  // undefined or none

}  // namespace strata::jinja

#endif  // STRATA_CLIENT_DATA_JINJA_ARGUMENTS_H_
