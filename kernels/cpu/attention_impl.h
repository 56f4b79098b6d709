// The loops of attention.h, over the tiles of tile_impl.h; STRATA_ATTENTION_OPS is the name of the table's function.
//
// A head's keys and values are packed once. Blocks of queries meet all the keys that one of them sees: scores, softmax
// and weights lie in rows that are as long as the document, never in a square. Scores and their gradients are fp32;
// where the processor multiplies pairs of bf16, weights and the scores' gradients are rounded to it for the products
// that follow. Functions are templates of the elements' type (X).
#include <math.h>  // NOLINT(modernize-deprecated-headers): std:: overloads are inline functions

#include "kernels/cpu/attention.h"
#include "kernels/cpu/exp.h"
#include "kernels/cpu/tile_impl.h"

// NOLINTBEGIN(misc-definitions-in-headers,modernize-use-using): each including file is an instruction set of its own
namespace strata::kernels {
namespace {

constexpr int64_t kQueries = 8 * kTileRows;  // of a block

// Columns of one head in a matrix of heads, rows of one document.
template <typename X>
Rows HeadOf(const Rows& m, const AttentionTask& task, int64_t head, int64_t head_dim) {
  return {.data = Row<X>(m, task.first) + head * head_dim,
          .type = m.type,
          .rows = task.length,
          .cols = head_dim,
          .stride = m.stride};
}

// Memory of one task, a float to each unit. A block's rows are `stride` floats long.
struct AttentionScratch {
  AttentionScratch(const AttentionShape& shape, int64_t length, float* memory)
      : stride(RoundUp(length, kPanel)), memory_(memory) {
    const int64_t dim = RoundUp(shape.head_dim, kPanel);
    keys = Take(stride * shape.head_dim);
    values = Take(length * dim);
    tile = Take(kTileRows * shape.head_dim);
    scores = Take(kQueries * stride + kTileRows);
  }
  void TakeBackward(const AttentionShape& shape, int64_t length) {
    const int64_t dim = RoundUp(shape.head_dim, kPanel);
    keys_by_columns = Take(length * dim);
    values_by_rows = Take(stride * shape.head_dim);
    gradient = Take(kQueries * stride + kTileRows);
    block = Take(kQueries * dim);
    if (kHasPairs) pairs = Take(kQueries / 2 * stride + kTileRows);
  }
  float* Take(int64_t floats) {
    const int64_t begin = used_;
    used_ += RoundUp(floats, 16);
    return memory_ == nullptr ? nullptr : memory_ + begin;
  }
  int64_t used() const { return used_; }

  int64_t stride;
  // Panels of keys: [panel][head_dim][kPanel], of dimensions: [panel][length][kPanel].
  float *keys = nullptr, *values = nullptr, *keys_by_columns = nullptr, *values_by_rows = nullptr;
  float *scores = nullptr, *gradient = nullptr;  // [kQueries, stride]
  float *tile = nullptr, *block = nullptr;       // a packed tile; packed panels of a block of queries
  float* pairs = nullptr;                        // [kQueries / 2, stride]

