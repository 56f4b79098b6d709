// The matrix product against its formula in double, in every instruction set that this processor has: both orders,
// either type of x and every type of weights, shapes with ragged edges, factors over some of the rows, columns beside.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "kernels/ops.h"
#include "tests/kernels/halves.h"
#include "tests/kernels/mat_mul_variants.h"
#include "tests/kernels/quantised_matrix.h"

namespace strata::kernels {
namespace {

struct Shape {
  int64_t tokens, rows, cols;           // x [tokens, .], w [rows, cols]
  int64_t rank = 0, first = 0, of = 0;  // factors of rows [first, first + of)
  std::vector<int64_t> beside = {};     // ranks of what stands beside; by rows, each has an equal share of the columns
};

struct Form {
  bool by_rows = true, accumulate = false;
  Type type = Type::kF32;
  bool few_rows = false;
  Type x = Type::kF32;  // of x, y and what stands beside
};

// Values in (-1, 1) that bf16 holds exactly.
std::vector<float> Values(int64_t count, uint32_t seed) {
  std::vector<float> out(static_cast<size_t>(count));
  for (float& value : out) {
    seed = seed * 1664525 + 1013904223;
    value = static_cast<float>(static_cast<int>(seed >> 16 & 0xFF) - 128) / 129.0F;
  }
  return Rounded(out);
}

Rows View(std::vector<float>& values, int64_t rows, int64_t cols, int64_t stride) {
  return {.data = values.data(), .type = Type::kF32, .rows = rows, .cols = cols, .stride = stride};
}

// Operands with a margin around y and between the rows of x and y.
class Case {
 public:
  Case(const Shape& s, const Form& form)
      : shape_(s), depth_(form.by_rows ? s.cols : s.rows), width_(form.by_rows ? s.rows : s.cols) {
    x_ = Values(s.tokens * (depth_ + 3), 1);
    w_ = Values(s.rows * s.cols, 2);
    a_ = Values(s.rank * s.cols, 3);
    b_ = Values(s.of * s.rank, 4);
    y_ = Values(s.tokens * (width_ + 5), 5);
    before_ = y_;
    factors_ = {.a = View(a_, s.rank, s.cols, s.cols), .b = View(b_, s.of, s.rank, s.rank), .first_row = s.first};
    product_ = {.x = View(x_, s.tokens, depth_, depth_ + 3),
                .w = View(w_, s.rows, s.cols, s.cols),
                .y = View(y_, s.tokens, width_, width_ + 5),
                .added = &factors_,
                .num_added = s.rank > 0 ? 1 : 0,
                .by_rows = form.by_rows,
                .accumulate = form.accumulate,
                .few_rows = form.few_rows};
    PlaceBeside();
    product_.w.type = form.type;
    if (form.type == Type::kBF16) product_.w = InHalves(product_.w, w_);
    if (form.type == Type::kInt8) QuantiseRows();
    if (form.type == Type::kNf4) QuantiseParts();
    if (form.x == Type::kF32) return;
    product_.x = InHalves(product_.x, x_);
    product_.y = InHalves(product_.y, y_);
    for (size_t f = 0; f < beside_.size(); ++f) {
      beside_[f].x = InHalves(beside_[f].x, beside_values_[2 * f]);
      beside_[f].w = InHalves(beside_[f].w, beside_values_[2 * f + 1]);
    }
  }
  Case(const Case&) = delete;
  Case& operator=(const Case&) = delete;

  const Product& product() const { return product_; }
  std::vector<float> y() const {
    if (product_.y.type == Type::kF32) return y_;
    const auto* halves = static_cast<const uint16_t*>(product_.y.data);
    return Widened({halves, halves + y_.size()});
  }

