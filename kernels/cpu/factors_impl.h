// The loops of factor_ops.h; STRATA_FACTOR_OPS is the name of the table's function. A strip of the wide operand's
// columns is copied a block of tokens at a time, so that it comes from memory once, and meets all ranks of the narrow
// one, which is read as it lies or, in bf16, copied with it. The sums of a strip stay in the first-level cache, those
// of a tile in registers over a block. Internal linkage as in row_ops_impl.h.
#include "kernels/cpu/factor_ops.h"
#include "kernels/cpu/units_impl.h"

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

// out[k][j] = unit k of m[first..first + tokens)[col + j] for j < cols, filled up with zeros to `width`, a multiple of
// kLanes; those of the next block are asked for.
template <typename U, typename X>
void CopyColumns(const Rows& m, int64_t first, int64_t tokens, int64_t col, int64_t cols, int64_t width, float* out) {
  const X none[kStrip] = {};
  for (int64_t t = 0; t < tokens; t += kPerUnit<U>, out += width) {
    const X* in = Row<X>(m, first + t) + col;
    const X* next = t + 1 < tokens ? in + m.stride : none;
    for (int64_t e = 0; e < kPerUnit<U>; ++e) {
      for (int64_t j = 0; j < cols; j += 64 / static_cast<int64_t>(sizeof(X)))
        __builtin_prefetch(in + (kTokens + e) * m.stride + j);
    }
    int64_t j = 0;
    for (; j + kLanes <= cols; j += kLanes) Store(out + j, LoadColumns<U, X>(in + j, next + j));
    for (; j < width; ++j) {
      const X both[2] = {j < cols ? in[j] : X(), j < cols ? next[j] : X()};
      WriteUnit(out + j, UnitAt<U>(both, 2));
    }
  }
}

// sums[i][j] += sum over units of tokens of narrow[i] strip[j], i < kR, j < kVectors * kLanes. `narrow`: rows lie
// `stride` units apart.
template <typename U, int kR>
inline void AddOuter(const float* narrow, int64_t stride, const float* strip, int64_t units, float* sums) {
  Vec sum[kR][kVectors];
  for (int i = 0; i < kR; ++i) {
    for (int j = 0; j < kVectors; ++j) sum[i][j] = Load(sums + i * kStrip + j * kLanes);
  }
#pragma GCC unroll 4
  for (int64_t t = 0; t < units; ++t, narrow += stride, strip += kStrip) {
    Vec b[kVectors];
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) b[j] = Load(strip + j * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kR; ++i) {
      const U a = ReadUnit<U>(narrow + i);
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) sum[i][j] = MultiplyAdd(a, b[j], sum[i][j]);
    }
  }
  for (int i = 0; i < kR; ++i) {
    for (int j = 0; j < kVectors; ++j) Store(sums + i * kStrip + j * kLanes, sum[i][j]);
  }
}

// Ranks [first_rank, first_rank + kMostRanks) of the strip.
template <typename X>
void RanksOfStrip(const FactorGradient& g, int64_t col, int64_t first_rank, float* scratch) {
  using U = UnitOf<X>;
  const int64_t ranks = Least(kMostRanks, g.narrow.cols - first_rank);
  const int64_t cols = Least(kStrip, g.wide.cols - col);
  float* sums = scratch;
  float* strip = sums + kMostRanks * kStrip;
  float* copied = strip + kTokens * kStrip;
  for (int64_t i = 0; i < ranks * kStrip; ++i) sums[i] = 0;
  for (int64_t first = 0; first < g.wide.rows; first += kTokens) {
    const int64_t tokens = Least(kTokens, g.wide.rows - first);
    CopyColumns<U, X>(g.wide, first, tokens, col, cols, kStrip, strip);
    const float* narrow = copied;
    int64_t stride = RoundUp(ranks, kLanes);
    if constexpr (std::is_same_v<X, float>) {  // as it lies
      narrow = Row<float>(g.narrow, first) + first_rank;
      stride = g.narrow.stride;
    } else {
      CopyColumns<U, X>(g.narrow, first, tokens, first_rank, ranks, stride, copied);
    }
    const int64_t units = UnitsOf<U>(tokens);
    for (int64_t c = 0; c < cols; c += kVectors * kLanes) {
      int64_t r = 0;
      for (; r + kRanks <= ranks; r += kRanks)
        AddOuter<U, kRanks>(narrow + r, stride, strip + c, units, sums + r * kStrip + c);
      for (; r < ranks; ++r) AddOuter<U, 1>(narrow + r, stride, strip + c, units, sums + r * kStrip + c);
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
  for (int64_t r = 0; r < g.narrow.cols; r += kMostRanks) {
    g.wide.type == Type::kF32 ? RanksOfStrip<float>(g, col, r, scratch) : RanksOfStrip<uint16_t>(g, col, r, scratch);
  }
}

constexpr FactorOps kFactorTable = {.strip_columns = kStrip,
                                    .scratch_floats = (kMostRanks + kTokens) * kStrip + kTokens * kMostRanks,
                                    .strip = FactorStrip};

}  // namespace

const FactorOps& STRATA_FACTOR_OPS() { return kFactorTable; }

}  // namespace strata::kernels
// NOLINTEND(misc-definitions-in-headers,modernize-use-using)
