// The loops of row_ops.h. Included by one .cc per instruction set, which defines STRATA_ROW_OPS as the name of its
// table's function. Everything else has internal linkage: a function compiled for AVX-512 must never be the one that
// the linker keeps for all.
#include <math.h>  // NOLINT(modernize-deprecated-headers): std:: overloads are inline functions

#include "kernels/cpu/exp.h"
#include "kernels/cpu/row_ops.h"
#include "kernels/cpu/widen.h"

// NOLINTBEGIN(misc-definitions-in-headers): each including file is an instruction set of its own
namespace strata::kernels {
namespace {

template <typename T>
inline T* Row(const Rows& m, int64_t row) {
  return static_cast<T*>(m.data) + row * m.stride;
}

template <typename T>
inline float Mean(const T* in, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += Widen(in[i]);
  return sum / static_cast<float>(n);
}

// Norms n elements; returns rstd.
template <typename T>
inline float RmsNormPiece(const T* in, const NormWeights& norm, T* out, int64_t n) {
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < n; ++i) squares += Widen(in[i]) * Widen(in[i]);
  const float scale = 1.0F / sqrtf(squares / static_cast<float>(n) + norm.epsilon);
  const float* weight = norm.weight;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = Narrow<T>(Widen(in[i]) * scale * weight[i]);
  return scale;
}

template <typename T>
inline float LayerNormPiece(const T* in, const NormWeights& norm, T* out, int64_t n) {
  const float mean = Mean(in, n);
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < n; ++i) squares += (Widen(in[i]) - mean) * (Widen(in[i]) - mean);
  const float scale = 1.0F / sqrtf(squares / static_cast<float>(n) + norm.epsilon);
  const float* weight = norm.weight;
  const float* bias = norm.bias;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = Narrow<T>((Widen(in[i]) - mean) * scale * weight[i] + bias[i]);
  return scale;
}

template <typename T>
void NormT(const Rows& x, const Rows* delta, const Rows* sum, const NormWeights& norm, const Rows& out, float* rstd,
           int64_t begin, int64_t end) {
  const int64_t n = x.cols / norm.heads;
  for (int64_t t = begin; t < end; ++t) {
    const T* in = Row<T>(x, t);
    if (delta != nullptr) {
      const T* d = Row<T>(*delta, t);
      T* s = Row<T>(*sum, t);
#pragma omp simd
      for (int64_t i = 0; i < x.cols; ++i) s[i] = Narrow<T>(Widen(in[i]) + Widen(d[i]));
      in = s;
    }
    T* o = Row<T>(out, t);
    for (int64_t h = 0; h < norm.heads; ++h) {
      rstd[t * norm.heads + h] = norm.bias == nullptr ? RmsNormPiece(in + h * n, norm, o + h * n, n)
                                                      : LayerNormPiece(in + h * n, norm, o + h * n, n);
    }
  }
}

// d (+)= scale * (g w) - pull * (in - mean) - shift.
template <bool kAccumulate, typename T>
inline void NormGradient(const T* g, const T* in, const float* weight, const float* terms, T* d, int64_t n) {
  const float mean = terms[0];
  const float scale = terms[1];
  const float pull = terms[2];
  const float shift = terms[3];
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float value = scale * Widen(g[i]) * weight[i] - pull * (Widen(in[i]) - mean) - shift;
    d[i] = Narrow<T>(kAccumulate ? Widen(d[i]) + value : value);
  }
}

template <typename T>
inline void NormBackwardPiece(const T* g, const T* in, const NormWeights& norm, float scale, T* d, int64_t n,
                              bool accumulate) {
  const bool centred = norm.bias != nullptr;
  const float mean = centred ? Mean(in, n) : 0.0F;
  const float* weight = norm.weight;
  float dot = 0;
  float total = 0;
#pragma omp simd reduction(+ : dot, total)
  for (int64_t i = 0; i < n; ++i) {
    const float gw = Widen(g[i]) * weight[i];
    dot += gw * (Widen(in[i]) - mean);
    total += gw;
  }
  const auto size = static_cast<float>(n);
  const float terms[4] = {mean, scale, dot * scale * scale * scale / size, centred ? total * scale / size : 0.0F};
  accumulate ? NormGradient<true>(g, in, weight, terms, d, n) : NormGradient<false>(g, in, weight, terms, d, n);
}

