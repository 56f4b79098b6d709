// The matrix product of a narrow y, as wide as a factor's rank: all of w is packed, and x, whose packing would be most
// of the work, is read as it lies. Internal linkage as in row_ops_impl.h.
#ifndef STRATA_KERNELS_CPU_NARROW_IMPL_H_
#define STRATA_KERNELS_CPU_NARROW_IMPL_H_

#include <type_traits>

#include "kernels/cpu/tile_impl.h"

// NOLINTBEGIN(misc-definitions-in-headers,google-build-namespaces): as in mat_mul_impl.h
namespace strata::kernels {
namespace {

constexpr int64_t kNarrow = 4;  // panels

bool IsNarrow(const Product& p) {
  return p.y.cols <= kNarrow * kPanel && p.num_added == 0 && p.num_beside == 0 && !IsQuantised(p.w.type);
}

// A narrow w packed: [block][panel][depth of a block][kPanel]; depths in units.
struct NarrowBlocks {
  NarrowBlocks(int64_t units, int64_t cols)
      : depth(units), block(BlockOf(depth)), count(DivideUp(depth, block)), panels(DivideUp(cols, kPanel)) {}
  int64_t floats() const { return panels * kPanel * count * block; }
  int64_t depth, block, count, panels;
};

// Blocks [begin, end) of w's depth.
template <typename X, typename T>
void PackNarrow(const Product& p, int64_t begin, int64_t end, float* packed) {
  using U = UnitOf<X>;
  const NarrowBlocks all(UnitsOf<U>(p.x.cols), p.y.cols);
  const int64_t block = all.block * kPerUnit<U>;
  for (int64_t first = begin * block; first < Least(end * block, p.x.cols); first += block) {
    const int64_t depth = Least(block, p.x.cols - first);
    float* out = packed + first / kPerUnit<U> * all.panels * kPanel;
    if (!p.by_rows) {
      PackByColumns<U, T>(p.w, first, 0, depth, {.data = out, .count = all.panels, .step = all.block * kPanel});
      continue;
    }
    for (int64_t k = 0; k < all.panels; ++k)
      PackByRows<U, T>(p.w, k * kPanel, first, depth, out + k * all.block * kPanel);
  }
}

// What becomes of a tile's sums over the block of the depth from `first`: y's rows from `t` on, columns of panel `k`.
// `before` [kTileRows, kPanel] has them over the blocks before. An element is summed as in a wide product.
template <typename X>
inline void PutBlock(const Product& p, const NarrowBlocks& all, int64_t t, int64_t k, int64_t first, float* before,
                     Sums& sum) {
  X* y = Row<X>(p.y, t) + k * kPanel;
  const Extent extent = {.rows = Least(p.x.rows - t, kTileRows), .cols = Least(p.y.cols - k * kPanel, kPanel)};
  if (first > 0) {
    AddWhole(before, kPanel, sum);
  } else if (p.accumulate) {
    Add(y, p.y.stride, extent, sum);
  }
  if (first + all.block < all.depth) {
    PutWhole(sum, before, kPanel);
  } else {
    Put(sum, y, p.y.stride, extent);
  }
}

// Whether x is read as it lies: units of its elements lie there.
template <typename X>
bool Lies(const Product& p) {
  return (std::is_same_v<X, float> || std::is_same_v<UnitOf<X>, Pair>)&&p.x.cols % kPerUnit<UnitOf<X>> == 0;
}

template <typename X>
RowsOf PlaceOfRows(const Product& p) {
  return {.row = p.x.stride * static_cast<int64_t>(sizeof(X))};
}

// y's rows from `t` on, at most a tile of them.
template <typename X>
void NarrowTile(const Product& p, const float* packed, int64_t t, float* scratch) {
  using U = UnitOf<X>;
  const NarrowBlocks all(UnitsOf<U>(p.x.cols), p.y.cols);
  const bool lies = Lies<X>(p) && t + kTileRows <= p.x.rows;
  float* before = scratch;
  float* tile = before + kTileRows * kPanel;
  if (!lies) PackTile<U, X>(p.x, t, tile);
  for (int64_t k = 0; k < all.panels; ++k) {
    for (int64_t first = 0; first < all.depth; first += all.block) {
      Meeting m = {.b = packed + (first * all.panels + k * all.block) * kPanel,
                   .depth = Least(all.block, all.depth - first)};
      Sums sum = {};
      if (lies) {
        m.a = Row<X>(p.x, t) + first * kPerUnit<U>;
        Multiply<U>(m, PlaceOfRows<X>(p), sum);
      } else {
        m.a = tile + first * kTileRows;
        Multiply<U>(m, Packed(), sum);
      }
      PutBlock<X>(p, all, t, k, first, before, sum);
    }
  }
}

// Two tiles that lie below one another, where half a panel is as wide as y.
template <typename X>
void TallTile(const Product& p, const float* packed, int64_t t, float* scratch) {
  using U = UnitOf<X>;
  const NarrowBlocks all(UnitsOf<U>(p.x.cols), p.y.cols);
  for (int64_t first = 0; first < all.depth; first += all.block) {
    TallSums tall = {};
    Multiply<U>({.a = Row<X>(p.x, t) + first * kPerUnit<U>,
                 .b = packed + first * kPanel,
                 .depth = Least(all.block, all.depth - first)},
                PlaceOfRows<X>(p), tall);
    for (int half = 0; half < 2; ++half) {
      Sums sum = {};
#pragma GCC unroll 16
      for (int i = 0; i < kTileRows; ++i) sum[i][0] = tall[half * kTileRows + i][0];
      PutBlock<X>(p, all, t + half * kTileRows, 0, first, scratch + half * kTileRows * kPanel, sum);
    }
  }
}

// Of one call of NarrowRows.
int64_t NarrowScratchFloats(int64_t depth) { return kTileRows * (2 * kPanel + depth); }

// Tiles [begin, end) of y's rows.
template <typename X>
void NarrowRows(const Product& p, const float* packed, int64_t begin, int64_t end, float* scratch) {
  const int64_t last = Least(end * kTileRows, p.x.rows);
  int64_t t = begin * kTileRows;
  if (p.y.cols <= kLanes && Lies<X>(p)) {
    for (; t + 2 * kTileRows <= last; t += 2 * kTileRows) TallTile<X>(p, packed, t, scratch);
  }
  for (; t < last; t += kTileRows) NarrowTile<X>(p, packed, t, scratch);
}

}  // namespace
}  // namespace strata::kernels
// NOLINTEND(misc-definitions-in-headers,google-build-namespaces)

#endif  // STRATA_KERNELS_CPU_NARROW_IMPL_H_