  // fp32 sums of products below 1 in magnitude: an error of a few units in the last place per addition. In bf16 the
  // result and values that codes stand for are rounded by up to half a unit in the last place.
  void Check() const {
    const std::vector<float> y = this->y();
    const double unit = product_.y.type == Type::kF32 ? 0 : std::ldexp(1, -8);
    int64_t depth = depth_ + 1;
    for (const int64_t rank : shape_.beside) depth += rank;
    const double tolerance = 1e-7 * static_cast<double>(depth) * static_cast<double>(1 + shape_.rank);
    for (int64_t t = 0; t < shape_.tokens; ++t) {
      for (int64_t o = 0; o < width_ + 5; ++o) {
        const auto i = static_cast<size_t>(t * (width_ + 5) + o);
        if (o >= width_) {
          ASSERT_EQ(y[i], before_[i]) << "written past the end of row " << t;
          continue;
        }
        const double expected = Expected(t, o);
        const double weights = IsQuantised(product_.w.type) ? std::sqrt(static_cast<double>(depth_)) : 0;
        ASSERT_NEAR(static_cast<double>(y[i]), expected, tolerance + unit * (std::abs(expected) + weights))
            << "row " << t << ", column " << o;
      }
    }
  }

 private:
  double Expected(int64_t t, int64_t o) const {
    const auto i = static_cast<size_t>(t * (width_ + 5) + o);
    double sum = product_.accumulate ? static_cast<double>(before_[i]) : 0;
    for (int64_t d = 0; d < depth_; ++d) {
      const double w = product_.by_rows ? Weight(o, d) : Weight(d, o);
      sum += static_cast<double>(x_[static_cast<size_t>(t * (depth_ + 3) + d)]) * w;
    }
    for (const Beside& beside : beside_) sum += ExpectedBeside(beside, t, o);
    return sum;
  }
  double ExpectedBeside(const Beside& beside, int64_t t, int64_t o) const {
    const int64_t row = o - beside.first_col;
    if (product_.by_rows && (row < 0 || row >= beside.w.rows)) return 0;
    double sum = 0;
    for (int64_t r = 0; r < beside.x.cols; ++r) {
      const int64_t w = product_.by_rows ? row * beside.w.stride + r : r * beside.w.stride + o;
      const auto f = static_cast<size_t>(&beside - beside_.data());
      sum += static_cast<double>(beside_values_[2 * f][static_cast<size_t>(t * beside.x.stride + r)]) *
             static_cast<double>(beside_values_[2 * f + 1][static_cast<size_t>(w)]);
    }
    return sum;
  }
  double Weight(int64_t row, int64_t col) const {
    auto w = static_cast<double>(w_[static_cast<size_t>(row * shape_.cols + col)]);
    if (row < shape_.first || row >= shape_.first + shape_.of) return w;
    for (int64_t r = 0; r < shape_.rank; ++r) {
      w += static_cast<double>(b_[static_cast<size_t>((row - shape_.first) * shape_.rank + r)]) *
           static_cast<double>(a_[static_cast<size_t>(r * shape_.cols + col)]);
    }
    return w;
  }

  Rows InHalves(Rows m, const std::vector<float>& values) {
    m.data = halves_.emplace_back(Halves(values)).data();
    m.type = Type::kBF16;
    return m;
  }

  void PlaceBeside() {
    const auto count = static_cast<int64_t>(shape_.beside.size());
    for (int64_t f = 0; f < count; ++f) {
      const int64_t rank = shape_.beside[static_cast<size_t>(f)];
      const int64_t first = product_.by_rows ? width_ * f / count : 0;
      const int64_t wide = product_.by_rows ? width_ * (f + 1) / count - first : width_;
      beside_values_.push_back(Values(shape_.tokens * (rank + 2), 6));
      const Rows x = View(beside_values_.back(), shape_.tokens, rank, rank + 2);
      beside_values_.push_back(Values(rank * wide, 7));
      const Rows w = product_.by_rows ? View(beside_values_.back(), wide, rank, rank)
                                      : View(beside_values_.back(), rank, wide, wide);
      beside_.push_back({.x = x, .w = w, .first_col = first});
    }
    product_.beside = beside_.data();
    product_.num_beside = count;
  }

