// The sum of one module over the members, and the ways to write it down.
#ifndef STRATA_SERVER_AGGREGATE_MODULE_SUM_H_
#define STRATA_SERVER_AGGREGATE_MODULE_SUM_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/linalg/linear_algebra.h"
#include "server/aggregate/aggregate.h"

namespace strata::aggregate {

using linalg::Matrix;

// One member's factors of the module, with the weight that they enter the sum with (renormalised where asked for,
// without eta).
struct Part {
  std::string site;
  double weight = 1;
  const adapter::Factors* factors = nullptr;
};

// G = 2^(2 exponent) X Y^T: columns in the order of the parts, without those that are zero, balanced (||x_i|| = ||y_i||
// up to a factor of two, and at most about 1), so that nothing overflows on the way whatever the sizes are.
struct Stack {
  Matrix x, y;  // [out, columns], [in, columns]
  int exponent = 0;
  double gauge = 0;  // sum_i ||x_i|| ||y_i||: what rounding errors are relative to
};
// INVALID_ARGUMENT: an element that is not finite, naming site and tensor.
absl::StatusOr<Stack> BuildStack(const std::vector<Part>& parts, double scale);

// The truncated SVD: G ~ 2^(2 exponent) U diag(s) V^T.
struct Triplets {
  Matrix u, v;  // [out, rank], [in, rank]; the largest entry of each column of u (the first of equals) is positive
  std::vector<double> s;  // all of them; the first `rank` are kept
  int64_t rank = 0;
  int exponent = 0;
};
absl::StatusOr<Triplets> FactorStack(Stack stack, const Compression& compression);

// A module of the result.
struct ModuleSum {
  std::vector<float> a, b;  // [rank, in], [out, rank]
  ModuleResult result;
  double averaged_distance = 0;  // ||mean_b mean_a - G||, where asked for
};
struct ModuleRequest {
  std::string module;
  int64_t out = 0, in = 0;
  std::vector<Part> parts;  // sorted by site
};
// INVALID_ARGUMENT: not finite, or out of fp32's range when written down. INTERNAL: LAPACK failed.
absl::StatusOr<ModuleSum> SumModule(const ModuleRequest& request, const AggregateOptions& options);

}  // namespace strata::aggregate

#endif  // STRATA_SERVER_AGGREGATE_MODULE_SUM_H_
