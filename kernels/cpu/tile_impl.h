// A tile of a matrix product in registers, and its operands packed for it: what mat_mul_impl.h, narrow_impl.h and
// attention_impl.h are made of. Internal linkage as in row_ops_impl.h.
#ifndef STRATA_KERNELS_CPU_TILE_IMPL_H_
#define STRATA_KERNELS_CPU_TILE_IMPL_H_

#include <utility>

#include "kernels/cpu/units_impl.h"

// NOLINTBEGIN(misc-definitions-in-headers,modernize-use-using,google-build-namespaces): as in mat_mul_impl.h
namespace strata::kernels {
namespace {

#if defined(__AVX512F__)
constexpr int kTileRows = 12;
#else
constexpr int kTileRows = 6;
#endif
// Units of the depth at once, a multiple of kTileRows: the longer, the less often sums are put down; a panel of them
// comes from the first or, as fast, the second-level cache.
constexpr int64_t kMaxBlock = 576;
constexpr int kPanel = 2 * kLanes;

// Blocks of a depth of equal length, but for the last; both in units.
int64_t BlockOf(int64_t depth) { return RoundUp(DivideUp(depth, DivideUp(depth, kMaxBlock)), kTileRows); }

// A tile of x, a [kTileRows, depth], and the panel that they meet, b [depth, kPanel]; depth in units.
struct Meeting {
  const void* a = nullptr;
  const float* b = nullptr;
  int64_t depth = 0;
};

// How many bytes apart a's units lie from row to row and along the depth: packed ones, rows of a matrix, columns of
// one.
struct Packed {
  static constexpr int64_t Row() { return sizeof(float); }
  static constexpr int64_t Step() { return kTileRows * sizeof(float); }
};
struct RowsOf {
  int64_t row = 0;
  int64_t Row() const { return row; }
  static constexpr int64_t Step() { return sizeof(float); }
};
struct ColumnsOf {
  int64_t step = 0;
  static constexpr int64_t Row() { return sizeof(float); }
  int64_t Step() const { return step; }
};

using Sums = Vec[kTileRows][2];
using TallSums = Vec[2 * kTileRows][1];  // twice the rows against the first half of the panel

// sum += a b.
template <typename U, typename Place, int kRows, int kVectors>
inline void Multiply(const Meeting& m, const Place& place, Vec (&sum)[kRows][kVectors]) {
  const char* a = static_cast<const char*>(m.a);
  const float* b = m.b;
#pragma GCC unroll 4
  for (int64_t p = 0; p < m.depth; ++p, a += place.Step(), b += kPanel) {
    Vec columns[kVectors];
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) columns[j] = Load(b + j * kLanes);
#pragma GCC unroll 32
    for (int i = 0; i < kRows; ++i) {
      const U x = ReadUnit<U>(a + i * place.Row());
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) sum[i][j] = MultiplyAdd(x, columns[j], sum[i][j]);
    }
  }
}

inline void Scale(float factor, Sums& sum) {
#pragma GCC unroll 16
  for (auto& row : sum) {
    row[0] *= factor;
    row[1] *= factor;
  }
}

// How much of a tile exists in a matrix.
struct Extent {
  int64_t rows = kTileRows, cols = kPanel;
  bool whole() const { return rows == kTileRows && cols == kPanel; }
};

template <typename C>
inline void PutWhole(const Sums& sum, C* c, int64_t stride) {
#pragma GCC unroll 16
  for (int i = 0; i < kTileRows; ++i) {
    Store(c + i * stride, sum[i][0]);
    Store(c + i * stride + kLanes, sum[i][1]);
  }
}

template <typename C>
inline void AddWhole(const C* c, int64_t stride, Sums& sum) {
#pragma GCC unroll 16
  for (int i = 0; i < kTileRows; ++i) {
    sum[i][0] = Load(c + i * stride) + sum[i][0];
    sum[i][1] = Load(c + i * stride + kLanes) + sum[i][1];
  }
}

// c = sum.
template <typename C>
inline void Put(const Sums& sum, C* c, int64_t stride, const Extent& extent) {
  if (extent.whole()) return PutWhole(sum, c, stride);
  float all[kTileRows * kPanel];
  PutWhole(sum, all, kPanel);
  for (int64_t i = 0; i < extent.rows; ++i) {
    for (int64_t j = 0; j < extent.cols; ++j) c[i * stride + j] = Narrow<C>(all[i * kPanel + j]);
  }
}

