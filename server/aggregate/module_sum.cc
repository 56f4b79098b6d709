#include "server/aggregate/module_sum.h"

#include <cblas.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/format/tensor.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::aggregate {
namespace {

// Columns of a factor as fp32 floats and what rounding changed, both column-major and in the units of the stack.
struct Rounded {
  std::vector<float> difference, value;
  std::vector<double> squared;  // ||difference_i||^2 per column
};

// 2^exponent sqrt(s_i) m_i rounded to fp32. `write(i, j, value)` gets element i of column j.
template <typename Write>
Rounded RoundFactor(const Matrix& m, const Triplets& triplets, Write write) {
  Rounded out;
  const size_t count = static_cast<size_t>(m.rows()) * static_cast<size_t>(m.cols());
  out.difference.resize(count);
  out.value.resize(count);
  const double unit = std::ldexp(1.0, triplets.exponent);
  const double back = std::ldexp(1.0, -triplets.exponent);
  size_t next = 0;
  for (int64_t j = 0; j < m.cols(); ++j) {
    const double root = std::sqrt(triplets.s[static_cast<size_t>(j)]);
    double squared = 0;
    for (int64_t i = 0; i < m.rows(); ++i, ++next) {
      const double exact = root * m.col(j)[i];
      const auto rounded = static_cast<float>(exact * unit);
      write(i, j, rounded);
      const double difference = static_cast<double>(rounded) * back - exact;
      squared += difference * difference;
      out.difference[next] = static_cast<float>(difference);
      out.value[next] = static_cast<float>(exact);
    }
    out.squared.push_back(squared);
  }
  return out;
}

// P^T Q for two [rows, cols] blocks.
std::vector<float> Gram(const std::vector<float>& p, const std::vector<float>& q, int64_t rows, int64_t cols) {
  std::vector<float> out(static_cast<size_t>(cols) * static_cast<size_t>(cols));
  if (cols == 0) return out;
  const auto m = static_cast<blasint>(rows);
  const auto n = static_cast<blasint>(cols);
  cblas_sgemm(CblasColMajor, CblasTrans, CblasNoTrans, n, n, m, 1.0F, p.data(), m, q.data(), m, 0.0F, out.data(), n);
  return out;
}

// ||B32 A32 - U S V^T||^2 in the units of the stack. With B32 = B + dB, A32 = A + dA the difference is dB A + B dA up
// to a term of relative size 2^-24. U and V are orthonormal, so the squares of both terms need column norms only; their
// inner product is sum_ij (dB_i . B_j)(A_i . dA_j).
double RoundingSquared(const Rounded& b, const Rounded& a, const Triplets& triplets) {
  double squared = 0;
  for (size_t j = 0; j < b.squared.size(); ++j) squared += triplets.s[j] * (b.squared[j] + a.squared[j]);
  const std::vector<float> left = Gram(b.difference, b.value, triplets.u.rows(), triplets.rank);
  const std::vector<float> right = Gram(a.value, a.difference, triplets.v.rows(), triplets.rank);
  double cross = 0;
  for (size_t i = 0; i < left.size(); ++i) cross += static_cast<double>(left[i]) * static_cast<double>(right[i]);
  return std::max(0.0, squared + 2 * cross);
}

double SquaredSum(const std::vector<double>& values, int64_t from, int64_t to) {
  double sum = 0;
  for (int64_t i = to - 1; i >= from; --i) sum += values[static_cast<size_t>(i)] * values[static_cast<size_t>(i)];
  return sum;
}

absl::Status EmitTriplets(const Triplets& triplets, ModuleSum& sum) {
  const int64_t rank = triplets.rank;
  sum.result.rank_out = rank;
  if (rank == 0) return absl::OkStatus();
  sum.b.resize(static_cast<size_t>(triplets.u.rows() * rank));
  sum.a.resize(static_cast<size_t>(triplets.v.rows() * rank));
  const Rounded b =
      RoundFactor(triplets.u, triplets, [&](int64_t i, int64_t j, float value) { sum.b[i * rank + j] = value; });
  size_t next = 0;
  const Rounded a = RoundFactor(triplets.v, triplets, [&](int64_t, int64_t, float value) { sum.a[next++] = value; });
  const auto all = static_cast<int64_t>(triplets.s.size());
  const double norm = std::sqrt(SquaredSum(triplets.s, 0, all));
  const double discarded_squared = SquaredSum(triplets.s, rank, all);
  sum.result.norm = std::ldexp(norm, 2 * triplets.exponent);
  sum.result.discarded = std::ldexp(std::sqrt(discarded_squared), 2 * triplets.exponent);
  sum.result.error = std::sqrt(discarded_squared + RoundingSquared(b, a, triplets)) / norm;
  return absl::OkStatus();
}

// ||B32 A32 - G|| in the units of the stack. `b` is [out, r], `a` is [r, in], row-major; the stack is used up.
template <typename Element>
double Distance(const std::vector<Element>& b, const std::vector<Element>& a, Stack stack) {
  const int64_t out = stack.x.rows();
  const int64_t in = stack.y.rows();
  const auto rank = static_cast<int64_t>(b.size()) / out;
  Matrix x(out, rank + stack.x.cols());
  Matrix y(in, rank + stack.y.cols());
  const double unit = std::ldexp(1.0, -stack.exponent);
  for (int64_t j = 0; j < rank; ++j) {
    for (int64_t i = 0; i < out; ++i) x.col(j)[i] = static_cast<double>(b[static_cast<size_t>(i * rank + j)]) * unit;
    for (int64_t i = 0; i < in; ++i) y.col(j)[i] = static_cast<double>(a[static_cast<size_t>(j * in + i)]) * unit;
  }
  std::copy(stack.x.data(), stack.x.data() + out * stack.x.cols(), x.col(rank));
  std::transform(stack.y.data(), stack.y.data() + in * stack.y.cols(), y.col(rank), std::negate<>());
  return linalg::ProductNorm(std::move(x), std::move(y));
}

Matrix Copy(const Matrix& m) {
  Matrix copy(m.rows(), m.cols());
  std::copy(m.data(), m.data() + m.rows() * m.cols(), copy.data());
  return copy;
}

// ||G|| in the units of the stack; 0 when it is no more than rounding.
double NormOf(const Stack& stack) {
  const double norm = linalg::ProductNorm(Copy(stack.x), Copy(stack.y));
  const auto longest_side = static_cast<double>(std::max(stack.x.rows(), stack.y.rows()));
  return norm > longest_side * 0x1p-52 * stack.gauge ? norm : 0;
}

// FedIT's and zero-padding's factors: sum p_j s_j B_j (times eta) and sum p_j A_j, the slots of a shorter rank counting
// as zero.
struct Means {
  std::vector<double> b, a;  // [out, r], [r, in]
};

absl::StatusOr<Means> MeansOf(const ModuleRequest& request, double scale) {
  size_t rank = 0;
  for (const Part& part : request.parts) rank = std::max(rank, static_cast<size_t>(part.factors->rank));
  const auto out = static_cast<size_t>(request.out);
  const auto in = static_cast<size_t>(request.in);
  Means means{.b = std::vector<double>(out * rank), .a = std::vector<double>(rank * in)};
  for (const Part& part : request.parts) {
    const auto own = static_cast<size_t>(part.factors->rank);
    std::vector<double> b(out * own);
    std::vector<double> a(own * in);
    STRATA_RETURN_IF_ERROR(format::ToDouble(part.factors->b, b));
    STRATA_RETURN_IF_ERROR(format::ToDouble(part.factors->a, a));
    const double to_b = part.weight * part.factors->scaling * scale;
    for (size_t i = 0; i < out; ++i) {
      for (size_t j = 0; j < own; ++j) means.b[i * rank + j] += to_b * b[i * own + j];
    }
    for (size_t i = 0; i < a.size(); ++i) means.a[i] += part.weight * a[i];
  }
  return means;
}

std::vector<float> Narrow(const std::vector<double>& values) { return {values.begin(), values.end()}; }

// Joins the factors as they are: s_j goes into B_j, p_j (and eta) into A_j. Members of weight 0 are left out.
absl::Status EmitRawStack(const ModuleRequest& request, double scale, ModuleSum& sum) {
  size_t rank = 0;
  for (const Part& part : request.parts) rank += part.weight == 0 ? 0 : static_cast<size_t>(part.factors->rank);
  const auto out = static_cast<size_t>(request.out);
  const auto in = static_cast<size_t>(request.in);
  sum.b.resize(out * rank);
  sum.a.resize(rank * in);
  size_t first = 0;
  for (const Part& part : request.parts) {
    if (part.weight == 0) continue;
    const auto own = static_cast<size_t>(part.factors->rank);
    std::vector<double> b(out * own);
    std::vector<double> a(own * in);
    STRATA_RETURN_IF_ERROR(format::ToDouble(part.factors->b, b));
    STRATA_RETURN_IF_ERROR(format::ToDouble(part.factors->a, a));
    for (size_t i = 0; i < out; ++i) {
      for (size_t j = 0; j < own; ++j) {
        sum.b[i * rank + first + j] = static_cast<float>(part.factors->scaling * b[i * own + j]);
      }
    }
    const double to_a = part.weight * scale;
    std::transform(a.begin(), a.end(), sum.a.begin() + static_cast<int64_t>(first * in),
                   [to_a](double v) { return static_cast<float>(to_a * v); });
    first += own;
  }
  sum.result.rank_out = static_cast<int64_t>(rank);
  return absl::OkStatus();
}

// Norm and error of factors that were not derived from the stack's SVD; returns the distance to the sum.
double MeasureEmitted(Stack stack, ModuleSum& sum) {
  const double norm = NormOf(stack);
  const int exponent = stack.exponent;
  sum.result.norm = std::ldexp(norm, 2 * exponent);
  const double distance = Distance(sum.b, sum.a, std::move(stack));
  sum.result.error = norm == 0 ? 0 : distance / norm;
  return std::ldexp(distance, 2 * exponent);
}

absl::Status CheckRange(const ModuleSum& sum) {
  const auto finite = [](float value) { return std::isfinite(value); };
  if (std::all_of(sum.a.begin(), sum.a.end(), finite) && std::all_of(sum.b.begin(), sum.b.end(), finite) &&
      std::isfinite(sum.result.norm)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      Cat("module '", sum.result.module, "': the sum is too large to be written in fp32; the updates have diverged"));
}

}  // namespace

