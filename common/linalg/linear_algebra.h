// Dense linear algebra of factored matrices: fp64, column-major, LAPACK underneath.
#ifndef STRATA_COMMON_LINALG_LINEAR_ALGEBRA_H_
#define STRATA_COMMON_LINALG_LINEAR_ALGEBRA_H_

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace strata::linalg {

// While it lives, BLAS called from this thread uses this thread alone: modules run in parallel, and results must not
// depend on how many threads a call found.
class SingleThreadedBlas {
 public:
  SingleThreadedBlas();
  ~SingleThreadedBlas();
  SingleThreadedBlas(const SingleThreadedBlas&) = delete;
  SingleThreadedBlas& operator=(const SingleThreadedBlas&) = delete;

 private:
  int previous_;
};

// The family of processors that OpenBLAS's kernels in use were written for ("SkylakeX").
std::string BlasKernels();

// Column-major, leading dimension = rows. Move-only; the elements start out undefined.
class Matrix {
 public:
  Matrix() = default;
  Matrix(int64_t rows, int64_t cols);
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  double* data() { return data_.get(); }
  const double* data() const { return data_.get(); }
  double* col(int64_t j) { return data_.get() + j * rows_; }
  const double* col(int64_t j) const { return data_.get() + j * rows_; }
  // Forgets the columns from `cols` on. REQUIRES: cols <= this->cols().
  void KeepColumns(int64_t cols) { cols_ = cols; }

 private:
  struct Free {
    void operator()(double* data) const { std::free(data); }
  };
  int64_t rows_ = 0, cols_ = 0;
  std::unique_ptr<double[], Free> data_;
};

// Euclidean norm without overflow or underflow on the way; NaN or infinity when an element is.
double Norm(const double* x, int64_t n);

// G = X Y^T, decomposed: G = U diag(s) V^T with s descending, all min(X.cols(), X.rows(), Y.rows()) of them. U and V
// come as products that can be asked for their first columns.
class ProductSvd {
 public:
  // REQUIRES: finite elements, X.cols() == Y.cols(). By thin QR of both and the SVD of the small core; through the
  // dense matrix when X.cols() >= min(X.rows(), Y.rows()). INTERNAL: LAPACK did not converge.
  static absl::StatusOr<ProductSvd> Of(Matrix x, Matrix y);
  const std::vector<double>& singular_values() const { return s_; }
  Matrix U(int64_t columns) const;  // [X.rows(), columns]
  Matrix V(int64_t columns) const;  // [Y.rows(), columns]

 private:
  struct Reflectors {
    Matrix qr;  // R above, the reflectors below the diagonal
    Matrix t;   // their block factors
  };
  static Matrix Expand(const Reflectors& reflectors, const Matrix& small, int64_t columns);
  friend double ProductNorm(Matrix x, Matrix y);
  static Reflectors Factor(Matrix x);
  static Matrix Core(const Reflectors& x, const Reflectors& y);

  std::vector<double> s_;
  Matrix u_, v_;  // of the core, or of the dense matrix when there are no reflectors
  Reflectors qx_, qy_;
};

// ||X Y^T|| in the Frobenius norm, to eps * sum of the columns' ||x_i|| ||y_i||.
double ProductNorm(Matrix x, Matrix y);

}  // namespace strata::linalg

#endif  // STRATA_COMMON_LINALG_LINEAR_ALGEBRA_H_
