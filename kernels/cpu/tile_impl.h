// A tile of a matrix product in registers, and its operands packed for it: what mat_mul_impl.h, narrow_impl.h and
// attention_impl.h are made of. Internal linkage as in row_ops_impl.h.
#ifndef STRATA_KERNELS_CPU_TILE_IMPL_H_
#define STRATA_KERNELS_CPU_TILE_IMPL_H_

#include <utility>

#include "kernels/cpu/vectors_impl.h"
#include "kernels/cpu/widen.h"

// NOLINTBEGIN(misc-definitions-in-headers,modernize-use-using,google-build-namespaces): as in mat_mul_impl.h
namespace strata::kernels {
namespace {

#if defined(__AVX512F__)
constexpr int kTileRows = 12;
constexpr int64_t kMaxBlock = 240;
#else
constexpr int kTileRows = 6;
constexpr int64_t kMaxBlock = 576;
#endif
// kMaxBlock of the depth at once, a multiple of kTileRows: the longer, the less often y is read again; its panel comes
// from the first or, as fast, the second-level cache.
constexpr int kPanel = 2 * kLanes;

// Blocks of a depth of equal length, but for the last.
int64_t BlockOf(int64_t depth) { return RoundUp(DivideUp(depth, DivideUp(depth, kMaxBlock)), kTileRows); }

// A tile of x, a [kTileRows, depth], and the panel that they meet, b [depth, kPanel].
struct Meeting {
  const float* a = nullptr;
  const float* b = nullptr;
  int64_t depth = 0;
};

// How far apart a's elements lie from row to row and along the depth: packed ones, rows of a matrix, columns of one.
struct Packed {
  static constexpr int64_t Row() { return 1; }
  static constexpr int64_t Step() { return kTileRows; }
};
struct RowsOf {
  int64_t row = 0;
  int64_t Row() const { return row; }
  static constexpr int64_t Step() { return 1; }
};
struct ColumnsOf {
  int64_t step = 0;
  static constexpr int64_t Row() { return 1; }
  int64_t Step() const { return step; }
};

using Sums = Vec[kTileRows][2];

template <typename Place>
inline void Multiply(const Meeting& m, const Place& place, Sums& sum) {
  const float* a = m.a;
  const float* b = m.b;
#pragma GCC unroll 4
  for (int64_t p = 0; p < m.depth; ++p, a += place.Step(), b += kPanel) {
    const Vec b0 = Load(b);
    const Vec b1 = Load(b + kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kTileRows; ++i) {
      const float x = a[i * place.Row()];
      sum[i][0] += x * b0;
      sum[i][1] += x * b1;
    }
  }
}

// c [kTileRows, kPanel] (+)= sum.
template <bool kAdd>
inline void Put(const Sums& sum, float* c, int64_t stride) {
#pragma GCC unroll 16
  for (int i = 0; i < kTileRows; ++i) {
    float* row = c + i * stride;
    Store(row, kAdd ? Load(row) + sum[i][0] : sum[i][0]);
    Store(row + kLanes, kAdd ? Load(row + kLanes) + sum[i][1] : sum[i][1]);
  }
}

struct Extent {
  int64_t rows, cols;
};

// Where only `extent` of a tile exists in c.
void PutPart(const Sums& sum, float* c, int64_t stride, Extent extent, bool add) {
  float whole[kTileRows * kPanel];
  Put<false>(sum, whole, kPanel);
  for (int64_t i = 0; i < extent.rows; ++i) {
    for (int64_t j = 0; j < extent.cols; ++j) {
      float& out = c[i * stride + j];
      out = add ? out + whole[i * kPanel + j] : whole[i * kPanel + j];
    }
  }
}

// c [kTileRows, kPanel] (+)= a b, of both, packed.
template <bool kAdd>
inline void Tile(const Meeting& m, const Meeting& beside, float* c, int64_t stride) {
  for (int i = 0; i < kTileRows; ++i) __builtin_prefetch(c + i * stride, 1);
  Sums sum = {};
  Multiply(m, Packed(), sum);
  if (beside.depth > 0) Multiply(beside, Packed(), sum);
  Put<kAdd>(sum, c, stride);
}

void EdgeTile(const Meeting& m, const Meeting& beside, float* c, int64_t stride, Extent extent, bool add) {
  Sums sum = {};
  Multiply(m, Packed(), sum);
  if (beside.depth > 0) Multiply(beside, Packed(), sum);
  PutPart(sum, c, stride, extent, add);
}

// c (+)= a b where only `extent` of c exists.
template <bool kAdd, typename Place>
inline void TileWithin(const Meeting& m, const Place& place, float* c, int64_t stride, Extent extent) {
  Sums sum = {};
  Multiply(m, place, sum);
  if (extent.rows < kTileRows || extent.cols < kPanel) {
    PutPart(sum, c, stride, extent, kAdd);
  } else {
    Put<kAdd>(sum, c, stride);
  }
}

template <int kHalf, int... kIndex>
inline void Exchange(Vec& a, Vec& b, std::integer_sequence<int, kIndex...> /*lanes*/) {
  const Vec low = __builtin_shufflevector(a, b, ((kIndex & kHalf) == 0 ? kIndex : kIndex - kHalf + kLanes)...);
  const Vec high = __builtin_shufflevector(a, b, ((kIndex & kHalf) == 0 ? kIndex + kHalf : kIndex + kLanes)...);
  a = low;
  b = high;
}

// Rows become columns: ever smaller blocks beside the diagonal change places.
template <int kHalf = kLanes / 2>
inline void Transpose(Vec (&rows)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if ((i & kHalf) == 0) Exchange<kHalf>(rows[i], rows[i + kHalf], std::make_integer_sequence<int, kLanes>());
  }
  if constexpr (kHalf > 1) Transpose<kHalf / 2>(rows);
}

// out[p][j] = m[row + j][col + p] for p < depth, j < kPanel; zero where a row lies outside [0, m.rows).
template <typename T>
void PackByRows(const Rows& m, int64_t row, int64_t col, int64_t depth, float* out) {
  for (int64_t first = 0; first < kPanel; first += kLanes) {
    const bool whole = row + first >= 0 && row + first + kLanes <= m.rows;
    int64_t p = 0;
    for (; whole && p + kLanes <= depth; p += kLanes) {
      Vec block[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) block[i] = Load(Row<T>(m, row + first + i) + col + p);
      Transpose(block);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) Store(out + (p + i) * kPanel + first, block[i]);
    }
    for (; p < depth; ++p) {
      for (int64_t i = 0; i < kLanes; ++i) {
        const int64_t r = row + first + i;
        out[p * kPanel + first + i] = r >= 0 && r < m.rows ? Widen(Row<T>(m, r)[col + p]) : 0.0F;
      }
    }
  }
}