template <typename T>
void NormBackwardT(const Rows& dy, const Rows& x, const NormWeights& norm, const float* rstd, const Rows& dx,
                   bool accumulate, int64_t begin, int64_t end) {
  const int64_t n = x.cols / norm.heads;
  for (int64_t t = begin; t < end; ++t) {
    for (int64_t h = 0; h < norm.heads; ++h) {
      NormBackwardPiece(Row<T>(dy, t) + h * n, Row<T>(x, t) + h * n, norm, rstd[t * norm.heads + h],
                        Row<T>(dx, t) + h * n, n, accumulate);
    }
  }
}

template <typename T>
void RopeT(const Rows& x, int64_t heads, int64_t head_dim, const Turns& turns, bool inverse, int64_t begin,
           int64_t end) {
  const int64_t half = turns.pairs;
  const float sign = inverse ? -1.0F : 1.0F;
  for (int64_t t = begin; t < end; ++t) {
    const float* c = turns.cos + t * half;
    const float* s = turns.sin + t * half;
    for (int64_t h = 0; h < heads; ++h) {
      T* u = Row<T>(x, t) + h * head_dim;
      T* v = u + half;
#pragma omp simd
      for (int64_t i = 0; i < half; ++i) {
        const float a = Widen(u[i]);
        const float b = Widen(v[i]);
        const float turn = sign * s[i];
        u[i] = Narrow<T>(a * c[i] - b * turn);
        v[i] = Narrow<T>(b * c[i] + a * turn);
      }
    }
  }
}

// value = f(x), slope = f'(x).
struct Silu {
  static inline void At(float x, float& value, float& slope) {
    const float sigmoid = 1.0F / (1.0F + Exp(-x));
    value = x * sigmoid;
    slope = sigmoid + value * (1.0F - sigmoid);
  }
};
// x (1 + tanh u) / 2 = x sigmoid(2u), u = sqrt(2 / pi) (x + 0.044715 x^3).
struct GeluTanh {
  static inline void At(float x, float& value, float& slope) {
    const float z = x * x;
    const float sigmoid = 1.0F / (1.0F + Exp(-x * (1.5957691216F + 0.0713548163F * z)));
    value = x * sigmoid;
    slope = sigmoid + value * (1.0F - sigmoid) * (1.5957691216F + 0.2140644488F * z);
  }
};

template <typename F, bool kGated, typename T>
void UnitT(const Rows& in, const Rows& out, int64_t begin, int64_t end) {
  const int64_t n = out.cols;
  for (int64_t t = begin; t < end; ++t) {
    const T* gate = Row<T>(in, t);
    const T* up = kGated ? gate + n : gate;
    T* o = Row<T>(out, t);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      float value = 0;
      float slope = 0;
      F::At(Widen(gate[i]), value, slope);
      o[i] = Narrow<T>(kGated ? value * Widen(up[i]) : value);
    }
  }
}

template <typename F, bool kGated, typename T>
void UnitBackwardT(const Rows& in, const Rows& dout, int64_t begin, int64_t end) {
  const int64_t n = dout.cols;
  for (int64_t t = begin; t < end; ++t) {
    T* gate = Row<T>(in, t);
    T* up = kGated ? gate + n : gate;
    T* d = Row<T>(dout, t);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      const float u = kGated ? Widen(up[i]) : 1.0F;
      const float dy = Widen(d[i]);
      float value = 0;
      float slope = 0;
      F::At(Widen(gate[i]), value, slope);
      if (kGated) up[i] = Narrow<T>(dy * value);
      gate[i] = Narrow<T>(dy * u * slope);
      d[i] = Narrow<T>(value * u);
    }
  }
}

template <typename T>
void ActivateT(Unit unit, const Rows& in, const Rows& out, int64_t begin, int64_t end) {
  switch (unit) {
    case Unit::kSwiglu:
      return UnitT<Silu, true, T>(in, out, begin, end);
    case Unit::kGeglu:
      return UnitT<GeluTanh, true, T>(in, out, begin, end);
    case Unit::kGelu:
      return UnitT<GeluTanh, false, T>(in, out, begin, end);
  }
}

template <typename T>
void ActivateBackwardT(Unit unit, const Rows& in, const Rows& dout, int64_t begin, int64_t end) {
  switch (unit) {
    case Unit::kSwiglu:
      return UnitBackwardT<Silu, true, T>(in, dout, begin, end);
    case Unit::kGeglu:
      return UnitBackwardT<GeluTanh, true, T>(in, dout, begin, end);
    case Unit::kGelu:
      return UnitBackwardT<GeluTanh, false, T>(in, dout, begin, end);
  }
}

constexpr int kRandomBlocks = 64;  // at once

