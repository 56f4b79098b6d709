// The loops of factor_ops.h; STRATA_FACTOR_OPS is the name of the table's function. A strip of the wide operand's
// columns is copied a block of tokens at a time, so that it comes from memory once, and meets all ranks of the narrow
// one, which is read as it lies. The sums of a strip stay in the first-level cache, those of a tile in registers over a
// block. Internal linkage as in row_ops_impl.h.
#include "kernels/cpu/factor_ops.h"
#include "kernels/cpu/vectors_impl.h"

// NOLINTBEGIN(misc-definitions-in-headers,modernize-use-using): each including file is an instruction set of its own
namespace strata::kernels {
namespace {

// A tile of sums in registers, and the columns of a strip: whole lines of the cache.
constexpr int kRanks = 4;
#if defined(__AVX512F__)
constexpr int kVectors = 6;
constexpr int64_t kStrip = kVectors * kLanes;
#else
constexpr int kVectors = 3;
constexpr int64_t kStrip = 2 * kVectors * kLanes;
#endif
constexpr int64_t kTokens = 64;     // of a block
constexpr int64_t kMostRanks = 64;  // whose sums are kept at once

// Columns [col, col + cols) of rows [first, first + tokens), filled up with zeros; those of the next block are asked
// for.
void CopyStrip(const Rows& m, int64_t first, int64_t tokens, int64_t col, int64_t cols, float* out) {
  for (int64_t t = 0; t < tokens; ++t, out += kStrip) {
    const float* in = Row<float>(m, first + t) + col;
    for (int64_t j = 0; j < kStrip; j += 16) __builtin_prefetch(in + kTokens * m.stride + j);
    if (cols == kStrip) {
      for (int64_t j = 0; j < kStrip; j += kLanes) Store(out + j, Load(in + j));
    } else {
      for (int64_t j = 0; j < kStrip; ++j) out[j] = j < cols ? in[j] : 0;
    }
  }
}

// sums[i][j] += sum over tokens of narrow[i] strip[j], i < kR, j < kVectors * kLanes.
template <int kR>
inline void AddOuter(const float* narrow, int64_t stride, const float* strip, int64_t tokens, float* sums) {
  Vec sum[kR][kVectors];
  for (int i = 0; i < kR; ++i) {
    for (int j = 0; j < kVectors; ++j) sum[i][j] = Load(sums + i * kStrip + j * kLanes);
  }
#pragma GCC unroll 4
  for (int64_t t = 0; t < tokens; ++t, narrow += stride, strip += kStrip) {
    Vec b[kVectors];
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) b[j] = Load(strip + j * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kR; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) sum[i][j] += narrow[i] * b[j];
    }
  }
  for (int i = 0; i < kR; ++i) {
    for (int j = 0; j < kVectors; ++j) Store(sums + i * kStrip + j * kLanes, sum[i][j]);
  }
}

// Ranks [first_rank, first_rank + kMostRanks) of the strip.
void RanksOfStrip(const FactorGradient& g, int64_t col, int64_t first_rank, float* scratch) {
  const int64_t ranks = Least(kMostRanks, g.narrow.cols - first_rank);
  const int64_t cols = Least(kStrip, g.wide.cols - col);
  float* sums = scratch;
  float* strip = scratch + kMostRanks * kStrip;
  for (int64_t i = 0; i < ranks * kStrip; ++i) sums[i] = 0;
  for (int64_t first = 0; first < g.wide.rows; first += kTokens) {
    const int64_t tokens = Least(kTokens, g.wide.rows - first);
    CopyStrip(g.wide, first, tokens, col, cols, strip);
    const float* narrow = Row<float>(g.narrow, first) + first_rank;
    for (int64_t c = 0; c < cols; c += kVectors * kLanes) {
      int64_t r = 0;
      for (; r + kRanks <= ranks; r += kRanks)
        AddOuter<kRanks>(narrow + r, g.narrow.stride, strip + c, tokens, sums + r * kStrip + c);
      for (; r < ranks; ++r) AddOuter<1>(narrow + r, g.narrow.stride, strip + c, tokens, sums + r * kStrip + c);
    }
  }
  float* out = g.out + col * g.wide_step + first_rank * g.narrow_step;
  if (g.wide_step == 1) {
    for (int64_t r = 0; r < ranks; ++r) {
      for (int64_t c = 0; c < cols; ++c) out[r * g.narrow_step + c] += g.scale * sums[r * kStrip + c];
    }
  } else {
    for (int64_t c = 0; c < cols; ++c) {
      for (int64_t r = 0; r < ranks; ++r) out[c * g.wide_step + r * g.narrow_step] += g.scale * sums[r * kStrip + c];
    }
  }
}

void FactorStrip(const FactorGradient& g, int64_t col, float* scratch) {
  for (int64_t r = 0; r < g.narrow.cols; r += kMostRanks) RanksOfStrip(g, col, r, scratch);
}

constexpr FactorOps kFactorTable = {
    .strip_columns = kStrip, .scratch_floats = (kMostRanks + kTokens) * kStrip, .strip = FactorStrip};

}  // namespace

const FactorOps& STRATA_FACTOR_OPS() { return kFactorTable; }

}  // namespace strata::kernels
// NOLINTEND(misc-definitions-in-headers,modernize-use-using)
