#include "common/linalg/linear_algebra.h"

#include <cblas.h>
#include <lapacke.h>
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <new>
#include <string>
#include <utility>

#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::linalg {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

// Columns of one panel of the QR. Panels are factored recursively (dgeqrt), so nearly all the work is matrix products;
// dgeqrf's panels are products of a matrix with a vector and took half of the time.
constexpr lapack_int kBlock = 64;

struct Svd {
  std::vector<double> s;
  Matrix u, vt;
};

absl::StatusOr<Svd> Decompose(Matrix a) {
  const auto m = static_cast<lapack_int>(a.rows());
  const auto n = static_cast<lapack_int>(a.cols());
  const lapack_int q = std::min(m, n);
  Svd svd{.s = std::vector<double>(q), .u = Matrix(m, q), .vt = Matrix(q, n)};
  std::vector<lapack_int> iwork(8 * static_cast<size_t>(q));
  double size = 0;
  LAPACKE_dgesdd_work(LAPACK_COL_MAJOR, 'S', m, n, a.data(), m, svd.s.data(), svd.u.data(), m, svd.vt.data(), q, &size,
                      -1, iwork.data());
  std::vector<double> work(static_cast<size_t>(size));
  const lapack_int info =
      LAPACKE_dgesdd_work(LAPACK_COL_MAJOR, 'S', m, n, a.data(), m, svd.s.data(), svd.u.data(), m, svd.vt.data(), q,
                          work.data(), static_cast<lapack_int>(work.size()), iwork.data());
  if (info != 0) return absl::InternalError(Cat("the SVD of a ", m, " x ", n, " matrix failed with code ", info));
  return svd;
}

// X Y^T
Matrix Dense(const Matrix& x, const Matrix& y) {
  Matrix g(x.rows(), y.rows());
  cblas_dgemm(CblasColMajor, CblasNoTrans, CblasTrans, static_cast<blasint>(x.rows()), static_cast<blasint>(y.rows()),
              static_cast<blasint>(x.cols()), 1.0, x.data(), static_cast<blasint>(x.rows()), y.data(),
              static_cast<blasint>(y.rows()), 0.0, g.data(), static_cast<blasint>(x.rows()));
  return g;
}

Matrix Transposed(const Matrix& a, int64_t rows) {
  Matrix t(a.cols(), rows);
  for (int64_t j = 0; j < a.cols(); ++j) {
    for (int64_t i = 0; i < rows; ++i) t.col(i)[j] = a.col(j)[i];
  }
  return t;
}

bool DenseIsSmaller(const Matrix& x, const Matrix& y) { return x.cols() >= std::min(x.rows(), y.rows()); }

// Powers of two that make the columns of both factors equally long: nothing is rounded.
void Balance(Matrix& x, Matrix& y) {
  int64_t kept = 0;
  for (int64_t j = 0; j < x.cols(); ++j) {
    const double nx = Norm(x.col(j), x.rows());
    const double ny = Norm(y.col(j), y.rows());
    if (nx == 0 || ny == 0) continue;
    const int shift = static_cast<int>(std::lround((std::log2(ny) - std::log2(nx)) / 2));
    const double up = std::ldexp(1.0, shift);
    const double down = std::ldexp(1.0, -shift);
    std::transform(x.col(j), x.col(j) + x.rows(), x.col(kept), [up](double v) { return v * up; });
    std::transform(y.col(j), y.col(j) + y.rows(), y.col(kept), [down](double v) { return v * down; });
    ++kept;
  }
  x.KeepColumns(kept);
  y.KeepColumns(kept);
}

}  // namespace

Matrix::Matrix(int64_t rows, int64_t cols) : rows_(rows), cols_(cols) {
  const size_t bytes = static_cast<size_t>(rows) * static_cast<size_t>(cols) * sizeof(double);
  const size_t alignment = bytes >= 2 * kHugePage ? kHugePage : 64;
  const size_t rounded = (std::max<size_t>(bytes, 1) + alignment - 1) / alignment * alignment;
  data_.reset(static_cast<double*>(std::aligned_alloc(alignment, rounded)));
  if (data_ == nullptr) throw std::bad_alloc();
  if (alignment == kHugePage) madvise(data_.get(), rounded, MADV_HUGEPAGE);
}

