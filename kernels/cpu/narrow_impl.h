// The matrix product of a narrow y, as wide as a factor's rank: all of w is packed, and x, whose packing would be most
// of the work, is read as it lies. Internal linkage as in row_ops_impl.h.
#ifndef STRATA_KERNELS_CPU_NARROW_IMPL_H_
#define STRATA_KERNELS_CPU_NARROW_IMPL_H_

#include "kernels/cpu/tile_impl.h"

// NOLINTBEGIN(misc-definitions-in-headers,google-build-namespaces): as in mat_mul_impl.h
namespace strata::kernels {
namespace {

constexpr int64_t kNarrow = 4;  // panels

bool IsNarrow(const Product& p) {
  return p.y.cols <= kNarrow * kPanel && p.num_added == 0 && p.num_beside == 0 && !IsQuantised(p.w.type);
}

int64_t NarrowPanels(const Product& p) { return DivideUp(p.y.cols, kPanel); }
int64_t NarrowBlocks(const Product& p) { return DivideUp(p.x.cols, BlockOf(p.x.cols)); }
int64_t NarrowPackedFloats(const Product& p) { return NarrowPanels(p) * kPanel * NarrowBlocks(p) * BlockOf(p.x.cols); }
// A tile of x that does not exist whole.
int64_t NarrowScratchFloats(const Product& p) { return kTileRows * p.x.cols; }

template <typename T>
void PackBlock(const Product& p, int64_t first, int64_t depth, const Panels& panels) {
  if (!p.by_rows) return PackByColumns<T>(p.w, first, 0, depth, panels);
  for (int64_t k = 0; k < panels.count; ++k)
    PackByRows<T>(p.w, k * kPanel, first, depth, panels.data + k * panels.step);
}

// Blocks [begin, end) of w's depth: [block][panel][depth of a block][kPanel].
void PackNarrow(const Product& p, int64_t begin, int64_t end, float* packed) {
  const int64_t block = BlockOf(p.x.cols);
  const int64_t count = NarrowPanels(p);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t depth = Least(block, p.x.cols - i * block);
    const Panels panels = {.data = packed + i * count * block * kPanel, .count = count, .step = block * kPanel};
    p.w.type == Type::kF32 ? PackBlock<float>(p, i * block, depth, panels)
                           : PackBlock<uint16_t>(p, i * block, depth, panels);
  }
}

template <typename Place>
void AnyWithin(const Meeting& m, const Place& place, float* c, int64_t stride, Extent extent, bool add) {
  add ? TileWithin<true>(m, place, c, stride, extent) : TileWithin<false>(m, place, c, stride, extent);
}

// y's rows from `t` on, at most a tile of them; an element is summed as in a wide product.
void NarrowTile(const Product& p, const float* packed, int64_t t, float* scratch) {
  const int64_t block = BlockOf(p.x.cols);
  const int64_t count = NarrowPanels(p);
  const int64_t rows = Least(p.x.rows - t, kTileRows);
  const bool whole = rows == kTileRows;
  if (!whole) PackTile(p.x, t, 1, scratch);
  for (int64_t first = 0; first < p.x.cols; first += block) {
    const bool add = p.accumulate || first > 0;
    for (int64_t k = 0; k < count; ++k) {
      const int64_t cols = Least(p.y.cols - k * kPanel, kPanel);
      float* c = static_cast<float*>(p.y.data) + t * p.y.stride + k * kPanel;
      Meeting m = {.b = packed + (first * count + k * block) * kPanel, .depth = Least(block, p.x.cols - first)};
      const Extent extent = {.rows = rows, .cols = cols};
      if (whole) {
        m.a = Row<float>(p.x, t) + first;
        AnyWithin(m, RowsOf{.row = p.x.stride}, c, p.y.stride, extent, add);
      } else {
        m.a = scratch + first * kTileRows;
        AnyWithin(m, Packed(), c, p.y.stride, extent, add);
      }
    }
  }
}

// Tiles [begin, end) of y's rows.
void NarrowRows(const Product& p, const float* packed, int64_t begin, int64_t end, float* scratch) {
  for (int64_t t = begin * kTileRows; t < Least(end * kTileRows, p.x.rows); t += kTileRows)
    NarrowTile(p, packed, t, scratch);
}

}  // namespace
}  // namespace strata::kernels
// NOLINTEND(misc-definitions-in-headers,google-build-namespaces)

#endif  // STRATA_KERNELS_CPU_NARROW_IMPL_H_
