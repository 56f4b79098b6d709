// Building a module's stack and its truncated SVD.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "common/linalg/factors.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"
#include "server/aggregate/module_sum.h"

namespace strata::aggregate {
namespace {

// One column of the stack before balancing.
struct Column {
  double coefficient = 0;  // s_j p_j eta
  double norm_x = 0, norm_y = 0;
  // log2 of the length that both columns get: sqrt(|c| ||b|| ||a||).
  double log_length() const { return (std::log2(std::abs(coefficient)) + std::log2(norm_x) + std::log2(norm_y)) / 2; }
  bool is_zero() const { return coefficient == 0 || norm_x == 0 || norm_y == 0; }
};

absl::StatusOr<std::vector<Column>> GatherAll(const std::vector<Part>& parts, double scale, Matrix& x, Matrix& y) {
  std::vector<Column> columns;
  for (const Part& part : parts) {
    const adapter::Factors& factors = *part.factors;
    const auto first = static_cast<int64_t>(columns.size());
    STRATA_RETURN_IF_ERROR(linalg::WidenFactors(factors, x.col(first), y.col(first)));
    for (int64_t j = first; j < first + factors.rank; ++j) {
      const Column column{.coefficient = factors.scaling * part.weight * scale,
                          .norm_x = linalg::Norm(x.col(j), x.rows()),
                          .norm_y = linalg::Norm(y.col(j), y.rows())};
      if (!std::isfinite(column.norm_x) || !std::isfinite(column.norm_y) || !std::isfinite(column.coefficient)) {
        return absl::InvalidArgumentError(Cat("site '", part.site, "', module '", factors.module,
                                              "': the factors or their scaling hold values that are not finite"));
      }
      columns.push_back(column);
    }
  }
  return columns;
}

int64_t RankFor(const std::vector<double>& s, int64_t lossless, const Compression& compression) {
  if (lossless == 0 || compression.kind == Compression::Kind::kExact) return lossless;
  if (compression.kind == Compression::Kind::kMaxRank) return std::min(lossless, compression.max_rank);
  // s[0] = 1 would do: only ratios count, and squares of the ratios stay in range.
  double total = 0;
  for (const double value : s) total += (value / s[0]) * (value / s[0]);
  double kept = 0;
  int64_t rank = 0;
  while (rank < lossless && kept < compression.energy * total) {
    kept += (s[rank] / s[0]) * (s[rank] / s[0]);
    ++rank;
  }
  return rank;
}

// LAPACK leaves the sign of a pair open: fixed by what does not depend on how the pair was found.
void FixSigns(Matrix& u, Matrix& v) {
  for (int64_t j = 0; j < u.cols(); ++j) {
    double largest = 0;
    for (int64_t i = 0; i < u.rows(); ++i) {
      if (std::abs(u.col(j)[i]) > std::abs(largest)) largest = u.col(j)[i];
    }
    if (largest >= 0) continue;
    std::transform(u.col(j), u.col(j) + u.rows(), u.col(j), std::negate<>());
    std::transform(v.col(j), v.col(j) + v.rows(), v.col(j), std::negate<>());
  }
}

}  // namespace

absl::StatusOr<Stack> BuildStack(const std::vector<Part>& parts, double scale) {
  int64_t total = 0;
  for (const Part& part : parts) total += part.factors->rank;
  const adapter::Factors& first = *parts.front().factors;
  Stack stack{.x = Matrix(first.out, total), .y = Matrix(first.in, total)};
  STRATA_ASSIGN_OR_RETURN(const std::vector<Column> columns, GatherAll(parts, scale, stack.x, stack.y));
  double longest = -std::numeric_limits<double>::infinity();
  for (const Column& column : columns) {
    if (!column.is_zero()) longest = std::max(longest, column.log_length());
  }
  if (std::isfinite(longest)) stack.exponent = static_cast<int>(std::lround(longest));
  int64_t kept = 0;
  for (int64_t j = 0; j < total; ++j) {
    const Column& column = columns[static_cast<size_t>(j)];
    if (column.is_zero()) continue;
    // X takes a power of two (exact), Y the rest of the coefficient: one rounding in all.
    const int shift = static_cast<int>(std::lround(column.log_length() - std::log2(column.norm_x))) - stack.exponent;
    const double to_x = std::ldexp(1.0, shift);
    const double to_y = std::ldexp(column.coefficient, -shift - 2 * stack.exponent);
    std::transform(stack.x.col(j), stack.x.col(j) + first.out, stack.x.col(kept),
                   [to_x](double v) { return v * to_x; });
    std::transform(stack.y.col(j), stack.y.col(j) + first.in, stack.y.col(kept), [to_y](double v) { return v * to_y; });
    stack.gauge += (column.norm_x * to_x) * std::abs(column.norm_y * to_y);
    ++kept;
  }
  stack.x.KeepColumns(kept);
  stack.y.KeepColumns(kept);
  return stack;
}

absl::StatusOr<Triplets> FactorStack(Stack stack, const Compression& compression) {
  const auto longest_side = static_cast<double>(std::max(stack.x.rows(), stack.y.rows()));
  Triplets triplets{.u = {}, .v = {}, .s = {}, .rank = 0, .exponent = stack.exponent};
  STRATA_ASSIGN_OR_RETURN(const linalg::ProductSvd svd, linalg::ProductSvd::Of(std::move(stack.x), std::move(stack.y)));
  triplets.s = svd.singular_values();
  if (triplets.s.empty()) return triplets;
  const double floor = longest_side * 0x1p-52 * std::max(triplets.s[0], stack.gauge);
  const int64_t lossless =
      std::count_if(triplets.s.begin(), triplets.s.end(), [floor](double value) { return value > floor; });
  triplets.rank = RankFor(triplets.s, lossless, compression);
  if (triplets.rank == 0) return triplets;
  triplets.u = svd.U(triplets.rank);
  triplets.v = svd.V(triplets.rank);
  FixSigns(triplets.u, triplets.v);
  return triplets;
}

}  // namespace strata::aggregate
