// The loops of factor_ops.h; STRATA_FACTOR_OPS is the name of the table's function. Neither operand is packed: a token's
// row of the wide one meets that of the narrow one as both lie, and the sums over a block of tokens stay in registers.
// Internal linkage as in row_ops_impl.h.
#include "kernels/cpu/factor_ops.h"
#include "kernels/cpu/tile_impl.h"

// NOLINTBEGIN(misc-definitions-in-headers,modernize-use-using): each including file is an instruction set of its own
namespace strata::kernels {
namespace {

constexpr int kRanks = 4;  // at once
#if defined(__AVX512F__)
constexpr int kStripVectors = 6;
#else
constexpr int kStripVectors = 3;
#endif
constexpr int64_t kStrip = kStripVectors * kLanes;
// Tokens whose part of a strip is read from memory once, and stays in the cache for all ranks.
constexpr int64_t kTokens = 256;

// Where rows of both operands begin, and how far apart they lie.
struct Outer {
  const float* narrow = nullptr;
  const float* wide = nullptr;
  int64_t narrow_step = 0, wide_step = 0;
  int64_t tokens = 0;
};

// out[i * narrow_step + j * wide_step] += scale * sum over tokens of narrow[i] wide[j], i < kR, j < kV * kLanes, of
// which `cols` exist.
template <int kR, int kV>
inline void AddOuter(const Outer& o, const FactorGradient& g, float* out, int64_t cols) {
  Vec sum[kR][kV] = {};
  const float* narrow = o.narrow;
  const float* wide = o.wide;
  for (int64_t t = 0; t < o.tokens; ++t, narrow += o.narrow_step, wide += o.wide_step) {
    Vec b[kV];
#pragma GCC unroll 8
    for (int j = 0; j < kV; ++j) b[j] = Load(wide + j * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kR; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < kV; ++j) sum[i][j] += narrow[i] * b[j];
    }
  }
  float whole[kR][kV * kLanes];
  for (int i = 0; i < kR; ++i) {
    for (int j = 0; j < kV; ++j) Store(whole[i] + j * kLanes, sum[i][j] * g.scale);
  }
  if (g.wide_step == 1) {
    for (int i = 0; i < kR; ++i) {
      for (int64_t j = 0; j < cols; ++j) out[i * g.narrow_step + j] += whole[i][j];
    }
  } else {
    for (int64_t j = 0; j < cols; ++j) {
      for (int i = 0; i < kR; ++i) out[j * g.wide_step + i * g.narrow_step] += whole[i][j];
    }
  }
}

template <int kV>
void AllRanks(Outer o, const FactorGradient& g, int64_t col, int64_t cols) {
  float* out = g.out + col * g.wide_step;
  int64_t r = 0;
  for (; r + kRanks <= g.narrow.cols; r += kRanks, o.narrow += kRanks)
    AddOuter<kRanks, kV>(o, g, out + r * g.narrow_step, cols);
  for (; r < g.narrow.cols; ++r, ++o.narrow) AddOuter<1, kV>(o, g, out + r * g.narrow_step, cols);
}

// `scratch`: [kTokens, kPanel], a copy of the columns that do not fill a vector.
void FactorStrip(const FactorGradient& g, int64_t col, float* scratch) {
  const int64_t end = Least(col + kStrip, g.wide.cols);
  for (int64_t first = 0; first < g.wide.rows; first += kTokens) {
    Outer o = {.narrow = Row<float>(g.narrow, first),
               .wide = Row<float>(g.wide, first) + col,
               .narrow_step = g.narrow.stride,
               .wide_step = g.wide.stride,
               .tokens = Least(kTokens, g.wide.rows - first)};
    if (col + kStrip <= end) {
      AllRanks<kStripVectors>(o, g, col, kStrip);
      continue;
    }
    int64_t c = col;
    for (; c + kLanes <= end; c += kLanes, o.wide += kLanes) AllRanks<1>(o, g, c, kLanes);
    if (c == end) continue;
    PackByColumns<float>(g.wide, first, c, o.tokens, {.data = scratch});
    o.wide = scratch;
    o.wide_step = kPanel;
    AllRanks<1>(o, g, c, end - c);
  }
}

constexpr FactorOps kFactorTable = {
    .strip_columns = kStrip, .scratch_floats = kTokens * kPanel, .strip = FactorStrip};

}  // namespace

const FactorOps& STRATA_FACTOR_OPS() { return kFactorTable; }

}  // namespace strata::kernels
// NOLINTEND(misc-definitions-in-headers,modernize-use-using)