// Philox4x32-10: the words of blocks [first, first + kRandomBlocks), four a block.
inline void RandomWords(uint64_t key, uint64_t first, uint32_t* words) {
  uint32_t c[4][kRandomBlocks];
#pragma omp simd
  for (int b = 0; b < kRandomBlocks; ++b) {
    const uint64_t counter = first + static_cast<uint64_t>(b);
    c[0][b] = static_cast<uint32_t>(counter);
    c[1][b] = static_cast<uint32_t>(counter >> 32);
    c[2][b] = c[3][b] = 0;
  }
  auto k0 = static_cast<uint32_t>(key);
  auto k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9U, k1 += 0xBB67AE85U) {
#pragma omp simd
    for (int b = 0; b < kRandomBlocks; ++b) {
      const uint64_t product0 = uint64_t{0xD2511F53U} * c[0][b];
      const uint64_t product1 = uint64_t{0xCD9E8D57U} * c[2][b];
      c[0][b] = static_cast<uint32_t>(product1 >> 32) ^ c[1][b] ^ k0;
      c[2][b] = static_cast<uint32_t>(product0 >> 32) ^ c[3][b] ^ k1;
      c[1][b] = static_cast<uint32_t>(product1);
      c[3][b] = static_cast<uint32_t>(product0);
    }
  }
#pragma omp simd
  for (int b = 0; b < kRandomBlocks; ++b) {
    for (int i = 0; i < 4; ++i) words[4 * b + i] = c[i][b];
  }
}

template <typename T>
void DropoutT(const Rows& x, uint64_t key, double probability, const Rows& out, int64_t begin, int64_t end) {
  const auto limit = static_cast<uint32_t>(probability * (1 << 24));
  const auto keep = static_cast<float>(1 / (1 - probability));
  uint32_t words[4 * kRandomBlocks];
  uint64_t first = 0;  // block of words[0]
  bool drawn = false;
  for (int64_t t = begin; t < end; ++t) {
    const T* in = Row<T>(x, t);
    T* o = Row<T>(out, t);
    for (int64_t i = 0; i < x.cols;) {
      const auto element = static_cast<uint64_t>(t * x.cols + i);
      if (!drawn || element / 4 >= first + kRandomBlocks) {
        first = element / 4;
        RandomWords(key, first, words);
        drawn = true;
      }
      const auto at = static_cast<int64_t>(element - first * 4);
      const int64_t count = x.cols - i < 4 * kRandomBlocks - at ? x.cols - i : 4 * kRandomBlocks - at;
      const uint32_t* w = words + at;
#pragma omp simd
      for (int64_t j = 0; j < count; ++j) o[i + j] = Narrow<T>(Widen(in[i + j]) * (w[j] >> 8 >= limit ? keep : 0.0F));
      i += count;
    }
  }
}

template <typename T>
void AddBiasT(const Rows& x, const float* bias, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    T* row = Row<T>(x, t);
#pragma omp simd
    for (int64_t i = 0; i < x.cols; ++i) row[i] = Narrow<T>(Widen(row[i]) + bias[i]);
  }
}

template <typename T>
void AddT(const Rows& x, const Rows& delta, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    T* row = Row<T>(x, t);
    const T* d = Row<T>(delta, t);
#pragma omp simd
    for (int64_t i = 0; i < x.cols; ++i) row[i] = Narrow<T>(Widen(row[i]) + Widen(d[i]));
  }
}

constexpr int64_t kSumBlock = 1024;

template <typename T>
inline void CapRow(T* row, int64_t n, float cap) {
  const float inverse = 1.0F / cap;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) row[i] = Narrow<T>(cap * Tanh(Widen(row[i]) * inverse));
}

// The row, as it counts, becomes (softmax - onehot) * scale, times the cap's slope 1 - (l / cap)^2.
template <bool kCapped, typename T>
inline void LossGradient(T* row, int64_t n, int32_t target, float top, float share, const LossOptions& options) {
  const float inverse = kCapped ? 1.0F / options.softcap : 0.0F;
  const auto slope = [&](float l) { return 1.0F - l * inverse * (l * inverse); };
  const float label = Widen(row[target]);
  const float hit = (Exp(label - top) * share - options.scale) * slope(label);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float g = Exp(Widen(row[i]) - top) * share;
    row[i] = Narrow<T>(kCapped ? g * slope(Widen(row[i])) : g);
  }
  row[target] = Narrow<T>(hit);
}

