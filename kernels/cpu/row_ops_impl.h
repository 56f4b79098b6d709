// The loops of row_ops.h. Included by one .cc per instruction set, which defines STRATA_ROW_OPS as the name of its
// table's function. Everything else has internal linkage: a function compiled for AVX-512 must never be the one that
// the linker keeps for all.
#include <math.h>    // NOLINT(modernize-deprecated-headers): std:: overloads are inline functions
#include <string.h>  // NOLINT(modernize-deprecated-headers)

#include "kernels/cpu/row_ops.h"
#include "kernels/cpu/widen.h"

namespace strata::kernels {
namespace {

template <typename T>
inline T Narrow(float x);
template <>
inline float Narrow<float>(float x) {
  return x;
}
template <>
inline uint16_t Narrow<uint16_t>(float x) {
  const auto bits = __builtin_bit_cast(uint32_t, x);
  const uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  const uint32_t quiet = (bits >> 16) | 0x40;  // a NaN must not round to infinity
  return static_cast<uint16_t>((bits & 0x7FFFFFFF) > 0x7F800000 ? quiet : rounded);
}

// exp for finite x, relative error below 2e-7; 0 below -87.3, saturates above 88.
inline float Exp(float x) {
  const float clamped = x > 88.0F ? 88.0F : (x < -87.3F ? -87.3F : x);
  const float shifted = clamped * 1.44269504F + 12582912.0F;  // 1.5 * 2^23: the sum's low bits are the rounded exponent
  const float n = shifted - 12582912.0F;
  const float r = (clamped - n * 0.693359375F) - n * -2.12194440e-4F;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * r * r + r + 1.0F;
  const uint32_t scale = (__builtin_bit_cast(uint32_t, shifted) << 23) + 0x3F800000U;
  const float value = p * __builtin_bit_cast(float, scale);
  return x < -87.3F ? 0.0F : value;
}

template <typename T>
inline T* Row(const Rows& m, int64_t row) {
  return static_cast<T*>(m.data) + row * m.stride;
}

template <typename T>
void RmsNormT(const Rows& x, const Rows* delta, const Rows* sum, const float* weight, float epsilon, const Rows& out,
              float* rstd, int64_t begin, int64_t end) {
  const int64_t n = x.cols;
  for (int64_t t = begin; t < end; ++t) {
    const T* in = Row<T>(x, t);
    if (delta != nullptr) {
      const T* d = Row<T>(*delta, t);
      T* s = Row<T>(*sum, t);
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) s[i] = Narrow<T>(Widen(in[i]) + Widen(d[i]));
      in = s;
    }
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < n; ++i) squares += Widen(in[i]) * Widen(in[i]);
    const float scale = 1.0F / sqrtf(squares / static_cast<float>(n) + epsilon);
    rstd[t] = scale;
    T* o = Row<T>(out, t);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) o[i] = Narrow<T>(Widen(in[i]) * scale * weight[i]);
  }
}

template <typename T>
void RmsNormBackwardT(const Rows& dy, const Rows& x, const float* weight, const float* rstd, const Rows& dx,
                      bool accumulate, int64_t begin, int64_t end) {
  const int64_t n = x.cols;
  const float keep = accumulate ? 1.0F : 0.0F;
  for (int64_t t = begin; t < end; ++t) {
    const T* g = Row<T>(dy, t);
    const T* in = Row<T>(x, t);
    T* d = Row<T>(dx, t);
    if (!accumulate) memset(d, 0, static_cast<size_t>(n) * sizeof(T));
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < n; ++i) dot += Widen(g[i]) * weight[i] * Widen(in[i]);
    const float scale = rstd[t];
    const float pull = dot * scale * scale * scale / static_cast<float>(n);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i)
      d[i] = Narrow<T>(keep * Widen(d[i]) + scale * Widen(g[i]) * weight[i] - pull * Widen(in[i]));
  }
}

