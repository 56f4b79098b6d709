// A module's factors as fp64 matrices, and what can be said of their product without forming it.
#ifndef STRATA_COMMON_LINALG_FACTORS_H_
#define STRATA_COMMON_LINALG_FACTORS_H_

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/adapter/adapter.h"
#include "common/linalg/linear_algebra.h"

namespace strata::linalg {

// Widens B to the columns of X, [out, rank], and A to the columns of Y, [in, rank]: B A = X Y^T. `x` and `y` have room
// for them. Errors of ToDouble.
absl::Status WidenFactors(const adapter::Factors& factors, double* x, double* y);

// The singular values of scaling * B A, descending, min(rank, out, in) of them. INVALID_ARGUMENT: factors or scaling
// that are not finite. INTERNAL: LAPACK did not converge.
absl::StatusOr<std::vector<double>> SingularValues(const adapter::Factors& factors);

}  // namespace strata::linalg

#endif  // STRATA_COMMON_LINALG_FACTORS_H_