  // The codes' values become the weights that Check expects.
  void QuantiseRows() {
    codes_.resize(w_.size());
    scales_.resize(static_cast<size_t>(shape_.rows));
    auto* codes = reinterpret_cast<int8_t*>(codes_.data());
    for (int64_t r = 0; r < shape_.rows; ++r) {
      float* row = w_.data() + r * shape_.cols;
      const float scale = QuantiseInt8(row, shape_.cols, codes + r * shape_.cols);
      scales_[static_cast<size_t>(r)] = scale;
      for (int64_t c = 0; c < shape_.cols; ++c) row[c] = scale * static_cast<float>(codes[r * shape_.cols + c]);
    }
    product_.w.data = codes;
    product_.w.scales = scales_.data();
  }

  // Two matrices below one another.
  void QuantiseParts() {
    int64_t first = 0;
    for (const int64_t rows : {shape_.rows / 3, shape_.rows - shape_.rows / 3}) {
      quantised_.push_back(std::make_unique<QuantisedMatrix>(w_.data() + first * shape_.cols, rows, shape_.cols));
      parts_.push_back(quantised_.back()->view());
      const std::vector<float> decoded = quantised_.back()->Decoded();
      std::copy(decoded.begin(), decoded.end(), w_.begin() + first * shape_.cols);
      first += rows;
    }
    product_.w.data = parts_.data();
  }

