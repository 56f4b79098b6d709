#include "common/linalg/factors.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/format/tensor.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::linalg {
namespace {

bool AllFinite(const Matrix& m) {
  return std::all_of(m.data(), m.data() + m.rows() * m.cols(), [](double value) { return std::isfinite(value); });
}

}  // namespace

absl::Status WidenFactors(const adapter::Factors& factors, double* x, double* y) {
  const auto rank = static_cast<size_t>(factors.rank);
  const auto out = static_cast<size_t>(factors.out);
  STRATA_RETURN_IF_ERROR(format::ToDouble(factors.a, {y, rank * static_cast<size_t>(factors.in)}));
  std::vector<double> rows(rank * out);
  STRATA_RETURN_IF_ERROR(format::ToDouble(factors.b, rows));
  for (size_t j = 0; j < rank; ++j) {
    for (size_t i = 0; i < out; ++i) x[j * out + i] = rows[i * rank + j];
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<double>> SingularValues(const adapter::Factors& factors) {
  if (factors.rank == 0) return std::vector<double>();
  const SingleThreadedBlas single_threaded;
  Matrix x(factors.out, factors.rank);
  Matrix y(factors.in, factors.rank);
  STRATA_RETURN_IF_ERROR(WidenFactors(factors, x.data(), y.data()));
  if (!AllFinite(x) || !AllFinite(y) || !std::isfinite(factors.scaling)) {
    return absl::InvalidArgumentError(
        Cat("module '", factors.module, "': the factors or their scaling hold values that are not finite"));
  }
  STRATA_ASSIGN_OR_RETURN(const ProductSvd svd, ProductSvd::Of(std::move(x), std::move(y)));
  std::vector<double> values = svd.singular_values();
  const double scaling = std::abs(factors.scaling);
  std::transform(values.begin(), values.end(), values.begin(), [scaling](double v) { return scaling * v; });
  return values;
}

}  // namespace strata::linalg
