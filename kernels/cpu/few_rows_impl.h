// The matrix product of a few rows of x: w's rows are read once, as they lie, and each gives dot products with all of
// x. Packing w, as mat_mul_impl.h does, would be most of the work. Internal linkage as in row_ops_impl.h.
#ifndef STRATA_KERNELS_CPU_FEW_ROWS_IMPL_H_
#define STRATA_KERNELS_CPU_FEW_ROWS_IMPL_H_

#include <type_traits>
#include <utility>

#include "kernels/cpu/decode.h"
#include "kernels/cpu/units_impl.h"

// NOLINTBEGIN(misc-definitions-in-headers,google-build-namespaces): as in mat_mul_impl.h
namespace strata::kernels {
namespace {

// Stands for the element type of quantised weights.
struct Quantised {};

constexpr int kTogether = 4;  // rows of w that meet a few rows of x at once

template <int kHalf, int... kIndex>
inline Vec Swapped(Vec v, std::integer_sequence<int, kIndex...> /*lanes*/) {
  return __builtin_shufflevector(v, v, (kIndex ^ kHalf)...);
}

// The sum of a vector's lanes, halves first.
template <int kHalf = kLanes / 2>
inline float SumOf(Vec v) {
  const Vec sum = v + Swapped<kHalf>(v, std::make_integer_sequence<int, kLanes>());
  if constexpr (kHalf > 1) {
    return SumOf<kHalf / 2>(sum);
  } else {
    return sum[0];
  }
}

// y[t + i][col + j] (+)= x[t + i] . w[j] for i < kX, j < kW; `w`: row j is at w + j * stride. kAhead: the kW rows
// behind them come next; each is too short for the processor's prefetchers.
template <typename X, typename T, int kX, int kW, bool kAhead>
inline void Dots(const Product& p, int64_t t, const T* w, int64_t stride, int64_t col) {
  using U = UnitOf<X>;
  constexpr int64_t kStep = kLanes * kPerUnit<U>;
  const X* x = Row<X>(p.x, t);
  const int64_t whole = p.x.cols / kStep * kStep;
  Vec sum[kX][kW] = {};
  for (int64_t k = 0; k < whole; k += kStep) {
    Vec b[kW];
#pragma GCC unroll 4
    for (int j = 0; kAhead && j < kW; ++j) __builtin_prefetch(w + (kW + j) * stride + k);
#pragma GCC unroll 4
    for (int j = 0; j < kW; ++j) b[j] = LoadUnits<U>(w + j * stride + k);
#pragma GCC unroll 4
    for (int i = 0; i < kX; ++i) {
      const Vec a = LoadUnits<U>(x + i * p.x.stride + k);
#pragma GCC unroll 4
      for (int j = 0; j < kW; ++j) sum[i][j] = MultiplyLanes<U>(a, b[j], sum[i][j]);
    }
  }
  for (int i = 0; i < kX; ++i) {
    X* y = static_cast<X*>(p.y.data) + (t + i) * p.y.stride + col;
    for (int j = 0; j < kW; ++j) {
      float total = SumOf(sum[i][j]);
      for (int64_t k = whole; k < p.x.cols; ++k) total += Widen(x[i * p.x.stride + k]) * Widen(w[j * stride + k]);
      y[j] = Narrow<X>(p.accumulate ? Widen(y[j]) + total : total);
    }
  }
}

template <typename X, typename T, int kW, bool kAhead>
void AllDots(const Product& p, const T* w, int64_t stride, int64_t col) {
  int64_t t = 0;
  if constexpr (kLanes == 16) {  // twice the registers
    for (; t + 4 <= p.x.rows; t += 4) Dots<X, T, 4, kW, kAhead>(p, t, w, stride, col);
  }
  for (; t + 2 <= p.x.rows; t += 2) Dots<X, T, 2, kW, kAhead>(p, t, w, stride, col);
  if (t < p.x.rows) Dots<X, T, 1, kW, kAhead>(p, t, w, stride, col);
}

// Decoded values become what units are made of: bf16 in the first half of their memory, where those are pairs.
template <typename U>
auto Prepared(float* values, int64_t count) {
  if constexpr (std::is_same_v<U, float>) {
    return static_cast<const float*>(values);
  } else {
    auto* halves = reinterpret_cast<uint16_t*>(values);
    constexpr int64_t kStep = kLanes * kPerUnit<U>;
    int64_t i = 0;
    for (; i + kStep <= count; i += kStep) Store(values + i / kPerUnit<U>, LoadUnits<U>(values + i));
    for (; i < count; ++i) halves[i] = Narrow<uint16_t>(values[i]);
    return static_cast<const uint16_t*>(halves);
  }
}

// A rule that must not depend on how many rows x has.
bool HasFewRows(const Product& p) { return p.few_rows && p.by_rows && p.num_added == 0 && p.num_beside == 0; }

int64_t FewRowsScratchFloats(const Product& p) { return IsQuantised(p.w.type) ? kTogether * p.w.cols : 0; }

// Columns [begin, end) of y, w's rows as they lie or, quantised, decoded some at a time.
template <typename X, typename T>
void FewRowsColumns(const Product& p, int64_t begin, int64_t end, float* scratch) {
  for (int64_t col = begin; col < end; col += kTogether) {
    const bool together = col + kTogether <= end;
    if constexpr (std::is_same_v<T, Quantised>) {
      const int64_t rows = together ? kTogether : end - col;
      for (int64_t r = 0; r < rows; ++r) DecodeRow(p.w, ScaleBook(), col + r, 0, p.w.cols, scratch + r * p.w.cols);
      const auto* w = Prepared<UnitOf<X>>(scratch, rows * p.w.cols);
      using W = std::remove_cvref_t<decltype(*w)>;
      if (together) AllDots<X, W, kTogether, false>(p, w, p.w.cols, col);
      for (int64_t r = 0; !together && r < rows; ++r) AllDots<X, W, 1, false>(p, w + r * p.w.cols, p.w.cols, col + r);
    } else if (together) {
      AllDots<X, T, kTogether, true>(p, Row<T>(p.w, col), p.w.stride, col);
    } else {
      for (int64_t c = col; c < end; ++c) AllDots<X, T, 1, false>(p, Row<T>(p.w, c), p.w.stride, c);
    }
  }
}

}  // namespace
}  // namespace strata::kernels
// NOLINTEND(misc-definitions-in-headers,google-build-namespaces)

#endif  // STRATA_KERNELS_CPU_FEW_ROWS_IMPL_H_