double Norm(const double* x, int64_t n) {
  // Four sums, so that the additions do not wait for one another; squares that leave the range go the careful way.
  double sums[4] = {0, 0, 0, 0};
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    for (int64_t lane = 0; lane < 4; ++lane) sums[lane] += x[i + lane] * x[i + lane];
  }
  for (; i < n; ++i) sums[0] += x[i] * x[i];
  const double sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  if (sum > 1e-280 && sum < 1e280) return std::sqrt(sum);
  double largest = 0;
  for (i = 0; i < n; ++i) {
    if (!std::isfinite(x[i])) return std::abs(x[i]);
    largest = std::max(largest, std::abs(x[i]));
  }
  if (largest == 0) return 0;
  double scaled = 0;
  for (i = 0; i < n; ++i) scaled += (x[i] / largest) * (x[i] / largest);
  return largest * std::sqrt(scaled);
}

ProductSvd::Reflectors ProductSvd::Factor(Matrix x) {
  Reflectors out{.qr = std::move(x), .t = {}};
  const auto m = static_cast<lapack_int>(out.qr.rows());
  const auto n = static_cast<lapack_int>(out.qr.cols());
  const lapack_int block = std::min(kBlock, n);
  out.t = Matrix(block, n);
  std::vector<double> work(static_cast<size_t>(block) * static_cast<size_t>(n));
  LAPACKE_dgeqrt_work(LAPACK_COL_MAJOR, m, n, block, out.qr.data(), m, out.t.data(), block, work.data());
  return out;
}

// R_X R_Y^T
Matrix ProductSvd::Core(const Reflectors& x, const Reflectors& y) {
  const int64_t n = x.qr.cols();
  Matrix core(n, n);
  for (int64_t j = 0; j < n; ++j) {
    std::copy(x.qr.col(j), x.qr.col(j) + j + 1, core.col(j));
    std::fill(core.col(j) + j + 1, core.col(j) + n, 0.0);
  }
  cblas_dtrmm(CblasColMajor, CblasRight, CblasUpper, CblasTrans, CblasNonUnit, static_cast<blasint>(n),
              static_cast<blasint>(n), 1.0, y.qr.data(), static_cast<blasint>(y.qr.rows()), core.data(),
              static_cast<blasint>(n));
  return core;
}

absl::StatusOr<ProductSvd> ProductSvd::Of(Matrix x, Matrix y) {
  ProductSvd out;
  if (x.cols() == 0) return out;
  const bool dense = DenseIsSmaller(x, y);
  Matrix target;
  if (dense) {
    target = Dense(x, y);
  } else {
    out.qx_ = Factor(std::move(x));
    out.qy_ = Factor(std::move(y));
    target = Core(out.qx_, out.qy_);
  }
  STRATA_ASSIGN_OR_RETURN(Svd svd, Decompose(std::move(target)));
  out.s_ = std::move(svd.s);
  out.u_ = std::move(svd.u);
  out.v_ = Transposed(svd.vt, svd.vt.rows());
  return out;
}

// Q [small; 0] with the first `columns` of small.
Matrix ProductSvd::Expand(const Reflectors& reflectors, const Matrix& small, int64_t columns) {
  const int64_t rows = reflectors.qr.cols() == 0 ? small.rows() : reflectors.qr.rows();
  Matrix out(rows, columns);
  for (int64_t j = 0; j < columns; ++j) {
    std::copy(small.col(j), small.col(j) + small.rows(), out.col(j));
    std::fill(out.col(j) + small.rows(), out.col(j) + rows, 0.0);
  }
  if (reflectors.qr.cols() == 0 || columns == 0) return out;
  const auto m = static_cast<lapack_int>(rows);
  const auto k = static_cast<lapack_int>(reflectors.qr.cols());
  const auto n = static_cast<lapack_int>(columns);
  const auto block = static_cast<lapack_int>(reflectors.t.rows());
  std::vector<double> work(static_cast<size_t>(block) * static_cast<size_t>(n));
  LAPACKE_dgemqrt_work(LAPACK_COL_MAJOR, 'L', 'N', m, n, k, block, reflectors.qr.data(), m, reflectors.t.data(), block,
                       out.data(), m, work.data());
  return out;
}

Matrix ProductSvd::U(int64_t columns) const { return Expand(qx_, u_, columns); }
Matrix ProductSvd::V(int64_t columns) const { return Expand(qy_, v_, columns); }

double ProductNorm(Matrix x, Matrix y) {
  Balance(x, y);
  if (x.cols() == 0) return 0;
  const Matrix product = DenseIsSmaller(x, y)
                             ? Dense(x, y)
                             : ProductSvd::Core(ProductSvd::Factor(std::move(x)), ProductSvd::Factor(std::move(y)));
  return Norm(product.data(), product.rows() * product.cols());
}

}  // namespace strata::linalg
