// GoogleTest matchers for absl::Status and absl::StatusOr; Debian's abseil brings none.
#ifndef STRATA_TESTS_TESTING_STATUS_MATCHERS_H_
#define STRATA_TESTS_TESTING_STATUS_MATCHERS_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace strata::testing {

inline const absl::Status& GetStatus(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& GetStatus(const absl::StatusOr<T>& result) {
  return result.status();
}

// EXPECT_THAT(Call(), IsOk());
MATCHER(IsOk, negation ? "is not OK" : "is OK") {
  *result_listener << GetStatus(arg).ToString();
  return GetStatus(arg).ok();
}

// EXPECT_THAT(Call(), StatusIs(absl::StatusCode::kNotFound, HasSubstr("model.json")));
MATCHER_P2(StatusIs, code, message, "has code " + absl::StatusCodeToString(code) + " and a fitting message") {
  *result_listener << GetStatus(arg).ToString();
  return GetStatus(arg).code() == code &&
         ::testing::ExplainMatchResult(message, std::string(GetStatus(arg).message()), result_listener);
}
MATCHER_P(StatusIs, code, "has code " + absl::StatusCodeToString(code)) {
  *result_listener << GetStatus(arg).ToString();
  return GetStatus(arg).code() == code;
}

}  // namespace strata::testing

// ASSERT_OK_AND_ASSIGN(const auto value, Call());
#define ASSERT_OK_AND_ASSIGN(lhs, expr) ASSERT_OK_AND_ASSIGN_(STRATA_TEST_CONCAT_(test_or_, __LINE__), lhs, expr)
#define ASSERT_OK_AND_ASSIGN_(tmp, lhs, expr)  \
  auto tmp = (expr);                           \
  ASSERT_THAT(tmp, ::strata::testing::IsOk()); \
  lhs = *std::move(tmp)
#define STRATA_TEST_CONCAT_INNER_(a, b) a##b
#define STRATA_TEST_CONCAT_(a, b) STRATA_TEST_CONCAT_INNER_(a, b)
#define EXPECT_OK(expr) EXPECT_THAT(expr, ::strata::testing::IsOk())
#define ASSERT_OK(expr) ASSERT_THAT(expr, ::strata::testing::IsOk())

#endif  // STRATA_TESTS_TESTING_STATUS_MATCHERS_H_