 private:
  float* memory_;  // null: only counts
  int64_t used_ = 0;
};

// Panels of rows: out[panel][col][row].
template <typename X>
void PackRows(const Rows& m, float* out) {
  using U = UnitOf<X>;
  for (int64_t row = 0; row < m.rows; row += kPanel, out += UnitsOf<U>(m.cols) * kPanel)
    PackByRows<U, X>(m, row, 0, m.cols, out);
}

// Panels of columns: out[panel][row][col].
template <typename X>
void PackColumns(const Rows& m, float* out) {
  using U = UnitOf<X>;
  PackByColumns<U, X>(m, 0, 0, m.rows,
                      {.data = out, .count = DivideUp(m.cols, kPanel), .step = UnitsOf<U>(m.rows) * kPanel});
}

// Queries [first, end) and the keys [first_key, end) that one of them sees; first_key begins a panel.
struct QueryBlock {
  int64_t first = 0, end = 0, first_key = 0;
  int64_t rows() const { return end - first; }
  int64_t keys() const { return end - first_key; }
};

QueryBlock BlockAt(const AttentionShape& shape, int64_t first, int64_t length) {
  const int64_t seen = shape.window > 0 ? Most(first - shape.window + 1, 0) : 0;
  return {.first = first, .end = Least(first + kQueries, length), .first_key = seen / kPanel * kPanel};
}

template <typename X>
Rows RowsOfBlock(const Rows& m, const QueryBlock& block) {
  return {.data = Row<X>(m, block.first), .type = m.type, .rows = block.rows(), .cols = m.cols, .stride = m.stride};
}

// out[i, :] = scale x[i, :] . panels of keys, for the block's keys. Rows may be written up to the end of the last tile.
template <typename X>
void TimesKeys(const Rows& x, float scale, const float* panels, const QueryBlock& block, float* tile, float* out,
               int64_t stride) {
  using U = UnitOf<X>;
  const int64_t depth = UnitsOf<U>(x.cols);
  for (int64_t t = 0; t < block.rows(); t += kTileRows) {
    PackTile<U, X>(RowsOfBlock<X>(x, block), t, tile);
    const int64_t last = Least(block.first + t + kTileRows, block.end);
    for (int64_t key = block.first_key; key < last; key += kPanel) {
      Sums sum = {};
      Multiply<U>({.a = tile, .b = panels + key * depth, .depth = depth}, Packed(), sum);
      Scale(scale, sum);
      PutWhole(sum, out + t * stride + key - block.first_key, stride);
    }
  }
}

// y[i, :] = x[i, :] . panels of dimensions from the block's first key on. x: units of a block's keys, rows `bytes`
// apart, which may be read up to the end of the last tile.
template <typename X>
void TimesColumns(const void* x, int64_t bytes, const float* panels, int64_t length, const QueryBlock& block,
                  const Rows& y) {
  using U = UnitOf<X>;
  for (int64_t t = 0; t < block.rows(); t += kTileRows) {
    // A tile's rows see no key behind its last.
    const int64_t depth = Least(t + kTileRows, block.rows()) + block.first - block.first_key;
    X* out = Row<X>(y, block.first + t);
    for (int64_t col = 0; col < y.cols; col += kPanel) {
      const float* panel = panels + col * UnitsOf<U>(length) + block.first_key / kPerUnit<U> * kPanel;
      Sums sum = {};
      Multiply<U>({.a = static_cast<const char*>(x) + t * bytes, .b = panel, .depth = UnitsOf<U>(depth)},
                  RowsOf{.row = bytes}, sum);
      Put(sum, out + col, y.stride, {.rows = Least(block.rows() - t, kTileRows), .cols = Least(y.cols - col, kPanel)});
    }
  }
}

// y[first_key + j, :] += sum over the block's queries of x[i, j] * panels of dimensions of the block. x: units of
// queries, `stride` of keys in a row. What follows x's rows may be read, up to a tile's.
template <typename X>
void AddTransposed(const float* x, int64_t stride, const float* panels, const QueryBlock& block, const Rows& y) {
  using U = UnitOf<X>;
  const int64_t depth = UnitsOf<U>(block.rows());
  for (int64_t t = 0; t < block.keys(); t += kTileRows) {
    float* out = Row<float>(y, block.first_key + t);
    for (int64_t col = 0; col < y.cols; col += kPanel) {
      const Extent extent = {.rows = Least(block.keys() - t, kTileRows), .cols = Least(y.cols - col, kPanel)};
      Sums sum = {};
      Multiply<U>({.a = x + t, .b = panels + col * depth, .depth = depth},
                  ColumnsOf{.step = stride * static_cast<int64_t>(sizeof(float))}, sum);
      Add(out + col, y.stride, extent, sum);
      Put(sum, out + col, y.stride, extent);
    }
  }
}

// Keys [begin, end) of a row of scores count, as indices into the row.
struct Seen {
  int64_t begin = 0, end = 0;
};

Seen SeenBy(const AttentionShape& shape, const QueryBlock& block, int64_t query) {
  const int64_t begin = shape.window > 0 ? Most(query - shape.window + 1, 0) : 0;
  return {.begin = begin - block.first_key, .end = query + 1 - block.first_key};
}

void Cap(float cap, const Seen& seen, float* scores) {
  const float inverse = 1.0F / cap;
#pragma omp simd
  for (int64_t j = seen.begin; j < seen.end; ++j) scores[j] = cap * Tanh(scores[j] * inverse);
}

// Up to the end of the last unit that keys are in.
void Clear(const Seen& seen, int64_t keys, float* row) {
  for (int64_t j = 0; j < seen.begin; ++j) row[j] = 0;
  for (int64_t j = seen.end; j < RoundUp(keys, 2); ++j) row[j] = 0;
}

// Scores become weights that add up to one; what is not seen weighs nothing. Returns log sum exp.
float Softmax(const Seen& seen, int64_t keys, float* row) {
  float top = row[seen.begin];
#pragma omp simd reduction(max : top)
  for (int64_t j = seen.begin; j < seen.end; ++j) top = row[j] > top ? row[j] : top;
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = seen.begin; j < seen.end; ++j) {
    row[j] = Exp(row[j] - top);
    sum += row[j];
  }
  const float inverse = 1.0F / sum;
#pragma omp simd
  for (int64_t j = seen.begin; j < seen.end; ++j) row[j] *= inverse;
  Clear(seen, keys, row);
  return top + logf(sum);
}

#if defined(__AVX512BF16__)
// Each row in bf16, in the first half of its memory.
void RoundRows(int64_t rows, int64_t keys, float* data, int64_t stride) {
  for (int64_t i = 0; i < rows; ++i, data += stride) {
    for (int64_t j = 0; j < keys; j += kPanel) {
      const Vec pairs = LoadUnits<Pair>(data + j);
      Store(data + j / 2, pairs);
    }
  }
}

// out[i][j] = the pair of (data[2 i][j], data[2 i + 1][j]); `rows` of data exist.
void PairRows(int64_t rows, int64_t keys, const float* data, int64_t stride, float* out) {
  const float none[kLanes] = {};
  for (int64_t i = 0; i < rows; i += 2, out += stride) {
    const float* row = data + i * stride;
    for (int64_t j = 0; j < keys; j += kLanes) {
      Store(out + j, LoadColumns<Pair, float>(row + j, i + 1 < rows ? row + stride + j : none));
    }
  }
}
#endif

template <typename X>
void AttendForward(const AttentionShape& shape, const AttentionTask& task, const Rows& qkv, const AttentionResult& out,
                   float* memory) {
  AttentionScratch scratch(shape, task.length, memory);
  const int64_t kv = shape.heads + task.head / (shape.heads / shape.kv_heads);
  const Rows q = HeadOf<X>(qkv, task, task.head, shape.head_dim);
  PackRows<X>(HeadOf<X>(qkv, task, kv, shape.head_dim), scratch.keys);
  PackColumns<X>(HeadOf<X>(qkv, task, kv + shape.kv_heads, shape.head_dim), scratch.values);
  const Rows o = HeadOf<X>(out.o, task, task.head, shape.head_dim);
  for (int64_t first = 0; first < task.length; first += kQueries) {
    const QueryBlock block = BlockAt(shape, first, task.length);
    TimesKeys<X>(q, shape.scale, scratch.keys, block, scratch.tile, scratch.scores, scratch.stride);
    for (int64_t i = 0; i < block.rows(); ++i) {
      float* row = scratch.scores + i * scratch.stride;
      const Seen seen = SeenBy(shape, block, first + i);
      if (shape.softcap > 0) Cap(shape.softcap, seen, row);
      out.lse[task.head * out.lse_stride + task.first + first + i] = Softmax(seen, block.keys(), row);
    }
#if defined(__AVX512BF16__)
    if constexpr (std::is_same_v<X, uint16_t>) RoundRows(block.rows(), block.keys(), scratch.scores, scratch.stride);
#endif
    TimesColumns<X>(scratch.scores, scratch.stride * static_cast<int64_t>(sizeof(float)), scratch.values, task.length,
                    block, o);
  }
}

// Scores become weights again, and the weights' gradients those of the scores before cap and scale.
void SoftmaxGradient(const AttentionShape& shape, const Seen& seen, float lse, float pull, float* scores, float* g) {
  if (shape.softcap > 0) {
    Cap(shape.softcap, seen, scores);
    const float inverse = 1.0F / shape.softcap;
#pragma omp simd
    for (int64_t j = seen.begin; j < seen.end; ++j) {
      const float slope = 1.0F - scores[j] * inverse * scores[j] * inverse;
      const float p = Exp(scores[j] - lse);
      g[j] = p * (g[j] - pull) * slope * shape.scale;
      scores[j] = p;
    }
    return;
  }
#pragma omp simd
  for (int64_t j = seen.begin; j < seen.end; ++j) {
    const float p = Exp(scores[j] - lse);
    g[j] = p * (g[j] - pull) * shape.scale;
    scores[j] = p;
  }
}

template <typename X>
float Dot(const X* a, const X* b, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += Widen(a[i]) * Widen(b[i]);
  return sum;
}

template <typename X>
void AttendBackward(const AttentionShape& shape, const AttentionTask& task, const AttentionGradient& gradient,
                    float* dk_data, float* dv_data, float* memory) {
  AttentionScratch scratch(shape, task.length, memory);
  scratch.TakeBackward(shape, task.length);
  const int64_t dim = shape.head_dim;
  const int64_t stride = scratch.stride;
  const int64_t kv = shape.heads + task.head / (shape.heads / shape.kv_heads);
  const Rows q = HeadOf<X>(gradient.qkv, task, task.head, dim);
  const Rows k = HeadOf<X>(gradient.qkv, task, kv, dim);
  PackRows<X>(k, scratch.keys);
  PackColumns<X>(k, scratch.keys_by_columns);
  PackRows<X>(HeadOf<X>(gradient.qkv, task, kv + shape.kv_heads, dim), scratch.values_by_rows);
  const Rows o = HeadOf<X>(gradient.forward.o, task, task.head, dim);
  const Rows d_o = HeadOf<X>(gradient.d_o, task, task.head, dim);
  const Rows dq = HeadOf<X>(gradient.dqkv, task, task.head, dim);
  const Rows dk = {.data = dk_data, .rows = task.length, .cols = dim, .stride = dim};
  const Rows dv = {.data = dv_data, .rows = task.length, .cols = dim, .stride = dim};
  for (int64_t i = 0; i < task.length * dim; ++i) dk_data[i] = dv_data[i] = 0;
  for (int64_t first = 0; first < task.length; first += kQueries) {
    const QueryBlock block = BlockAt(shape, first, task.length);
    TimesKeys<X>(q, shape.scale, scratch.keys, block, scratch.tile, scratch.scores, stride);
    TimesKeys<X>(d_o, 1, scratch.values_by_rows, block, scratch.tile, scratch.gradient, stride);
    for (int64_t i = 0; i < block.rows(); ++i) {
      const Seen seen = SeenBy(shape, block, first + i);
      float* scores = scratch.scores + i * stride;
      float* g = scratch.gradient + i * stride;
      const float lse = gradient.forward.lse[task.head * gradient.forward.lse_stride + task.first + first + i];
      SoftmaxGradient(shape, seen, lse, Dot(Row<X>(d_o, first + i), Row<X>(o, first + i), dim), scores, g);
      Clear(seen, block.keys(), scores);
      Clear(seen, block.keys(), g);
    }
    // Both by units of queries; the scores' gradients by units of keys too.
    const float* weights = scratch.scores;
    const float* d_scores = scratch.gradient;
#if defined(__AVX512BF16__)
    if constexpr (std::is_same_v<X, uint16_t>) {
      PairRows(block.rows(), block.keys(), scratch.gradient, stride, scratch.pairs);
      d_scores = scratch.pairs;
      PairRows(block.rows(), block.keys(), scratch.scores, stride, scratch.scores);
      RoundRows(block.rows(), block.keys(), scratch.gradient, stride);
    }
#endif
    TimesColumns<X>(scratch.gradient, stride * static_cast<int64_t>(sizeof(float)), scratch.keys_by_columns,
                    task.length, block, dq);
    PackColumns<X>(RowsOfBlock<X>(q, block), scratch.block);
    AddTransposed<X>(d_scores, stride, scratch.block, block, dk);
    PackColumns<X>(RowsOfBlock<X>(d_o, block), scratch.block);
    AddTransposed<X>(weights, stride, scratch.block, block, dv);
  }
}

int64_t AttentionFloats(const AttentionShape& shape, int64_t length, bool backward) {
  AttentionScratch scratch(shape, length, nullptr);
  if (backward) scratch.TakeBackward(shape, length);
  return scratch.used();
}

constexpr AttentionOps kAttentionTable = {
    .scratch_floats = AttentionFloats,
    .forward =
        [](const AttentionShape& shape, const AttentionTask& task, const Rows& qkv, const AttentionResult& out,
           float* scratch) {
          qkv.type == Type::kF32 ? AttendForward<float>(shape, task, qkv, out, scratch)
                                 : AttendForward<uint16_t>(shape, task, qkv, out, scratch);
        },
    .backward =
        [](const AttentionShape& shape, const AttentionTask& task, const AttentionGradient& gradient, float* dk,
           float* dv, float* scratch) {
          gradient.qkv.type == Type::kF32 ? AttendBackward<float>(shape, task, gradient, dk, dv, scratch)
                                          : AttendBackward<uint16_t>(shape, task, gradient, dk, dv, scratch);
        },
};

}  // namespace

const AttentionOps& STRATA_ATTENTION_OPS() { return kAttentionTable; }

}  // namespace strata::kernels
// NOLINTEND(misc-definitions-in-headers,modernize-use-using)
