// Early return over absl::Status, and adding context where a border is crossed.
#ifndef STRATA_COMMON_STATUS_STATUS_MACROS_H_
#define STRATA_COMMON_STATUS_STATUS_MACROS_H_

#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace strata {

// The same code with "context: " before the message; an OK status stays as it is.
absl::Status Annotate(const absl::Status& status, std::string_view context);

}  // namespace strata

#define STRATA_CONCAT_INNER_(a, b) a##b
#define STRATA_CONCAT_(a, b) STRATA_CONCAT_INNER_(a, b)

// Returns the status of `expr` from the enclosing function unless it is OK.
#define STRATA_RETURN_IF_ERROR(expr)                                  \
  do {                                                                \
    if (absl::Status strata_status_ = (expr); !strata_status_.ok()) { \
      return strata_status_;                                          \
    }                                                                 \
  } while (false)

// STRATA_ASSIGN_OR_RETURN(auto value, Function()): assigns, or returns the error.
#define STRATA_ASSIGN_OR_RETURN(lhs, expr) \
  STRATA_ASSIGN_OR_RETURN_INNER_(STRATA_CONCAT_(strata_or_, __LINE__), lhs, expr)
#define STRATA_ASSIGN_OR_RETURN_INNER_(tmp, lhs, expr) \
  auto tmp = (expr);                                   \
  if (!tmp.ok()) return std::move(tmp).status();       \
  lhs = *std::move(tmp)

#endif  // STRATA_COMMON_STATUS_STATUS_MACROS_H_