// sum += c.
template <typename C>
inline void Add(const C* c, int64_t stride, const Extent& extent, Sums& sum) {
  if (extent.whole()) return AddWhole(c, stride, sum);
  float all[kTileRows * kPanel] = {};
  for (int64_t i = 0; i < extent.rows; ++i) {
    for (int64_t j = 0; j < extent.cols; ++j) all[i * kPanel + j] = Widen(c[i * stride + j]);
  }
  AddWhole(all, kPanel, sum);
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

// out[p][j] = unit p of m[row + j][col..col + depth), j < kPanel; zero where a row lies outside [0, m.rows).
template <typename U, typename T>
void PackByRows(const Rows& m, int64_t row, int64_t col, int64_t depth, float* out) {
  constexpr int64_t kEach = kPerUnit<U>;
  for (int64_t first = 0; first < kPanel; first += kLanes) {
    const bool whole = row + first >= 0 && row + first + kLanes <= m.rows;
    int64_t p = 0;
    for (; whole && (p + kLanes) * kEach <= depth; p += kLanes) {
      Vec block[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) block[i] = LoadUnits<U>(Row<T>(m, row + first + i) + col + p * kEach);
      Transpose(block);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) Store(out + (p + i) * kPanel + first, block[i]);
    }
    for (; p * kEach < depth; ++p) {
      for (int64_t i = 0; i < kLanes; ++i) {
        const int64_t r = row + first + i;
        const bool exists = r >= 0 && r < m.rows;
        WriteUnit(out + p * kPanel + first + i,
                  exists ? UnitAt<U>(Row<T>(m, r) + col + p * kEach, depth - p * kEach) : U());
      }
    }
  }
}

// Panels that lie `step` units apart.
struct Panels {
  float* data = nullptr;
  int64_t count = 1, step = 0;
};

// out[k][j] = the unit of in[k * kPanel + j] and, where there is one and units are pairs, next[k * kPanel + j], of rows
// that have `cols` such elements; zero behind them.
template <typename U, typename T>
inline void PackRow(const T* in, const T* next, int64_t cols, const Panels& out) {
  const T none[kPanel] = {};
  float* to = out.data;
  for (int64_t k = 0; k < out.count; ++k, cols -= kPanel, in += kPanel, to += out.step) {
    const T* below = next == nullptr ? none : next + k * kPanel;
    if (cols >= kPanel) {
      Store(to, LoadColumns<U, T>(in, below));
      Store(to + kLanes, LoadColumns<U, T>(in + kLanes, below + kLanes));
      continue;
    }
    for (int64_t j = 0; j < kPanel; ++j) {
      const T both[2] = {j < cols ? in[j] : T(), j < cols ? below[j] : T()};
      WriteUnit(to + j, UnitAt<U>(both, 2));
    }
  }
}

// Panel k: out[p][j] = unit p of m[row..row + depth)[col + k * kPanel + j], j < kPanel; zero where a column lies past
// the end.
template <typename U, typename T>
void PackByColumns(const Rows& m, int64_t row, int64_t col, int64_t depth, Panels panels) {
  constexpr int64_t kEach = kPerUnit<U>;
  for (int64_t p = 0; p < depth; p += kEach, panels.data += kPanel) {
    const T* in = Row<T>(m, row + p) + col;
    // Rows lie a page apart: no prefetcher of the processor's sees them coming.
    for (int64_t e = 0; e < kEach; ++e) {
      for (int64_t k = 0; k < panels.count; ++k) __builtin_prefetch(in + (8 + e) * m.stride + k * kPanel);
    }
    PackRow<U, T>(in, p + 1 < depth ? in + m.stride : nullptr, m.cols - col, panels);
  }
}

// out[p][i] = unit p of m[row + i], i < kTileRows; zero where a row lies outside [0, m.rows).
template <typename U, typename T>
void PackTile(const Rows& m, int64_t row, float* out) {
  constexpr int64_t kEach = kPerUnit<U>;
  const int64_t units = UnitsOf<U>(m.cols);
  int64_t p = 0;
  if constexpr (kLanes > kTileRows) {
    // Each store runs over into the next unit's place, which is written after it.
    const bool whole = row >= 0 && row + kTileRows <= m.rows;
    for (; whole && p + kLanes < units; p += kLanes) {
      Vec block[kLanes] = {};
#pragma GCC unroll 16
      for (int i = 0; i < kTileRows; ++i) block[i] = LoadUnits<U>(Row<T>(m, row + i) + p * kEach);
      Transpose(block);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) Store(out + (p + i) * kTileRows, block[i]);
    }
  }
  for (; p < units; ++p) {
    for (int64_t i = 0; i < kTileRows; ++i) {
      const int64_t r = row + i;
      const bool exists = r >= 0 && r < m.rows;
      WriteUnit(out + p * kTileRows + i, exists ? UnitAt<U>(Row<T>(m, r) + p * kEach, m.cols - p * kEach) : U());
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
