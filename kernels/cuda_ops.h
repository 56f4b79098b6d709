// The loops of ops.h over a CUDA device's memory, and what only a device needs: the same formulas, each in order on
// `stream` (a cudaStream_t). fp32, bf16 or fp16 matrices, computed in fp32. Each returns the launch's cudaError_t,
// allocates nothing and may be captured in a graph; every one is deterministic. Only in a build with STRATA_CUDA.
#ifndef STRATA_KERNELS_CUDA_OPS_H_
#define STRATA_KERNELS_CUDA_OPS_H_

#include <cstdint>

#include "kernels/ops.h"

namespace strata::kernels::cuda {

int Norm(const Rows& x, const NormWeights& norm, const Rows& out, float* rstd, void* stream);
int AddNorm(const Rows& x, const Rows& delta, const Rows& sum, const NormWeights& norm, const Rows& out, float* rstd,
            void* stream);
int NormBackward(const Rows& dy, const Rows& x, const NormWeights& norm, const float* rstd, const Rows& dx,
                 bool accumulate, void* stream);
// Adds to dx as NormBackward and leaves the norm's value in dy.
int NormBackwardAndValue(const Rows& dy, const Rows& x, const NormWeights& norm, const float* rstd, const Rows& dx,
                         void* stream);
int Rope(const Rows& x, int64_t heads, int64_t head_dim, const Turns& turns, bool inverse, void* stream);
int Activate(Unit unit, const Rows& in, const Rows& out, void* stream);
int ActivateBackward(Unit unit, const Rows& in, const Rows& dout, void* stream);
int AddBias(const Rows& x, const float* bias, void* stream);
int Add(const Rows& x, const Rows& delta, void* stream);

// A row without a target (below zero) has a loss of zero and no gradient. The gradient's scale is options.scale times
// *scale (on the device; may be null).
int CrossEntropy(const Rows& logits, const int32_t* targets, const LossOptions& options, const float* scale, float* nll,
                 void* stream);

// Documents as a device has them: document i is rows [starts[i], starts[i + 1]); none is longer than `longest`.
struct DeviceDocuments {
  const int32_t* starts = nullptr;  // count + 1 of them, on the device
  int64_t count = 0, longest = 0;
};
inline constexpr int64_t kMostHeadDim = 256;
// Whether Attention and AttentionBackward can: 16-bit matrices in pieces of 16 bytes, fp32 ones of any head width up to
// kMostHeadDim.
bool TakesAttention(const AttentionShape& shape, const Rows& qkv);
// Whether Attention and AttentionBackward use Hopper's own instructions on a device of compute capability `major`, and
// beat LibTorch's flash kernels: 16-bit matrices, no cap, heads 64 or 128 wide.
bool HasHopperAttention(const AttentionShape& shape, const Rows& qkv, int major);
// As kernels::Attention; softmax and sums in fp32, the weights of 16-bit matrices rounded before they meet v.
int Attention(const AttentionShape& shape, const DeviceDocuments& documents, const Rows& qkv,
              const AttentionResult& out, void* stream);
// `delta`: fp32 [heads, tokens] on the device, overwritten.
int AttentionBackward(const AttentionShape& shape, const DeviceDocuments& documents, const AttentionGradient& gradient,
                      float* delta, void* stream);

int Copy(const Rows& from, const Rows& to, void* stream);
// out[i] = table[index[i]]; zeros where the index is below zero.
int GatherRows(const Rows& table, const int32_t* index, const Rows& out, void* stream);
// out[index[i]] = in[i], but where the index is below zero. Other rows are left alone. REQUIRES: no index twice.
int ScatterRows(const Rows& in, const int32_t* index, const Rows& out, void* stream);

// A matrix of fp32 [rows, cols], contiguous, that is to be written times `scale` into another's memory.
struct ScaledCopy {
  const float* from = nullptr;
  void* to = nullptr;
  int64_t rows = 0, cols = 0, to_stride = 0;
  float scale = 1;
};
// All of them in one launch. `copies` on the device; they write matrices of `type`.
int CopyScaled(const ScaledCopy* copies, int64_t count, Type type, void* stream);

// out[r][c] = m[first_row + r][first_col + c], in out's type: the tile of a frozen matrix that a product is about to
// read. m of any type; of kNf4 at most kMostNf4Parts matrices (Nf4 here, its arrays on the device).
inline constexpr int64_t kMostNf4Parts = 4;
int Decode(const Rows& m, int64_t first_row, int64_t first_col, const Rows& out, void* stream);

// LoRA dropout: out[t][i] = x[t][i] / (1 - probability) where the key's Philox has uniform(t * cols + i) >= probability
// (common/runtime/random.h), else 0. The key is *base * factor + addend, modulo 2^64; `base` on the device. `out` may
// be `x`.
struct DropoutMask {
  const uint64_t* base = nullptr;
  uint64_t factor = 1, addend = 0;
  double probability = 0;
};
int Dropout(const Rows& x, const DropoutMask& mask, const Rows& out, void* stream);

// Gradients of factors from rows of 16-bit numbers.
inline constexpr int64_t kMostFactorTasks = 8;
inline constexpr int64_t kMostFactorRank = 64;
// Whether AccumulateFactors can: pieces of 16 bytes, a rank that is not too high. For bf16 a device of compute
// capability 8.0 or newer is needed too.
bool TakesFactors(const FactorGradient& gradient);
// At most kMostFactorTasks at once (an array here, not on the device), over the same number of tokens. Those of one
// wide matrix whose narrow columns lie side by side are quickest one behind the other. The order of a sum depends on
// nothing but its tokens.
int AccumulateFactors(const FactorGradient* gradients, int64_t count, void* stream);

// A product whose result has a rank's few columns, on devices of compute capability kNarrowMajor: out = x w^T with w
// [cols, depth], or out = x w with w [depth, cols]; rounded once. `copy`, if it has data, gets the same.
inline constexpr int kNarrowMajor = 9;
inline constexpr int64_t kMostNarrowProducts = 4;
inline constexpr int64_t kMostNarrowColumns = 64;
struct NarrowProduct {
  Rows x, w, out, copy;
};
// Whether MultiplyNarrow can: 16 bits, all of one type, pieces of 16 bytes, few columns.
bool TakesNarrowProduct(const NarrowProduct& product);
// At most kMostNarrowProducts at once (an array here, not on the device), of one type and number of tokens. The order
// of a sum depends on the shapes alone. REQUIRES: TakesNarrowProduct of each.
int MultiplyNarrow(const NarrowProduct* products, int64_t count, bool by_rows, void* stream);

// *out (on the device) = sum of squares in double. `workspace`: kSumSquaresWorkspace doubles on the device.
inline constexpr int64_t kSumSquaresWorkspace = 512;
int SumSquares(const float* values, int64_t count, double* workspace, double* out, void* stream);

int AdamW(float* p, float* gradient, float* m, float* v, int64_t count, const AdamWStep& step, void* stream);

}  // namespace strata::kernels::cuda

#endif  // STRATA_KERNELS_CUDA_OPS_H_