absl::StatusOr<ModuleSum> SumModule(const ModuleRequest& request, const AggregateOptions& options) {
  ModuleSum sum;
  sum.result.module = request.module;
  for (const Part& part : request.parts) sum.result.rank_in += part.factors->rank;
  STRATA_ASSIGN_OR_RETURN(Stack stack, BuildStack(request.parts, options.scale));
  const bool averaged = options.method != config::AggregationMethod::kStack;
  if (averaged || options.compare_methods) {
    STRATA_ASSIGN_OR_RETURN(const Means means, MeansOf(request, options.scale));
    if (options.compare_methods) {
      Stack copy{.x = Copy(stack.x), .y = Copy(stack.y), .exponent = stack.exponent, .gauge = stack.gauge};
      sum.averaged_distance = std::ldexp(Distance(means.b, means.a, std::move(copy)), 2 * stack.exponent);
    }
    if (averaged) {
      sum.b = Narrow(means.b);
      sum.a = Narrow(means.a);
      sum.result.rank_out = static_cast<int64_t>(sum.a.size()) / request.in;
    }
  }
  if (averaged) {
    sum.result.discarded = MeasureEmitted(std::move(stack), sum);
  } else if (options.compression.kind == Compression::Kind::kRawStack) {
    STRATA_RETURN_IF_ERROR(EmitRawStack(request, options.scale, sum));
    MeasureEmitted(std::move(stack), sum);
  } else {
    STRATA_ASSIGN_OR_RETURN(const Triplets triplets, FactorStack(std::move(stack), options.compression));
    STRATA_RETURN_IF_ERROR(EmitTriplets(triplets, sum));
  }
  STRATA_RETURN_IF_ERROR(CheckRange(sum));
  return sum;
}

}  // namespace strata::aggregate
