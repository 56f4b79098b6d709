// The loops of mat_mul.h. Included by one .cc per instruction set, which defines STRATA_MAT_MUL_OPS as the name of its
// table's function; internal linkage as in row_ops_impl.h.
//
// y is made in tiles of kTileRows x kPanel that stay in registers over a block of the depth. x is packed once per
// product, so that a tile's rows lie interleaved; w is read, turned into units and packed a group of panels at a time.
// That is also where low-rank factors join it: a packed panel of fp32 is a row-major matrix that a tile product can add
// to. What stands beside x and w lengthens the last block of the depth, so that y is not read again for it. A narrow y,
// of a factor's rank, would not be worth x's packing: there all of w is packed, and x read as it lies.
//
// Functions are templates of the types of x's elements (X) and w's (T).
#include <type_traits>

#include "kernels/cpu/decode.h"
#include "kernels/cpu/few_rows_impl.h"
#include "kernels/cpu/mat_mul.h"
#include "kernels/cpu/narrow_impl.h"
#include "kernels/cpu/tile_impl.h"

// NOLINTBEGIN(misc-definitions-in-headers,modernize-use-using): each including file is an instruction set of its own
namespace strata::kernels {
namespace {

constexpr int64_t kGroup = 96 / kPanel;
// Panels packed together (kGroup) stay in the second-level cache, and so do the rows of x that meet them (kRowBlock, a
// multiple of kTileRows).
constexpr int64_t kRowBlock = 192;

int64_t Depth(const Product& p) { return p.x.cols; }
int64_t Tokens(const Product& p) { return p.x.rows; }

// Elements of the depth in a unit of p's operands, and units of so many.
int64_t PerUnit(const Product& p) { return p.x.type == Type::kBF16 ? kPerUnit<UnitOf<uint16_t>> : 1; }
int64_t Units(const Product& p, int64_t depth) { return DivideUp(depth, PerUnit(p)); }

// Floats, each a unit, of packed operands.
int64_t FactorFloats(const Product& p, const LowRank& f) { return RoundUp(Depth(p), kTileRows) * f.a.rows; }
int64_t XFloats(const Product& p) { return RoundUp(Tokens(p), kTileRows) * Units(p, Depth(p)); }
int64_t BesideFloats(const Product& p, int64_t f) {
  return RoundUp(Tokens(p), kTileRows) * Units(p, p.beside[f].x.cols);
}

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
  for (int64_t f = 0; f < p.num_beside; ++f) depth += Units(p, p.beside[f].x.cols);
  return depth * kPanel;
}

// One for a panel: the rows that are decoded for it, later the factor that is added to it.
int64_t PanelScratchFloats(const Product& p) {
  int64_t depth = IsQuantised(p.w.type) && p.by_rows ? kMaxBlock * PerUnit(p) : 0;
  for (int64_t f = 0; f < p.num_added; ++f) depth = Most(depth, p.added[f].a.rows);
  return depth * kPanel;
}

// Sums of a group between blocks of the depth, where y would round them.
int64_t SumFloats(const Product& p) {
  const bool rounds = p.y.type == Type::kBF16 && Units(p, Depth(p)) > kMaxBlock;
  return rounds ? RoundUp(Tokens(p), kTileRows) * kGroup * kPanel : 0;
}

int64_t WideScratchFloats(const Product& p) { return kGroup * PanelFloats(p) + PanelScratchFloats(p) + SumFloats(p); }

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
        PackTile<float, float>(factor.b, t * kTileRows - factor.first_row, out);
      }
    }
  }
}

// Tiles [begin, end) of x and of what stands beside it; the factors with the first.
template <typename X>
void PackWide(const Product& p, int64_t begin, int64_t end, float* packed) {
  using U = UnitOf<X>;
  if (begin == 0) PackAdded(p, packed);
  for (int64_t t = begin; t < end; ++t) PackTile<U, X>(p.x, t * kTileRows, packed + t * kTileRows * Units(p, Depth(p)));
  float* beside = packed + FactorsEnd(p);
  for (int64_t f = 0; f < p.num_beside; beside += BesideFloats(p, f), ++f) {
    const Rows& x = p.beside[f].x;
    for (int64_t t = begin; t < end; ++t) PackTile<U, X>(x, t * kTileRows, beside + t * kTileRows * Units(p, x.cols));
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
      PackByRows<float, float>(factor.b, part.col - factor.first_row, 0, rank, scratch);
    } else {
      begin = Most(begin, factor.first_row);
      end = Least(end, last_row);
      if (begin >= end) continue;
      PackByColumns<float, float>(factor.a, 0, part.col, rank, {.data = scratch});
    }
    for (int64_t t = begin / kTileRows; t < DivideUp(end, kTileRows); ++t) {
      float* rows = panel + (t * kTileRows - part.first) * kPanel;
      Sums sum = {};
      Multiply<float>({.a = tiled + t * rank * kTileRows, .b = scratch, .depth = rank}, Packed(), sum);
      AddWhole(rows, kPanel, sum);
      PutWhole(sum, rows, kPanel);
    }
  }
}