template <typename T>
void CrossEntropyT(const Rows& logits, const int32_t* targets, const LossOptions& options, float* nll, int64_t begin,
                   int64_t end) {
  const int64_t n = logits.cols;
  for (int64_t t = begin; t < end; ++t) {
    T* row = Row<T>(logits, t);
    if (options.softcap > 0) CapRow(row, n, options.softcap);
    float top = -INFINITY;
#pragma omp simd reduction(max : top)
    for (int64_t i = 0; i < n; ++i) top = Widen(row[i]) > top ? Widen(row[i]) : top;
    // Block by block: one fp32 sum over a vocabulary of 50,000 swallows its small terms, 1e-4 of the loss.
    double total = 0;
    for (int64_t first = 0; first < n; first += kSumBlock) {
      const int64_t last = first + kSumBlock < n ? first + kSumBlock : n;
      float part = 0;
#pragma omp simd reduction(+ : part)
      for (int64_t i = first; i < last; ++i) part += Exp(Widen(row[i]) - top);
      total += static_cast<double>(part);
    }
    nll[t] = static_cast<float>(log(total) + static_cast<double>(top) - static_cast<double>(Widen(row[targets[t]])));
    if (!options.gradient) continue;
    const float share = options.scale / static_cast<float>(total);
    options.softcap > 0 ? LossGradient<true>(row, n, targets[t], top, share, options)
                        : LossGradient<false>(row, n, targets[t], top, share, options);
  }
}

double SumSquaresRange(const float* values, int64_t count) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  return sum;
}

void AdamWRange(float* p, float* gradient, float* m, float* v, int64_t count, const AdamWStep& step) {
  const AdamWStep s = step;
  const float rate = s.learning_rate / s.correction1;
  const float inverse_root = 1.0F / s.root_correction2;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const float g = gradient[i] * s.gradient_scale;
    m[i] = m[i] + (1.0F - s.beta1) * (g - m[i]);
    v[i] = s.beta2 * v[i] + (1.0F - s.beta2) * g * g;
    p[i] = p[i] * s.decay - rate * m[i] / (__builtin_sqrtf(v[i]) * inverse_root + s.epsilon);
    gradient[i] = 0;
  }
}

void RoundRange(const float* source, uint16_t* out, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) out[i] = Narrow<uint16_t>(source[i]);
}

// Picks the element type once per call.
#define STRATA_BY_TYPE(function, type, ...) \
  ((type) == Type::kF32 ? function<float>(__VA_ARGS__) : function<uint16_t>(__VA_ARGS__))

constexpr RowOps kTable = {
    .norm = [](const Rows& x, const Rows* delta, const Rows* sum, const NormWeights& norm, const Rows& out, float* rstd,
               int64_t begin,
               int64_t end) { STRATA_BY_TYPE(NormT, x.type, x, delta, sum, norm, out, rstd, begin, end); },
    .norm_backward =
        [](const Rows& dy, const Rows& x, const NormWeights& norm, const float* rstd, const Rows& dx, bool accumulate,
           int64_t begin,
           int64_t end) { STRATA_BY_TYPE(NormBackwardT, x.type, dy, x, norm, rstd, dx, accumulate, begin, end); },
    .rope = [](const Rows& x, int64_t heads, int64_t head_dim, const Turns& turns, bool inverse, int64_t begin,
               int64_t end) { STRATA_BY_TYPE(RopeT, x.type, x, heads, head_dim, turns, inverse, begin, end); },
    .activate = [](Unit unit, const Rows& in, const Rows& out, int64_t begin,
                   int64_t end) { STRATA_BY_TYPE(ActivateT, out.type, unit, in, out, begin, end); },
    .activate_backward = [](Unit unit, const Rows& in, const Rows& dout, int64_t begin,
                            int64_t end) { STRATA_BY_TYPE(ActivateBackwardT, dout.type, unit, in, dout, begin, end); },
    .dropout = [](const Rows& x, uint64_t key, double probability, const Rows& out, int64_t begin,
                  int64_t end) { STRATA_BY_TYPE(DropoutT, x.type, x, key, probability, out, begin, end); },
    .add_bias = [](const Rows& x, const float* bias, int64_t begin,
                   int64_t end) { STRATA_BY_TYPE(AddBiasT, x.type, x, bias, begin, end); },
    .add = [](const Rows& x, const Rows& delta, int64_t begin,
              int64_t end) { STRATA_BY_TYPE(AddT, x.type, x, delta, begin, end); },
    .cross_entropy =
        [](const Rows& logits, const int32_t* targets, const LossOptions& options, float* nll, int64_t begin,
           int64_t end) { STRATA_BY_TYPE(CrossEntropyT, logits.type, logits, targets, options, nll, begin, end); },
    .sum_squares = SumSquaresRange,
    .adamw = AdamWRange,
    .round_to_bf16 = RoundRange,
};

}  // namespace

const RowOps& STRATA_ROW_OPS() { return kTable; }

}  // namespace strata::kernels
// NOLINTEND(misc-definitions-in-headers)