  Shape shape_;
  int64_t depth_, width_;
  std::vector<float> x_, w_, a_, b_, y_, before_;
  std::deque<std::vector<uint16_t>> halves_;
  std::vector<uint8_t> codes_;
  std::vector<float> scales_;
  std::vector<std::unique_ptr<QuantisedMatrix>> quantised_;
  std::vector<Nf4> parts_;
  LowRank factors_;
  std::deque<std::vector<float>> beside_values_;
  std::vector<Beside> beside_;
  Product product_;
};

// Below, at and past the edges of tiles, panels and blocks of the depth of every variant.
const std::vector<Shape>& Shapes() {
  static const std::vector<Shape> shapes = {
      {.tokens = 1, .rows = 1, .cols = 1, .rank = 1, .first = 0, .of = 1},
      {.tokens = 13, .rows = 37, .cols = 29},
      {.tokens = 12, .rows = 32, .cols = 288},
      {.tokens = 7, .rows = 70, .cols = 601, .rank = 5, .first = 23, .of = 35},
      {.tokens = 25, .rows = 600, .cols = 70, .rank = 9, .first = 200, .of = 390},
      {.tokens = 6, .rows = 64, .cols = 576, .rank = 3, .first = 61, .of = 3},
      {.tokens = 14, .rows = 77, .cols = 300, .beside = {4, 7, 1}},
      {.tokens = 9, .rows = 300, .cols = 40, .rank = 2, .first = 30, .of = 100, .beside = {16}},
      // Narrow ones, several blocks deep by rows and by columns.
      {.tokens = 31, .rows = 16, .cols = 1201},
      {.tokens = 25, .rows = 1300, .cols = 43},
      // Several blocks deep in pairs too.
      {.tokens = 26, .rows = 170, .cols = 2405, .beside = {3, 8}},
      {.tokens = 13, .rows = 2404, .cols = 150, .beside = {5}},
  };
  return shapes;
}

class MatMulTest : public ::testing::TestWithParam<MatMulVariant> {};

std::vector<Form> Forms() {
  std::vector<Form> forms;
  for (const Type type : {Type::kF32, Type::kBF16, Type::kInt8, Type::kNf4}) {
    for (const bool accumulate : {true, false})
      forms.push_back({.accumulate = accumulate, .type = type, .few_rows = true});
  }
  for (const bool by_rows : {true, false}) {
    for (const bool accumulate : {true, false}) {
      for (const Type type : {Type::kF32, Type::kBF16, Type::kInt8, Type::kNf4})
        forms.push_back({.by_rows = by_rows, .accumulate = accumulate, .type = type});
    }
  }
  const size_t count = forms.size();
  for (size_t i = 0; i < count; ++i) {
    forms.push_back(forms[i]);
    forms.back().x = Type::kBF16;
  }
  return forms;
}

TEST_P(MatMulTest, EqualsTheSumOfProducts) {
  for (const Shape& shape : Shapes()) {
    for (const Form& form : Forms()) {
      if (form.x == Type::kBF16 && shape.rank > 0) continue;  // nothing is added
      SCOPED_TRACE(testing::Message() << shape.tokens << " tokens, " << shape.rows << " x " << shape.cols << ", bf16 x "
                                      << (form.x == Type::kBF16) << ", few rows " << form.few_rows << ", by rows "
                                      << form.by_rows << ", type " << static_cast<int>(form.type));
      Case c(shape, form);
      RunOn(*GetParam().table, c.product());
      c.Check();
    }
  }
}

TEST_P(MatMulTest, OfFewRowsEachIsAsItIsAlone) {
  for (const Form& form : Forms()) {
    if (!form.few_rows || form.accumulate) continue;
    Case all({.tokens = 5, .rows = 70, .cols = 101}, form);
    RunOn(*GetParam().table, all.product());
    for (int64_t t = 0; t < 5; ++t) {
      Case alone({.tokens = 1, .rows = 70, .cols = 101}, form);
      Product product = alone.product();
      const size_t element = form.x == Type::kBF16 ? sizeof(uint16_t) : sizeof(float);
      product.x.data =
          static_cast<char*>(all.product().x.data) + static_cast<size_t>(t * all.product().x.stride) * element;
      RunOn(*GetParam().table, product);
      for (int64_t o = 0; o < 70; ++o)
        EXPECT_EQ(alone.y()[static_cast<size_t>(o)], all.y()[static_cast<size_t>(t * all.product().y.stride + o)]);
    }
  }
}

TEST_P(MatMulTest, NaNReachesItsRowAlone) {
  Case c({.tokens = 8, .rows = 40, .cols = 40}, {});
  static_cast<float*>(c.product().x.data)[3 * c.product().x.stride + 7] = std::numeric_limits<float>::quiet_NaN();
  RunOn(*GetParam().table, c.product());
  for (int64_t t = 0; t < 8; ++t) {
    for (int64_t o = 0; o < 40; ++o)
      EXPECT_EQ(std::isnan(c.y()[static_cast<size_t>(t * c.product().y.stride + o)]), t == 3) << t << ", " << o;
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, MatMulTest, ::testing::ValuesIn(MatMulVariants()),
                         [](const ::testing::TestParamInfo<MatMulVariant>& info) { return info.param.name; });

void ExpectSameBytesForAnyThreads(const Shape& shape, const Form& form) {
  std::vector<float> first;
  for (const int threads : {1, 2, 3, 64}) {
    Case c(shape, form);
    std::vector<char> workspace(static_cast<size_t>(MatMulWorkspace(c.product(), threads)));
    MatMul(c.product(), workspace.data(), threads);
    c.Check();
    if (first.empty()) first = c.y();
    EXPECT_EQ(c.y(), first) << threads << " threads";
  }
}

TEST(MatMulThreadsTest, AnyNumberOfThreadsGivesTheSameBytes) {
  ExpectSameBytesForAnyThreads(
      {.tokens = 50, .rows = 330, .cols = 577, .rank = 4, .first = 10, .of = 300, .beside = {5, 8}},
      {.accumulate = true, .type = Type::kNf4});
  ExpectSameBytesForAnyThreads({.tokens = 200, .rows = 20, .cols = 1300}, {.accumulate = true});
  ExpectSameBytesForAnyThreads({.tokens = 3, .rows = 330, .cols = 70}, {.few_rows = true});
  ExpectSameBytesForAnyThreads({.tokens = 50, .rows = 330, .cols = 1201, .beside = {5, 8}},
                               {.accumulate = true, .type = Type::kBF16, .x = Type::kBF16});
}

}  // namespace
}  // namespace strata::kernels
