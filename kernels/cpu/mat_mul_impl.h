// The loops of mat_mul.h. Included by one .cc per instruction set, which defines STRATA_MAT_MUL_OPS as the name of its
// table's function; internal linkage as in row_ops_impl.h.
//
// y is made in tiles of kTileRows x kPanel that stay in registers over a block of the depth. x is packed once per
// product, so that a tile's rows lie interleaved; w is read, widened and packed a group of panels at a time. That is
// also where low-rank factors join it: a packed panel is a row-major matrix that a tile product can add to. What stands
// beside x and w lengthens the last block of the depth, so that y is not read again for it.
#include <type_traits>
#include <utility>

#include "kernels/cpu/decode.h"
#include "kernels/cpu/few_rows_impl.h"
#include "kernels/cpu/mat_mul.h"
#include "kernels/cpu/vectors_impl.h"
#include "kernels/cpu/widen.h"

// NOLINTBEGIN(misc-definitions-in-headers,modernize-use-using): each including file is an instruction set of its own
namespace strata::kernels {
namespace {

#if defined(__AVX512F__)
constexpr int kTileRows = 12;
constexpr int64_t kMaxBlock = 240;
constexpr int64_t kGroup = 32;
#else
constexpr int kTileRows = 6;
constexpr int64_t kMaxBlock = 576;
constexpr int64_t kGroup = 8;
#endif
// kMaxBlock of the depth at once, a multiple of kTileRows: the longer, the less often y is read again; its panel comes
// from the first or, as fast, the second-level cache. Panels packed together (kGroup) stay in the second, and so do
// the rows of x that meet them (kRowBlock, a multiple of kTileRows).
constexpr int kPanel = 2 * kLanes;
constexpr int64_t kRowBlock = 192;

int64_t Depth(const Product& p) { return p.transposed_x ? p.x.rows : p.x.cols; }
int64_t Tokens(const Product& p) { return p.transposed_x ? p.x.cols : p.x.rows; }

// A tile of x, a [depth, kTileRows], and the panel that it meets, b [depth, kPanel].
struct Meeting {
  const float* a = nullptr;
  const float* b = nullptr;
  int64_t depth = 0;
};

inline void Multiply(const Meeting& m, Vec (&sum)[kTileRows][2]) {
  const float* a = m.a;
  const float* b = m.b;
#pragma GCC unroll 4
  for (int64_t p = 0; p < m.depth; ++p, a += kTileRows, b += kPanel) {
    const Vec b0 = Load(b);
    const Vec b1 = Load(b + kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kTileRows; ++i) {
      sum[i][0] += a[i] * b0;
      sum[i][1] += a[i] * b1;
    }
  }
}

// c [kTileRows, kPanel] (+)= a^T b, of both.
template <bool kAdd>
inline void Tile(const Meeting& m, const Meeting& beside, float* c, int64_t stride) {
  for (int i = 0; i < kTileRows; ++i) __builtin_prefetch(c + i * stride, 1);
  Vec sum[kTileRows][2] = {};
  Multiply(m, sum);
  if (beside.depth > 0) Multiply(beside, sum);
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

// The tile where only `extent` of it exists in c.
void EdgeTile(const Meeting& m, const Meeting& beside, float* c, int64_t stride, Extent extent, bool add) {
  float whole[kTileRows * kPanel];
  Tile<false>(m, beside, whole, kPanel);
  for (int64_t i = 0; i < extent.rows; ++i) {
    for (int64_t j = 0; j < extent.cols; ++j) {
      float& out = c[i * stride + j];
      out = add ? out + whole[i * kPanel + j] : whole[i * kPanel + j];
    }
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

// out[p][j] = m[row + p][col + j] for p < depth, j < kPanel; zero where a column lies past the end.
template <typename T>
void PackByColumns(const Rows& m, int64_t row, int64_t col, int64_t depth, float* out) {
  const int64_t cols = Least(m.cols - col, kPanel);
  for (int64_t p = 0; p < depth; ++p, out += kPanel) {
    const T* in = Row<T>(m, row + p) + col;
    if (cols == kPanel) {
      Store(out, Load(in));
      Store(out + kLanes, Load(in + kLanes));
      continue;
    }
    for (int64_t j = 0; j < kPanel; ++j) out[j] = j < cols ? Widen(in[j]) : 0.0F;
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

// out[p][i] = scale * m[p][col + i] for all rows p, i < kTileRows; zero where a column lies past the end.
void PackTileOfColumns(const Rows& m, int64_t col, float scale, float* out) {
  for (int64_t p = 0; p < m.rows; ++p, out += kTileRows) {
    const float* in = Row<float>(m, p) + col;
    for (int64_t i = 0; i < kTileRows; ++i) out[i] = col + i < m.cols ? scale * in[i] : 0.0F;
  }
}

int64_t FactorFloats(const Product& p, const LowRank& f) { return RoundUp(Depth(p), kTileRows) * f.a.rows; }

int64_t XFloats(const Product& p) { return RoundUp(Tokens(p), kTileRows) * Depth(p); }

int64_t BesideFloats(const Product& p, int64_t f) { return RoundUp(Tokens(p), kTileRows) * p.beside[f].x.cols; }

// Packed are: x, the factors' halves that run along the depth, what stands beside x.
int64_t FactorsEnd(const Product& p) {
  int64_t total = XFloats(p);
  for (int64_t f = 0; f < p.num_added; ++f) total += FactorFloats(p, p.added[f]);
  return total;
}

int64_t PackedFloats(const Product& p) {
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
int64_t ScratchFloats(const Product& p) {
  int64_t rank = IsQuantised(p.w.type) && p.by_rows ? kMaxBlock : 0;
  for (int64_t f = 0; f < p.num_added; ++f) rank = Most(rank, p.added[f].a.rows);
  return kGroup * PanelFloats(p) + rank * kPanel;
}

void Pack(const Product& p, int64_t begin, int64_t end, float* packed) {
  for (int64_t t = begin; t < end; ++t) {
    float* out = packed + t * kTileRows * Depth(p);
    if (p.transposed_x) {
      PackTileOfColumns(p.x, t * kTileRows, p.scale, out);
    } else {
      PackTile(p.x, t * kTileRows, p.scale, out);
    }
  }
  float* beside = packed + FactorsEnd(p);
  for (int64_t f = 0; f < p.num_beside; beside += BesideFloats(p, f), ++f) {
    const Rows& x = p.beside[f].x;
    for (int64_t t = begin; t < end; ++t) PackTile(x, t * kTileRows, p.scale, beside + t * kTileRows * x.cols);
  }
}

// The factor that runs along the depth, in tiles of it: [tile][rank][kTileRows].
void PackAdded(const Product& p, float* packed) {
  float* out = packed + XFloats(p);
  const int64_t tiles = DivideUp(Depth(p), kTileRows);
  for (int64_t f = 0; f < p.num_added; ++f) {
    const LowRank& factor = p.added[f];
    for (int64_t t = 0; t < tiles; ++t, out += factor.a.rows * kTileRows) {
      if (p.by_rows) {
        PackTileOfColumns(factor.a, t * kTileRows, 1, out);
      } else {
        PackTile(factor.b, t * kTileRows - factor.first_row, 1, out);
      }
    }
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
      PackByColumns<float>(factor.a, 0, part.col, rank, scratch);
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
      PackByColumns<float>(beside.w, 0, col, beside.x.cols, out);
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

// out[p][j] = m[row + p][col + j] for p < depth, j < kPanel; zero where a column lies past the end.
template <>
void PackByColumns<Quantised>(const Rows& m, int64_t row, int64_t col, int64_t depth, float* out) {
  const float* book = ScaleBook();
  const int64_t cols = Least(m.cols - col, kPanel);
  for (int64_t p = 0; p < depth; ++p, out += kPanel) {
    DecodeRow(m, book, row + p, col, cols, out);
    for (int64_t j = cols; j < kPanel; ++j) out[j] = 0;
  }
}

// Decoded rows [part.col, part.col + kPanel) of w, columns [part.first, part.first + part.depth).
Rows DecodeRows(const Rows& m, const Part& part, float* out) {
  const float* book = ScaleBook();
  const int64_t rows = Least(m.rows - part.col, kPanel);
  for (int64_t r = 0; r < rows; ++r) DecodeRow(m, book, part.col + r, part.first, part.depth, out + r * part.depth);
  return {.data = out, .type = Type::kF32, .rows = rows, .cols = part.depth, .stride = part.depth};
}

template <typename T>
void PackPanel(const Product& p, const float* packed, const Part& part, float* panel, float* scratch) {
  if (!p.by_rows) {
    PackByColumns<T>(p.w, part.first, part.col, part.depth, panel);
  } else if constexpr (std::is_same_v<T, Quantised>) {
    PackByRows<float>(DecodeRows(p.w, part, scratch), 0, 0, part.depth, panel);
  } else {
    PackByRows<T>(p.w, part.col, part.first, part.depth, panel);
  }
  if (p.num_added > 0) AddFactors(p, packed + XFloats(p), part, panel, scratch);
  if (part.first + part.depth == Depth(p)) PackBeside(p, part.col, panel);
}

// A group of panels is packed; then kRowBlock rows of x at a time, which stay in the second-level cache, meet all of
// it.
template <typename T>
void ColumnsOf(const Product& p, const float* packed, int64_t begin, int64_t end, float* scratch) {
  const int64_t depth = Depth(p);
  const int64_t block = RoundUp(DivideUp(depth, DivideUp(depth, kMaxBlock)), kTileRows);
  const int64_t panel_floats = PanelFloats(p);
  float* factor_scratch = scratch + kGroup * panel_floats;
  for (int64_t first = 0; first < depth; first += block) {
    Part part = {.first = first, .depth = Least(block, depth - first)};
    const auto panel = [&](int64_t j) { return scratch + (j - begin) % kGroup * panel_floats; };
    for (int64_t group = begin; group < end; group += kGroup) {
      const int64_t group_end = Least(group + kGroup, end);
      for (int64_t j = group; j < group_end; ++j) {
        part.col = j * kPanel;
        PackPanel<T>(p, packed, part, panel(j), factor_scratch);
      }
      for (int64_t t = 0; t < Tokens(p); t += kRowBlock) {
        for (int64_t j = group; j < group_end; ++j) {
          part.col = j * kPanel;
          PanelProduct(p, packed, panel(j), part, t, Least(t + kRowBlock, Tokens(p)));
        }
      }
    }
  }
}

// Whether w may be read as it lies: a rule that must not depend on how many rows x has.
bool HasFewRows(const Product& p) {
  const bool fits = !IsQuantised(p.w.type) || kTogether * p.w.cols <= ScratchFloats(p);
  return p.few_rows && p.by_rows && !p.transposed_x && p.num_added == 0 && p.num_beside == 0 && fits;
}

void Columns(const Product& p, const float* packed, int64_t begin, int64_t end, float* scratch) {
  if (HasFewRows(p)) {
    begin *= kPanel;
    end = Least(end * kPanel, p.y.cols);
    if (IsQuantised(p.w.type)) return DotsOf<Quantised>(p, begin, end, scratch);
    return p.w.type == Type::kF32 ? DotsOf<float>(p, begin, end, scratch) : DotsOf<uint16_t>(p, begin, end, scratch);
  }
  if (IsQuantised(p.w.type)) return ColumnsOf<Quantised>(p, packed, begin, end, scratch);
  p.w.type == Type::kF32 ? ColumnsOf<float>(p, packed, begin, end, scratch)
                         : ColumnsOf<uint16_t>(p, packed, begin, end, scratch);
}

constexpr MatMulOps kTable = {
    .tile_rows = kTileRows,
    .panel_columns = kPanel,
    .group = kGroup,
    .packed_floats = PackedFloats,
    .scratch_floats = ScratchFloats,
    .pack = Pack,
    .pack_added = PackAdded,
    .columns = Columns,
};

}  // namespace

const MatMulOps& STRATA_MAT_MUL_OPS() { return kTable; }

}  // namespace strata::kernels
// NOLINTEND(misc-definitions-in-headers,modernize-use-using)
