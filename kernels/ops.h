// A LoRA step's loops over raw memory: the product with weights that are wider or of higher rank than what is stored,
// norms, rotary positions, attention, gated units, the loss, the optimiser. Formulas, precision and reduction orders:
// README.md. Every function is deterministic for the same arguments, processor model and thread count; threads are
// OpenMP's. Nothing allocates but SumSquares, a few bytes.
#ifndef STRATA_KERNELS_OPS_H_
#define STRATA_KERNELS_OPS_H_

#include <cstdint>

namespace strata::kernels {

// kF16 is for CUDA devices (cuda_ops.h). kInt8 and kNf4 are quantised weights, which only Product::w may be.
enum class Type { kF32, kBF16, kF16, kInt8, kNf4 };
constexpr bool IsQuantised(Type type) { return type == Type::kInt8 || type == Type::kNf4; }

// Row-major matrix in somebody else's memory; `stride` counts elements between rows and is at least `cols`.
struct Rows {
  void* data = nullptr;  // kNf4: Nf4[], whose rows follow one another
  Type type = Type::kF32;
  int64_t rows = 0, cols = 0, stride = 0;
  const float* scales = nullptr;  // kInt8: of each row
};

// A matrix in NF4 with double quantisation, in bitsandbytes' layout: blocks of kNf4Block values in row-major order (the
// last may be short) share a scale, kNf4ScaleBlock scales one of their own.
inline constexpr int64_t kNf4Block = 64;
inline constexpr int64_t kNf4ScaleBlock = 256;
struct Nf4 {
  int64_t rows = 0;
  const uint8_t* codes = nullptr;       // two values a byte, the first in the high half
  const uint8_t* scales = nullptr;      // of each block, in codes
  const float* scale_scales = nullptr;  // of so many scales
  float offset = 0;                     // of all scales
};

// How many elements the arrays of Nf4 have for a matrix of so many values.
struct Nf4Sizes {
  int64_t codes = 0, scales = 0, scale_scales = 0;
};
constexpr Nf4Sizes Nf4SizesOf(int64_t values) {
  const int64_t blocks = (values + kNf4Block - 1) / kNf4Block;
  return {.codes = (values + 1) / 2, .scales = blocks, .scale_scales = (blocks + kNf4ScaleBlock - 1) / kNf4ScaleBlock};
}

constexpr int64_t Nf4Bytes(int64_t values) {
  const Nf4Sizes sizes = Nf4SizesOf(values);
  return sizes.codes + sizes.scales + sizes.scale_scales * static_cast<int64_t>(sizeof(float));
}

// Weights -> codes. A value that is not finite makes its scale NaN.
// Values from a block's start on: their codes and each block's scale, its largest magnitude.
void QuantiseNf4(const float* values, int64_t count, uint8_t* codes, float* scales);
// The scales of a whole matrix in codes; returns Nf4::offset.
float QuantiseScales(const float* scales, int64_t count, uint8_t* codes, float* scale_scales);
// One row; returns its scale, the largest magnitude over 127.
float QuantiseInt8(const float* values, int64_t count, int8_t* out);
// Back: rows [first, first + count) of quantised weights, as the product reads them. out [count, m.cols].
void Decode(const Rows& m, int64_t first, int64_t count, float* out);

// Added to rows [first_row, first_row + b.rows) of a matrix as it is read: b a. a [rank, matrix's cols], b [., rank],
// fp32.
struct LowRank {
  Rows a, b;
  int64_t first_row = 0;
};

// Columns beside those of x, with the rows beside those of w that they meet, for a range of y's columns. Of x's type.
struct Beside {
  Rows x;                 // [x's rows, r]
  Rows w;                 // by rows: [n, r], added to y's columns [first_col, first_col + n); else [r, y's columns]
  int64_t first_col = 0;  // by rows
};

// by_rows: y (+)= x (w + added)^T; else y (+)= x (w + added); plus each product of what stands beside. x and y both
// fp32 or both bf16; w of any type. With fp32 w is widened to it as it is read. With bf16 w is rounded to it, sums are
// fp32, an element of y is rounded once, and nothing is added; twice as fast where the processor has AVX512-BF16. y
// overlaps none of them.
struct Product {
  Rows x, w, y;
  const LowRank* added = nullptr;
  int64_t num_added = 0;
  const Beside* beside = nullptr;
  int64_t num_beside = 0;
  bool by_rows = true;
  bool accumulate = false;
  // x has few rows, as in decoding: by rows, where nothing is added or stands beside, w is read as it lies. A row of y
  // then has sums of another order, which does not depend on x's other rows either.
  bool few_rows = false;
};
// Bytes of workspace that MatMul needs.
int64_t MatMulWorkspace(const Product& product, int threads);
// `workspace` is overwritten. The result does not depend on the thread count.
void MatMul(const Product& product, void* workspace, int threads);

// out[c * wide_step + r * narrow_step] += scale * sum over tokens t of wide[t][c] * narrow[t][r]; out fp32. One of the
// steps is 1. dB of scale * B: wide dy, narrow s; dA: wide x, narrow ds.
struct FactorGradient {
  Rows wide, narrow;
  float* out = nullptr;
  int64_t wide_step = 0, narrow_step = 0;
  float scale = 1;
};
// Bytes of workspace that AccumulateFactors needs.
int64_t FactorsWorkspace(int threads);
// All of them, which share no `out`; wide and narrow both fp32 or both bf16. The result does not depend on the thread
// count.
void AccumulateFactors(const FactorGradient* gradients, int64_t count, void* workspace, int threads);

// A norm's weights, fp32 [cols / heads]: each of the `heads` equal pieces of a row is normed on its own. Without a bias
// RmsNorm: out = x * rstd * weight, rstd = 1 / sqrt(mean(x^2) + epsilon). With one LayerNorm: out = (x - mean) * rstd *
// weight + bias, rstd = 1 / sqrt(mean((x - mean)^2) + epsilon).
struct NormWeights {
  const float* weight = nullptr;
  const float* bias = nullptr;
  float epsilon = 1e-6F;
  int64_t heads = 1;
};
// All of one type; rstd fp32 [rows, heads].
void Norm(const Rows& x, const NormWeights& norm, const Rows& out, float* rstd, int threads);
// sum = x + delta, rounded to the type, then Norm of the rounded sum. `sum` may be `x` or `delta`.
void AddNorm(const Rows& x, const Rows& delta, const Rows& sum, const NormWeights& norm, const Rows& out, float* rstd,
             int threads);
// dx (+)= gradient of Norm with respect to x, given dy. `dx` may be `dy` unless it accumulates.
void NormBackward(const Rows& dy, const Rows& x, const NormWeights& norm, const float* rstd, const Rows& dx,
                  bool accumulate, int threads);

// What the first 2 * `pairs` elements of a head are turned by: cos and sin are fp32 [rows, pairs].
struct Turns {
  const float* cos = nullptr;
  const float* sin = nullptr;
  int64_t pairs = 0;
};
// Rotates the first `heads * head_dim` columns in place: of each head's first 2 * pairs elements the halves (u, v)
// become (u cos - v sin, v cos + u sin). `inverse` turns back, which is also the gradient.
void Rope(const Rows& x, int64_t heads, int64_t head_dim, const Turns& turns, bool inverse, int threads);

// What stands between the MLP's matrices: silu(gate) * up, gelu(gate) * up, gelu(x); gelu by its tanh formula.
enum class Unit { kSwiglu, kGeglu, kGelu };
// The gated units read [gate | up], twice out's columns.
constexpr bool IsGated(Unit unit) { return unit != Unit::kGelu; }
void Activate(Unit unit, const Rows& in, const Rows& out, int threads);
// In place: `in` becomes its gradient, `dout` becomes the forward value again.
void ActivateBackward(Unit unit, const Rows& in, const Rows& dout, int threads);

// Causal attention inside each document of a batch. A row of qkv: `heads` turned q heads, `kv_heads` turned k heads,
// `kv_heads` v heads.
struct AttentionShape {
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  float scale = 1;     // of the scores
  int64_t window = 0;  // tokens that one attends to, itself included; 0: all before it
  float softcap = 0;   // > 0: a scaled score counts as softcap * tanh(score / softcap)
};
// Document i is rows [starts[i], starts[i + 1]).
struct Documents {
  const int32_t* starts = nullptr;
  int64_t count = 0;
};
// o [tokens, heads * head_dim]; log sum exp of a head's scores at lse[head * lse_stride + token].
struct AttentionResult {
  Rows o;
  float* lse = nullptr;
  int64_t lse_stride = 0;
};
struct AttentionGradient {
  Rows qkv;
  AttentionResult forward;
  Rows d_o, dqkv;
};
// Bytes of workspace; grow with the longest document, not with its square.
int64_t AttentionWorkspace(const AttentionShape& shape, const Documents& documents, bool backward, int threads);
// o = softmax(scale q k^T) v. Matrices all fp32 or all bf16, sums and softmax fp32; of bf16 the weights are rounded
// before they meet v, where the processor has AVX512-BF16.
void Attention(const AttentionShape& shape, const Documents& documents, const Rows& qkv, const AttentionResult& out,
               void* workspace, int threads);
// Writes gradient.dqkv. Of bf16 the weights and the scores' gradients are rounded as above.
void AttentionBackward(const AttentionShape& shape, const Documents& documents, const AttentionGradient& gradient,
                       void* workspace, int threads);

// LoRA dropout: out[t][i] = x[t][i] / (1 - probability) where the key's Philox (common/runtime/random.h) has uniform(t
// * cols + i) >= probability, else 0. `out` may be `x`.
void Dropout(const Rows& x, uint64_t key, double probability, const Rows& out, int threads);

// x[t] += bias; bias fp32 [cols].
void AddBias(const Rows& x, const float* bias, int threads);
// x += delta.
void Add(const Rows& x, const Rows& delta, int threads);

struct LossOptions {
  float scale = 1;        // of the gradient
  bool gradient = false;  // logits become the gradient
  float softcap = 0;      // > 0: logits count as softcap * tanh(logits / softcap)
};
// nll[t] = log sum exp(logits[t]) - logits[t][targets[t]]; the gradient is (softmax - onehot) * scale, through the cap.
// Without `gradient` logits are left as they count. REQUIRES: 0 <= targets[t] < cols.
void CrossEntropy(const Rows& logits, const int32_t* targets, const LossOptions& options, float* nll, int threads);

// Sum of squares in double, in an order that does not depend on the thread count.
double SumSquares(const float* values, int64_t count, int threads);

struct AdamWStep {
  float learning_rate = 0, beta1 = 0.9F, beta2 = 0.999F, epsilon = 1e-8F;
  float decay = 1;             // 1 - learning_rate * weight_decay
  float correction1 = 1;       // 1 - beta1^t
  float root_correction2 = 1;  // sqrt(1 - beta2^t)
  float gradient_scale = 1;    // clipping factor
};
// p *= decay; m, v <- moments of the scaled gradient; p -= lr / correction1 * m / (sqrt(v) / root_correction2 +
// epsilon); the gradient is zeroed.
void AdamW(float* p, float* gradient, float* m, float* v, int64_t count, const AdamWStep& step, int threads);

// out = source rounded to bf16 (nearest even), element by element.
void RoundToBf16(const float* source, uint16_t* out, int64_t count);

}  // namespace strata::kernels

#endif  // STRATA_KERNELS_OPS_H_
