// The loops of mat_mul.h. Included by one .cc per instruction set, which defines STRATA_MAT_MUL_OPS as the name of its
// table's function; internal linkage as in row_ops_impl.h.
//
// y is made in tiles of kTileRows x kPanel that stay in registers over a block of the depth. x is packed once per
// product, so that a tile's rows lie interleaved; w is read, widened and packed a group of panels at a time. That is
// also where low-rank factors join it: a packed panel is a row-major matrix that a tile product can add to. What stands
// beside x and w lengthens the last block of the depth, so that y is not read again for it. A narrow y, of a factor's
// rank, would not be worth x's packing: there all of w is packed, and x read as it lies.
#include <type_traits>

#include "kernels/cpu/decode.h"
#include "kernels/cpu/few_rows_impl.h"
#include "kernels/cpu/mat_mul.h"
#include "kernels/cpu/narrow_impl.h"
#include "kernels/cpu/tile_impl.h"

// NOLINTBEGIN(misc-definitions-in-headers,modernize-use-using): each including file is an instruction set of its own
namespace strata::kernels {
namespace {

#if defined(__AVX512F__)
constexpr int64_t kGroup = 32;
#else
constexpr int64_t kGroup = 8;
#endif
// Panels packed together (kGroup) stay in the second-level cache, and so do the rows of x that meet them (kRowBlock, a
// multiple of kTileRows).
constexpr int64_t kRowBlock = 192;

int64_t Depth(const Product& p) { return p.x.cols; }
int64_t Tokens(const Product& p) { return p.x.rows; }
int64_t FactorFloats(const Product& p, const LowRank& f) { return RoundUp(Depth(p), kTileRows) * f.a.rows; }

int64_t XFloats(const Product& p) { return RoundUp(Tokens(p), kTileRows) * Depth(p); }

int64_t BesideFloats(const Product& p, int64_t f) { return RoundUp(Tokens(p), kTileRows) * p.beside[f].x.cols; }

// Packed are: x, the factors' halves that run along the depth, what stands beside x.
int64_t FactorsEnd(const Product& p) {
  int64_t total = XFloats(p);
  for (int64_t f = 0; f < p.num_added; ++f) total += FactorFloats(p, p.added[f]);
  return total;
}

int64_t WidePackedFloats(const Product& p) {
  int64_t total = FactorsEnd(p);
  for (int64_t f = 0; f < p.num_beside; ++f) total += BesideFloats(p, f);
  return total;
}

// Of one packed panel: kMaxBlock of w's depth, and behind them all that stands beside it.
int64_t PanelFloats(const Product& p) {
  int64_t depth = kMaxBlock;
  for (int64_t f = 0; f < p.num_beside; ++f) depth += p.beside[f].x.cols;
  return depth * kPanel;
}

// Packed panels; behind them the rows that are decoded for one of them, later the factor that is added to it.
int64_t WideScratchFloats(const Product& p) {
  int64_t rank = IsQuantised(p.w.type) && p.by_rows ? kMaxBlock : 0;
  for (int64_t f = 0; f < p.num_added; ++f) rank = Most(rank, p.added[f].a.rows);
  return kGroup * PanelFloats(p) + rank * kPanel;
}

// The factor that runs along the depth, in tiles of it: [tile][rank][kTileRows].
void PackAdded(const Product& p, float* packed) {
  float* out = packed + XFloats(p);
  const int64_t tiles = DivideUp(Depth(p), kTileRows);
  for (int64_t f = 0; f < p.num_added; ++f) {
    const LowRank& factor = p.added[f];
    for (int64_t t = 0; t < tiles; ++t, out += factor.a.rows * kTileRows) {
      if (p.by_rows) {
        PackTileOfColumns(factor.a, t * kTileRows, out);
      } else {
        PackTile(factor.b, t * kTileRows - factor.first_row, 1, out);
      }
    }
  }
}

// Tiles [begin, end) of x and of what stands beside it; the factors with the first.
void PackWide(const Product& p, int64_t begin, int64_t end, float* packed) {
  if (begin == 0) PackAdded(p, packed);
  for (int64_t t = begin; t < end; ++t) PackTile(p.x, t * kTileRows, 1, packed + t * kTileRows * Depth(p));
  float* beside = packed + FactorsEnd(p);
  for (int64_t f = 0; f < p.num_beside; beside += BesideFloats(p, f), ++f) {
    const Rows& x = p.beside[f].x;
    for (int64_t t = begin; t < end; ++t) PackTile(x, t * kTileRows, 1, beside + t * kTileRows * x.cols);
  }
}

// Depth [first, first + depth) of the panel of columns from `col`.
struct Part {
  int64_t first = 0, depth = 0, col = 0;
};

void AddFactors(const Product& p, const float* tiled, const Part& part, float* panel, float* scratch) {
  for (int64_t f = 0; f < p.num_added; ++f, tiled += FactorFloats(p, p.added[f - 1])) {
    const LowRank& factor = p.added[f];
    const int64_t rank = factor.a.rows;
    const int64_t last_row = factor.first_row + factor.b.rows;
    int64_t begin = part.first;
    int64_t end = part.first + part.depth;
    if (p.by_rows) {
      if (part.col + kPanel <= factor.first_row || part.col >= last_row) continue;
      PackByRows<float>(factor.b, part.col - factor.first_row, 0, rank, scratch);
    } else {
      begin = Most(begin, factor.first_row);
      end = Least(end, last_row);
      if (begin >= end) continue;
      PackByColumns<float>(factor.a, 0, part.col, rank, {.data = scratch});
    }
    for (int64_t t = begin / kTileRows; t < DivideUp(end, kTileRows); ++t)
      Tile<true>({.a = tiled + t * rank * kTileRows, .b = scratch, .depth = rank}, {},
                 panel + (t * kTileRows - part.first) * kPanel, kPanel);
  }
}

// Whether `f` adds to the panel of columns from `col`.
bool Meets(const Product& p, int64_t f, int64_t col) {
  const Beside& beside = p.beside[f];
  return !p.by_rows || (col < beside.first_col + beside.w.rows && beside.first_col < col + kPanel);
}

// Behind a panel's block of w: what stands beside it, whether it meets the panel or not.
void PackBeside(const Product& p, int64_t col, float* panel) {
  float* out = panel + kMaxBlock * kPanel;
  for (int64_t f = 0; f < p.num_beside; out += p.beside[f].x.cols * kPanel, ++f) {
    const Beside& beside = p.beside[f];
    if (!Meets(p, f, col)) continue;
    if (p.by_rows) {
      PackByRows<float>(beside.w, col - beside.first_col, 0, beside.x.cols, out);
    } else {
      PackByColumns<float>(beside.w, 0, col, beside.x.cols, {.data = out});
    }
  }
}

// The tile of y's rows from `t` and of the panel's columns.
void AnyTile(const Product& p, const Part& part, int64_t t, const Meeting& m, const Meeting& beside, bool add) {
  float* c = static_cast<float*>(p.y.data) + t * p.y.stride + part.col;
  const int64_t rows = Least(Tokens(p) - t, kTileRows);
  const int64_t cols = Least(p.y.cols - part.col, kPanel);
  if (rows < kTileRows || cols < kPanel) {
    EdgeTile(m, beside, c, p.y.stride, {.rows = rows, .cols = cols}, add);
  } else if (add) {
    Tile<true>(m, beside, c, p.y.stride);
  } else {
    Tile<false>(m, beside, c, p.y.stride);
  }
}

// Rows [begin, end) of y's columns [col, col + kPanel): block [first, first + depth) of the depth, and with the last
// block what stands beside.
void PanelProduct(const Product& p, const float* packed, const float* panel, const Part& part, int64_t begin,
                  int64_t end) {
  const bool add = p.accumulate || part.first > 0;
  const bool last = part.first + part.depth == Depth(p);
  const float* beside_packed = packed + FactorsEnd(p);
  for (int64_t t = begin; t < end; t += kTileRows) {
    Meeting main = {.a = packed + t * Depth(p) + part.first * kTileRows, .b = panel, .depth = part.depth};
    bool adds = add;
    const float* a = beside_packed;
    const float* b = panel + kMaxBlock * kPanel;
    // The first that meets the panel goes with the block; a panel across two ranges meets a second.
    for (int64_t f = 0; last && f < p.num_beside; a += BesideFloats(p, f), b += p.beside[f].x.cols * kPanel, ++f) {
      if (!Meets(p, f, part.col)) continue;
      const int64_t rank = p.beside[f].x.cols;
      AnyTile(p, part, t, main, {.a = a + t * rank, .b = b, .depth = rank}, adds);
      main = {};
      adds = true;
    }
    if (main.depth > 0) AnyTile(p, part, t, main, {}, adds);
  }
}

template <>
void PackByColumns<Quantised>(const Rows& m, int64_t row, int64_t col, int64_t depth, const Panels& panels) {
  const float* book = ScaleBook();
  float values[kGroup * kPanel];
  const int64_t cols = Least(m.cols - col, panels.count * kPanel);
  for (int64_t j = cols; j < panels.count * kPanel; ++j) values[j] = 0;
  for (int64_t p = 0; p < depth; ++p) {
    DecodeRow(m, book, row + p, col, cols, values);
    for (int64_t k = 0; k < panels.count; ++k) {
      float* out = panels.data + k * panels.step + p * kPanel;
      Store(out, Load(values + k * kPanel));
      Store(out + kLanes, Load(values + k * kPanel + kLanes));
    }
  }
}

// Decoded rows [part.col, part.col + kPanel) of w, columns [part.first, part.first + part.depth).
Rows DecodeRows(const Rows& m, const Part& part, float* out) {
  const float* book = ScaleBook();
  const int64_t rows = Least(m.rows - part.col, kPanel);
  for (int64_t r = 0; r < rows; ++r) DecodeRow(m, book, part.col + r, part.first, part.depth, out + r * part.depth);
  return {.data = out, .type = Type::kF32, .rows = rows, .cols = part.depth, .stride = part.depth};
}

// Depth [part.first, part.first + part.depth) of w's columns, or rows, from part.col on.
template <typename T>
void PackPanels(const Product& p, Part part, const Panels& panels, float* scratch) {
  if (!p.by_rows) return PackByColumns<T>(p.w, part.first, part.col, part.depth, panels);
  for (int64_t k = 0; k < panels.count; ++k, part.col += kPanel) {
    float* out = panels.data + k * panels.step;
    if constexpr (std::is_same_v<T, Quantised>) {
      PackByRows<float>(DecodeRows(p.w, part, scratch), 0, 0, part.depth, out);
    } else {
      PackByRows<T>(p.w, part.col, part.first, part.depth, out);
    }
  }
}

// A group of panels is packed; then kRowBlock rows of x at a time, which stay in the second-level cache, meet all of
// it.
template <typename T>
void GroupsOf(const Product& p, const float* packed, int64_t begin, int64_t end, float* scratch) {
  const int64_t depth = Depth(p);
  const int64_t block = BlockOf(depth);
  const int64_t panel_floats = PanelFloats(p);
  float* factor_scratch = scratch + kGroup * panel_floats;
  for (int64_t first = 0; first < depth; first += block) {
    Part part = {.first = first, .depth = Least(block, depth - first)};
    for (int64_t group = begin; group < end; group += kGroup) {
      const Panels panels = {.data = scratch, .count = Least(kGroup, end - group), .step = panel_floats};
      const auto each = [&](const auto& work) {
        for (int64_t k = 0; k < panels.count; ++k) {
          part.col = (group + k) * kPanel;
          work(scratch + k * panel_floats);
        }
      };
      part.col = group * kPanel;
      PackPanels<T>(p, part, panels, factor_scratch);
      each([&](float* panel) {
        if (p.num_added > 0) AddFactors(p, packed + XFloats(p), part, panel, factor_scratch);
        if (part.first + part.depth == depth) PackBeside(p, part.col, panel);
      });
      for (int64_t t = 0; t < Tokens(p); t += kRowBlock) {
        each([&](const float* panel) { PanelProduct(p, packed, panel, part, t, Least(t + kRowBlock, Tokens(p))); });
      }
    }
  }
}

// The columns of w's panels [begin, end).
void WideColumns(const Product& p, const float* packed, int64_t begin, int64_t end, float* scratch) {
  if (IsQuantised(p.w.type)) return GroupsOf<Quantised>(p, packed, begin, end, scratch);
  p.w.type == Type::kF32 ? GroupsOf<float>(p, packed, begin, end, scratch)
                         : GroupsOf<uint16_t>(p, packed, begin, end, scratch);
}

// As many parts a thread as keep it busy where it is slower than the others, and no more than pay.
int64_t PartsOf(int64_t count, int64_t grain, int threads) {
  const int64_t team = Most(threads, 1);
  return Most(1, Least(count, DivideUp(count, grain * team) * team));
}

constexpr int64_t kNarrowGrain = 8;  // tiles

MatMulPlan Plan(const Product& p, int threads) {
  const int64_t tiles = DivideUp(Tokens(p), kTileRows);
  const int64_t panels = DivideUp(p.y.cols, kPanel);
  if (HasFewRows(p)) return {.parts = PartsOf(panels, kGroup, threads), .scratch_floats = FewRowsScratchFloats(p)};
  if (IsNarrow(p))
    return {.packs = NarrowBlocks(p),
            .parts = PartsOf(tiles, kNarrowGrain, threads),
            .packed_floats = NarrowPackedFloats(p),
            .scratch_floats = NarrowScratchFloats(p)};
  return {.packs = tiles,
          .parts = PartsOf(panels, kGroup, threads),
          .packed_floats = WidePackedFloats(p),
          .scratch_floats = WideScratchFloats(p)};
}

void Pack(const Product& p, int64_t begin, int64_t end, float* packed) {
  IsNarrow(p) ? PackNarrow(p, begin, end, packed) : PackWide(p, begin, end, packed);
}

void Compute(const Product& p, const float* packed, int64_t part, int64_t parts, float* scratch) {
  const int64_t count = HasFewRows(p) || !IsNarrow(p) ? DivideUp(p.y.cols, kPanel) : DivideUp(Tokens(p), kTileRows);
  const int64_t begin = count * part / parts;
  const int64_t end = count * (part + 1) / parts;
  if (HasFewRows(p)) return FewRowsColumns(p, begin * kPanel, Least(end * kPanel, p.y.cols), scratch);
  IsNarrow(p) ? NarrowRows(p, packed, begin, end, scratch) : WideColumns(p, packed, begin, end, scratch);
}

constexpr MatMulOps kTable = {.plan = Plan, .pack = Pack, .compute = Compute};

}  // namespace

const MatMulOps& STRATA_MAT_MUL_OPS() { return kTable; }

}  // namespace strata::kernels
// NOLINTEND(misc-definitions-in-headers,modernize-use-using)