// Panels that lie `step` floats apart.
struct Panels {
  float* data = nullptr;
  int64_t count = 1, step = 0;
};

// Panel k: out[p][j] = m[row + p][col + k * kPanel + j] for p < depth, j < kPanel; zero where a column lies past the
// end.
template <typename T>
void PackByColumns(const Rows& m, int64_t row, int64_t col, int64_t depth, const Panels& panels) {
  for (int64_t p = 0; p < depth; ++p) {
    const T* in = Row<T>(m, row + p) + col;
    // Rows lie a page apart: no prefetcher of the processor's sees them coming.
    for (int64_t k = 0; k < panels.count; ++k) __builtin_prefetch(in + 8 * m.stride + k * kPanel);
    float* out = panels.data + p * kPanel;
    for (int64_t k = 0; k < panels.count; ++k, in += kPanel, out += panels.step) {
      const int64_t cols = Least(m.cols - col - k * kPanel, kPanel);
      if (cols == kPanel) {
        Store(out, Load(in));
        Store(out + kLanes, Load(in + kLanes));
        continue;
      }
      for (int64_t j = 0; j < kPanel; ++j) out[j] = j < cols ? Widen(in[j]) : 0.0F;
    }
  }
}

// out[p][i] = scale * m[row + i][p] for all columns p, i < kTileRows; zero where a row lies outside [0, m.rows).
void PackTile(const Rows& m, int64_t row, float scale, float* out) {
  int64_t p = 0;
  if constexpr (kLanes > kTileRows) {
    // Each store runs over into the next column's place, which is written after it.
    const bool whole = row >= 0 && row + kTileRows <= m.rows;
    for (; whole && p + kLanes < m.cols; p += kLanes) {
      Vec block[kLanes] = {};
#pragma GCC unroll 16
      for (int i = 0; i < kTileRows; ++i) block[i] = Load(Row<float>(m, row + i) + p) * scale;
      Transpose(block);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) Store(out + (p + i) * kTileRows, block[i]);
    }
  }
  for (; p < m.cols; ++p) {
    for (int64_t i = 0; i < kTileRows; ++i) {
      const int64_t r = row + i;
      out[p * kTileRows + i] = r >= 0 && r < m.rows ? scale * Row<float>(m, r)[p] : 0.0F;
    }
  }
}

// out[p][i] = m[p][col + i] for all rows p, i < kTileRows; zero where a column lies past the end.
void PackTileOfColumns(const Rows& m, int64_t col, float* out) {
  for (int64_t p = 0; p < m.rows; ++p, out += kTileRows) {
    const float* in = Row<float>(m, p) + col;
    for (int64_t i = 0; i < kTileRows; ++i) out[i] = col + i < m.cols ? in[i] : 0.0F;
  }
}

}  // namespace
}  // namespace strata::kernels
// NOLINTEND(misc-definitions-in-headers,modernize-use-using,google-build-namespaces)

#endif  // STRATA_KERNELS_CPU_TILE_IMPL_H_