template <typename T>
void RopeT(const Rows& x, int64_t heads, int64_t head_dim, const float* cos, const float* sin, bool inverse,
           int64_t begin, int64_t end) {
  const int64_t half = head_dim / 2;
  const float sign = inverse ? -1.0F : 1.0F;
  for (int64_t t = begin; t < end; ++t) {
    const float* c = cos + t * half;
    const float* s = sin + t * half;
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

template <typename T>
void SwigluT(const Rows& gate_up, const Rows& out, int64_t begin, int64_t end) {
  const int64_t n = out.cols;
  for (int64_t t = begin; t < end; ++t) {
    const T* gate = Row<T>(gate_up, t);
    const T* up = gate + n;
    T* o = Row<T>(out, t);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      const float g = Widen(gate[i]);
      o[i] = Narrow<T>(g / (1.0F + Exp(-g)) * Widen(up[i]));
    }
  }
}

template <typename T>
void SwigluBackwardT(const Rows& gate_up, const Rows& dout, int64_t begin, int64_t end) {
  const int64_t n = dout.cols;
  for (int64_t t = begin; t < end; ++t) {
    T* gate = Row<T>(gate_up, t);
    T* up = gate + n;
    T* d = Row<T>(dout, t);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      const float g = Widen(gate[i]);
      const float u = Widen(up[i]);
      const float dy = Widen(d[i]);
      const float sigmoid = 1.0F / (1.0F + Exp(-g));
      const float silu = g * sigmoid;
      gate[i] = Narrow<T>(dy * u * (sigmoid + silu * (1.0F - sigmoid)));
      up[i] = Narrow<T>(dy * silu);
      d[i] = Narrow<T>(silu * u);
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
void CrossEntropyT(const Rows& logits, const int32_t* targets, float scale, bool gradient, float* nll, int64_t begin,
                   int64_t end) {
  const int64_t n = logits.cols;
  for (int64_t t = begin; t < end; ++t) {
    T* row = Row<T>(logits, t);
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
    const auto sum = static_cast<float>(total);
    nll[t] = static_cast<float>(log(total) + static_cast<double>(top) - static_cast<double>(Widen(row[targets[t]])));
    if (!gradient) continue;
    const float share = scale / sum;
    const float hit = Exp(Widen(row[targets[t]]) - top) * share - scale;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) row[i] = Narrow<T>(Exp(Widen(row[i]) - top) * share);
    row[targets[t]] = Narrow<T>(hit);
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
    .rms_norm =
        [](const Rows& x, const Rows* delta, const Rows* sum, const float* weight, float epsilon, const Rows& out,
           float* rstd, int64_t begin,
           int64_t end) { STRATA_BY_TYPE(RmsNormT, x.type, x, delta, sum, weight, epsilon, out, rstd, begin, end); },
    .rms_norm_backward =
        [](const Rows& dy, const Rows& x, const float* weight, const float* rstd, const Rows& dx, bool accumulate,
           int64_t begin,
           int64_t end) { STRATA_BY_TYPE(RmsNormBackwardT, x.type, dy, x, weight, rstd, dx, accumulate, begin, end); },
    .rope = [](const Rows& x, int64_t heads, int64_t head_dim, const float* cos, const float* sin, bool inverse,
               int64_t begin,
               int64_t end) { STRATA_BY_TYPE(RopeT, x.type, x, heads, head_dim, cos, sin, inverse, begin, end); },
    .swiglu = [](const Rows& gate_up, const Rows& out, int64_t begin,
                 int64_t end) { STRATA_BY_TYPE(SwigluT, out.type, gate_up, out, begin, end); },
    .swiglu_backward = [](const Rows& gate_up, const Rows& dout, int64_t begin,
                          int64_t end) { STRATA_BY_TYPE(SwigluBackwardT, dout.type, gate_up, dout, begin, end); },
    .add_bias = [](const Rows& x, const float* bias, int64_t begin,
                   int64_t end) { STRATA_BY_TYPE(AddBiasT, x.type, x, bias, begin, end); },
    .add = [](const Rows& x, const Rows& delta, int64_t begin,
              int64_t end) { STRATA_BY_TYPE(AddT, x.type, x, delta, begin, end); },
    .cross_entropy =
        [](const Rows& logits, const int32_t* targets, float scale, bool gradient, float* nll, int64_t begin,
           int64_t end) {
          STRATA_BY_TYPE(CrossEntropyT, logits.type, logits, targets, scale, gradient, nll, begin, end);
        },
    .sum_squares = SumSquaresRange,
    .adamw = AdamWRange,
    .round_to_bf16 = RoundRange,
};

}  // namespace

const RowOps& STRATA_ROW_OPS() { return kTable; }

}  // namespace strata::kernels
