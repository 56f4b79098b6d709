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
  NarrowBlocks(int64_t depth, int64_t cols)
      : block(BlockOf(depth)), count(DivideUp(depth, block)), panels(DivideUp(cols, kPanel)) {}
  int64_t floats() const { return panels * kPanel * count * block; }
  int64_t block, count, panels;
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

// y's rows from `t` on, at most a tile of them; an element is summed as in a wide product.
template <typename X>
void NarrowTile(const Product& p, const float* packed, int64_t t, float* scratch) {
  using U = UnitOf<X>;
  const int64_t depth = UnitsOf<U>(p.x.cols);
  const NarrowBlocks all(depth, p.y.cols);
  const int64_t rows = Least(p.x.rows - t, kTileRows);
  // Read as it lies, if units of its elements lie there.
  constexpr bool kLies = std::is_same_v<X, float> || std::is_same_v<U, Pair>;
  const bool lies = kLies && rows == kTileRows && p.x.cols % kPerUnit<U> == 0;
  if (!lies) PackTile<U, X>(p.x, t, scratch);
  float* before = scratch + kTileRows * depth;  // sums of the blocks before
  for (int64_t k = 0; k < all.panels; ++k) {
    X* y = static_cast<X*>(p.y.data) + t * p.y.stride + k * kPanel;
    const Extent extent = {.rows = rows, .cols = Least(p.y.cols - k * kPanel, kPanel)};
    for (int64_t first = 0; first < depth; first += all.block) {
      Meeting m = {.b = packed + (first * all.panels + k * all.block) * kPanel,
                   .depth = Least(all.block, depth - first)};
      Sums sum = {};
      if (lies) {
        m.a = Row<X>(p.x, t) + first * kPerUnit<U>;
        Multiply<U>(m, RowsOf{.row = p.x.stride * static_cast<int64_t>(sizeof(X))}, sum);
      } else {
        m.a = scratch + first * kTileRows;
        Multiply<U>(m, Packed(), sum);
      }
      if (first > 0) {
        AddWhole(before, kPanel, sum);
      } else if (p.accumulate) {
        Add(y, p.y.stride, extent, sum);
      }
      if (first + all.block < depth) {
        PutWhole(sum, before, kPanel);
      } else {
        Put(sum, y, p.y.stride, extent);
      }
    }
  }
}

// Tiles [begin, end) of y's rows.
template <typename X>
void NarrowRows(const Product& p, const float* packed, int64_t begin, int64_t end, float* scratch) {
  for (int64_t t = begin * kTileRows; t < Least(end * kTileRows, p.x.rows); t += kTileRows)
    NarrowTile<X>(p, packed, t, scratch);
}

}  // namespace
}  // namespace strata::kernels
// NOLINTEND(misc-definitions-in-headers,google-build-namespaces)

#endif  // STRATA_KERNELS_CPU_NARROW_IMPL_H_