// Whether `f` adds to the panel of columns from `col`.
bool Meets(const Product& p, int64_t f, int64_t col) {
  const Beside& beside = p.beside[f];
  return !p.by_rows || (col < beside.first_col + beside.w.rows && beside.first_col < col + kPanel);
}

// Behind a panel's block of w: what stands beside it, whether it meets the panel or not.
template <typename X>
void PackBeside(const Product& p, int64_t col, float* panel) {
  using U = UnitOf<X>;
  float* out = panel + kMaxBlock * kPanel;
  for (int64_t f = 0; f < p.num_beside; out += Units(p, p.beside[f].x.cols) * kPanel, ++f) {
    const Beside& beside = p.beside[f];
    if (!Meets(p, f, col)) continue;
    if (p.by_rows) {
      PackByRows<U, X>(beside.w, col - beside.first_col, 0, beside.x.cols, out);
    } else {
      PackByColumns<U, X>(beside.w, 0, col, beside.x.cols, {.data = out});
    }
  }
}

// Rows [begin, end) of y's columns [part.col, part.col + kPanel): a block of the depth, and with the last block what
// stands beside. `sums`, where y would round them: of all blocks but the last, [tokens, kGroup * kPanel].
template <typename X>
void PanelProduct(const Product& p, const float* packed, const float* panel, const Part& part, float* sums,
                  int64_t begin, int64_t end) {
  using U = UnitOf<X>;
  constexpr int64_t kStride = kGroup * kPanel;
  const bool last = part.first + part.depth == Depth(p);
  const int64_t units = Units(p, Depth(p));
  const Extent panel_extent = {.cols = Least(p.y.cols - part.col, kPanel)};
  for (int64_t t = begin; t < end; t += kTileRows) {
    X* y = static_cast<X*>(p.y.data) + t * p.y.stride + part.col;
    const Extent extent = {.rows = Least(Tokens(p) - t, kTileRows), .cols = panel_extent.cols};
    for (int64_t i = 0; i < extent.rows; ++i) __builtin_prefetch(y + i * p.y.stride, 1);
    Sums sum = {};
    Multiply<U>(
        {.a = packed + t * units + part.first / kPerUnit<U> * kTileRows, .b = panel, .depth = UnitsOf<U>(part.depth)},
        Packed(), sum);
    const float* a = packed + FactorsEnd(p);
    const float* b = panel + kMaxBlock * kPanel;
    for (int64_t f = 0; last && f < p.num_beside; ++f) {
      const int64_t rank = Units(p, p.beside[f].x.cols);
      if (Meets(p, f, part.col)) Multiply<U>({.a = a + t * rank, .b = b, .depth = rank}, Packed(), sum);
      a += BesideFloats(p, f);
      b += rank * kPanel;
    }
    if (part.first == 0 ? p.accumulate : sums == nullptr) {
      Add(y, p.y.stride, extent, sum);
    } else if (part.first > 0) {
      AddWhole(sums + t * kStride, kStride, sum);
    }
    if (last || sums == nullptr) {
      Put(sum, y, p.y.stride, extent);
    } else {
      PutWhole(sum, sums + t * kStride, kStride);
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

template <typename U>
void DecodeByColumns(const Rows& m, const Part& part, Panels panels) {
  constexpr int64_t kEach = kPerUnit<U>;
  const float* book = ScaleBook();
  float values[kEach][kGroup * kPanel];
  const int64_t cols = Least(m.cols - part.col, panels.count * kPanel);
  for (int64_t p = 0; p < part.depth; p += kEach, panels.data += kPanel) {
    const int64_t rows = Least(part.depth - p, kEach);
    for (int64_t e = 0; e < rows; ++e) DecodeRow(m, book, part.first + p + e, part.col, cols, values[e]);
    PackRow<U, float>(values[0], rows > 1 ? values[kEach - 1] : nullptr, cols, panels);
  }
}

// Depth [part.first, part.first + part.depth) of w's columns, or rows, from part.col on.
template <typename U, typename T>
void PackPanels(const Product& p, Part part, const Panels& panels, float* scratch) {
  if constexpr (std::is_same_v<T, Quantised>) {
    if (!p.by_rows) return DecodeByColumns<U>(p.w, part, panels);
  } else {
    if (!p.by_rows) return PackByColumns<U, T>(p.w, part.first, part.col, part.depth, panels);
  }
  for (int64_t k = 0; k < panels.count; ++k, part.col += kPanel) {
    float* out = panels.data + k * panels.step;
    if constexpr (std::is_same_v<T, Quantised>) {
      PackByRows<U, float>(DecodeRows(p.w, part, scratch), 0, 0, part.depth, out);
    } else {
      PackByRows<U, T>(p.w, part.col, part.first, part.depth, out);
    }
  }
}

// The columns of w's panels [begin, end). A group of panels is packed; then kRowBlock rows of x at a time, which stay
// in the second-level cache, meet all of it.
template <typename X, typename T>
void GroupsOf(const Product& p, const float* packed, int64_t begin, int64_t end, float* scratch) {
  using U = UnitOf<X>;
  const int64_t depth = Depth(p);
  const int64_t block = BlockOf(UnitsOf<U>(depth)) * kPerUnit<U>;
  const int64_t panel_floats = PanelFloats(p);
  float* panel_scratch = scratch + kGroup * panel_floats;
  float* sums = SumFloats(p) > 0 ? panel_scratch + PanelScratchFloats(p) : nullptr;
  for (int64_t group = begin; group < end; group += kGroup) {
    const Panels panels = {.data = scratch, .count = Least(kGroup, end - group), .step = panel_floats};
    for (int64_t first = 0; first < depth; first += block) {
      Part part = {.first = first, .depth = Least(block, depth - first), .col = group * kPanel};
      const auto each = [&](const auto& work) {
        for (int64_t k = 0; k < panels.count; ++k) {
          part.col = (group + k) * kPanel;
          work(k, scratch + k * panel_floats);
        }
      };
      PackPanels<U, T>(p, part, panels, panel_scratch);
      each([&](int64_t /*k*/, float* panel) {
        if (p.num_added > 0) AddFactors(p, packed + XFloats(p), part, panel, panel_scratch);
        if (first + part.depth == depth) PackBeside<X>(p, part.col, panel);
      });
      for (int64_t t = 0; t < Tokens(p); t += kRowBlock) {
        each([&](int64_t k, const float* panel) {
          float* own = sums == nullptr ? nullptr : sums + k * kPanel;
          PanelProduct<X>(p, packed, panel, part, own, t, Least(t + kRowBlock, Tokens(p)));
        });
      }
    }
  }
}

// work(an element of w's type).
template <typename F>
void ByWeights(const Product& p, const F& work) {
  if (IsQuantised(p.w.type)) return work(Quantised());
  if (p.w.type == Type::kF32) return work(float());
  work(uint16_t());
}

template <typename X>
void WideColumns(const Product& p, const float* packed, int64_t begin, int64_t end, float* scratch) {
  ByWeights(p, [&](auto element) { GroupsOf<X, decltype(element)>(p, packed, begin, end, scratch); });
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
  if (IsNarrow(p)) {
    const NarrowBlocks blocks(Units(p, Depth(p)), p.y.cols);
    return {.packs = blocks.count,
            .parts = PartsOf(tiles, kNarrowGrain, threads),
            .packed_floats = blocks.floats(),
            .scratch_floats = NarrowScratchFloats(blocks.depth)};
  }
  return {.packs = tiles,
          .parts = PartsOf(panels, kGroup, threads),
          .packed_floats = WidePackedFloats(p),
          .scratch_floats = WideScratchFloats(p)};
}

template <typename X>
void PackOf(const Product& p, int64_t begin, int64_t end, float* packed) {
  if (!IsNarrow(p)) return PackWide<X>(p, begin, end, packed);
  p.w.type == Type::kF32 ? PackNarrow<X, float>(p, begin, end, packed) : PackNarrow<X, uint16_t>(p, begin, end, packed);
}

void Pack(const Product& p, int64_t begin, int64_t end, float* packed) {
  p.x.type == Type::kF32 ? PackOf<float>(p, begin, end, packed) : PackOf<uint16_t>(p, begin, end, packed);
}

template <typename X>
void ComputeOf(const Product& p, const float* packed, int64_t part, int64_t parts, float* scratch) {
  const int64_t count = HasFewRows(p) || !IsNarrow(p) ? DivideUp(p.y.cols, kPanel) : DivideUp(Tokens(p), kTileRows);
  const int64_t begin = count * part / parts;
  const int64_t end = count * (part + 1) / parts;
  if (HasFewRows(p)) {
    const int64_t cols = Least(end * kPanel, p.y.cols);
    return ByWeights(p, [&](auto element) { FewRowsColumns<X, decltype(element)>(p, begin * kPanel, cols, scratch); });
  }
  IsNarrow(p) ? NarrowRows<X>(p, packed, begin, end, scratch) : WideColumns<X>(p, packed, begin, end, scratch);
}

void Compute(const Product& p, const float* packed, int64_t part, int64_t parts, float* scratch) {
  p.x.type == Type::kF32 ? ComputeOf<float>(p, packed, part, parts, scratch)
                         : ComputeOf<uint16_t>(p, packed, part, parts, scratch);
}

constexpr MatMulOps kTable = {.plan = Plan, .pack = Pack, .compute = Compute};

}  // namespace

const MatMulOps& STRATA_MAT_MUL_OPS() { return kTable; }

}  // namespace strata::kernels
// NOLINTEND(misc-definitions-in-headers,modernize-use-using)
