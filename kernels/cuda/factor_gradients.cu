// Gradients of low-rank factors: out += scale * wide^T narrow over all tokens, where one side has a rank's few columns.
// A block takes a strip of wide columns and all tokens. Its warps take 16 tokens in turn, multiply them on the tensor
// cores while the next ones are on their way, each from a ring of its own, and add their sums up at last, in order.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/pieces.cuh"
#include "kernels/cuda_ops.h"

namespace strata::kernels::cuda {
namespace {

constexpr int kStrip = 32;      // wide columns of a block
constexpr int kWideStrip = 64;  // the same where there are kManyStrips of them: longer pieces of memory
constexpr int kManyStrips = 100;
constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kTokens = 16;  // of a warp at once
constexpr int kStepTokens = kWarps * kTokens;

// Columns [first, ..) of a task's narrow matrix, up to the next part's.
struct Part {
  float* out;
  int64_t wide_step, narrow_step;
  float scale;
  int first;
};
struct Task {
  const void* wide;
  const void* narrow;
  int64_t wide_stride, narrow_stride, tokens;
  int cols, rank, first_strip, first_part, last_part;
};
// Gradients of one wide matrix and of columns that lie side by side are one task.
struct Tasks {
  Task tasks[kMostFactorTasks];
  Part parts[kMostFactorTasks];
  int count;
};

template <int kStrip, int kRank, int kNumStages>
struct Ring {
  static constexpr int kStages = kNumStages;
  static constexpr int kWide = kTokens * kStrip, kNarrow = kTokens * kRank;  // numbers of a stage
  static constexpr int kBytes = kStages * (kWide + kNarrow) * 2;
};
template <int kStrip, int kRank>
struct Sums {
  static constexpr int kBytes = kStrip * kRank * 4;
  // Columns' sums turn, so that those of one j lie on different banks.
  __device__ static int Place(int col, int j) { return col * kRank + (j ^ (col % kRank)); }
};
template <int kStrip, int kRank, int kStages>
constexpr int kSharedBytes = std::max(Ring<kStrip, kRank, kStages>::kBytes, Sums<kStrip, kRank>::kBytes) * kWarps;
// What a device of compute capability 7.5 has.
static_assert(std::max({kSharedBytes<kStrip, 32, 4>, kSharedBytes<kStrip, kMostFactorRank, 2>,
                        kSharedBytes<kWideStrip, 16, 3>, kSharedBytes<kWideStrip, 32, 2>}) <= 64 << 10);

// A thread has the sums i = t, t + kThreads, .. of a block: neighbours in memory go to neighbouring threads.
template <int kStrip, int kRank>
struct SumOf {
  int col, j;
  __device__ SumOf(int i, bool along_rank)
      : col(along_rank ? i / kRank : i % kStrip), j(along_rank ? i % kRank : i / kStrip) {}
};

template <typename T, int kStrip, int kRank, int kStages>
__device__ void Multiply(const Tasks& all) {
  using OwnRing = Ring<kStrip, kRank, kStages>;
  using OwnSums = Sums<kStrip, kRank>;
  constexpr int kValues = kStrip * kRank / kThreads;  // of a thread
  extern __shared__ uint4 memory[];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  T* ring = reinterpret_cast<T*>(memory) + warp * (OwnRing::kBytes / 2);

  int index = 0;
  while (index + 1 < all.count && static_cast<int>(blockIdx.x) >= all.tasks[index + 1].first_strip) ++index;
  const Task& task = all.tasks[index];
  const int first_col = (static_cast<int>(blockIdx.x) - task.first_strip) * kStrip;
  const T* task_wide = static_cast<const T*>(task.wide) + first_col;
  const T* task_narrow = static_cast<const T*>(task.narrow);
  const auto wide = [&](int stage) { return ring + stage * (OwnRing::kWide + OwnRing::kNarrow); };
  const auto fetch = [&](int64_t token, int stage) {
    if (token < task.tokens) {
      const int64_t left = task.tokens - token;
      Fetch<kTokens, kStrip / kPieceNumbers>(task_wide + token * task.wide_stride, task.wide_stride, left,
                                             task.cols - first_col, wide(stage));
      Fetch<kTokens, kRank / kPieceNumbers>(task_narrow + token * task.narrow_stride, task.narrow_stride, left,
                                            task.rank, wide(stage) + OwnRing::kWide);
    }
    __pipeline_commit();
  };
  const int64_t first = warp * kTokens;
#pragma unroll
  for (int stage = 0; stage + 1 < kStages; ++stage) fetch(first + stage * kStepTokens, stage);

  // What the sums are added to is read while they are made.
  const bool along_rank = all.parts[task.first_part].narrow_step == 1;
  float* to[kValues];
  float scale[kValues];
  float before[kValues];
#pragma unroll
  for (int n = 0; n < kValues; ++n) {
    const SumOf<kStrip, kRank> at(static_cast<int>(threadIdx.x) + n * kThreads, along_rank);
    int part = task.first_part;
    while (part + 1 < task.last_part && at.j >= all.parts[part + 1].first) ++part;
    const Part& own = all.parts[part];
    const bool inside = first_col + at.col < task.cols && at.j < task.rank;
    to[n] = inside ? own.out + (first_col + at.col) * own.wide_step + (at.j - own.first) * own.narrow_step : nullptr;
    scale[n] = own.scale;
    before[n] = inside ? *to[n] : 0.0F;
  }

  float sums[kStrip / 16][kRank / 16][8] = {};
  int stage = 0;
  for (int64_t token = first; token < task.tokens; token += kStepTokens) {
    __pipeline_wait_prior(kStages - 2);
    __syncwarp();
    fetch(token + (kStages - 1) * kStepTokens, stage == 0 ? kStages - 1 : stage - 1);  // where the last one was
    const T* tile = wide(stage);
    uint32_t left[kStrip / 16][4];
#pragma unroll
    for (int m = 0; m < kStrip / 16; ++m) {
      LoadMatrices<true>(tile + PlaceInTile<kStrip / kPieceNumbers>(lane / 16 * 8 + lane % 8, 2 * m + lane / 8 % 2),
                         left[m]);
    }
#pragma unroll
    for (int n = 0; n < kRank / 16; ++n) {
      uint32_t right[4];
      LoadMatrices<true>(tile + OwnRing::kWide + PlaceInTile<kRank / kPieceNumbers>(lane % 16, 2 * n + lane / 16),
                         right);
#pragma unroll
      for (int m = 0; m < kStrip / 16; ++m) {
        float(&out)[8] = sums[m][n];
        MultiplyAdd<T>(left[m], right[0], right[1], out[0], out[1], out[2], out[3]);
        MultiplyAdd<T>(left[m], right[2], right[3], out[4], out[5], out[6], out[7]);
      }
    }
    stage = stage == kStages - 1 ? 0 : stage + 1;
  }
  __pipeline_wait_prior(0);
  __syncthreads();

  float* shares = reinterpret_cast<float*>(memory);
  float* share = shares + warp * (OwnSums::kBytes / 4);
#pragma unroll
  for (int m = 0; m < kStrip / 16; ++m) {
#pragma unroll
    for (int n = 0; n < kRank / 16; ++n) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int col = m * 16 + lane / 4 + i / 2 % 2 * 8;
        share[OwnSums::Place(col, n * 16 + i / 4 * 8 + lane % 4 * 2 + i % 2)] = sums[m][n][i];
      }
    }
  }
  __syncthreads();
#pragma unroll
  for (int n = 0; n < kValues; ++n) {
    if (to[n] == nullptr) continue;
    const SumOf<kStrip, kRank> at(static_cast<int>(threadIdx.x) + n * kThreads, along_rank);
    float total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += shares[w * (OwnSums::kBytes / 4) + OwnSums::Place(at.col, at.j)];
    *to[n] = before[n] + scale[n] * total;
  }
}

template <typename T, int kStrip, int kRank, int kStages>
__global__ void __launch_bounds__(kThreads, kRank > 32 ? 1 : 2) FactorKernel(Tasks all) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  Multiply<T, kStrip, kRank, kStages>(all);
#else  // without products of bf16
  if constexpr (std::is_same_v<T, __half>) Multiply<T, kStrip, kRank, kStages>(all);
#endif
}

// Gives each task its first strip; how many there are.
int CountStrips(Tasks& all, int width) {
  int strips = 0;
  for (int i = 0; i < all.count; ++i) {
    all.tasks[i].first_strip = strips;
    strips += (all.tasks[i].cols + width - 1) / width;
  }
  return strips;
}

template <typename T, int kStrip, int kRank, int kStages>
int StartOf(Tasks all, cudaStream_t stream) {
  constexpr int kBytes = kSharedBytes<kStrip, kRank, kStages>;
  const auto kernel = FactorKernel<T, kStrip, kRank, kStages>;
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (error != cudaSuccess) return error;
  const auto strips = static_cast<unsigned>(CountStrips(all, kStrip));
  kernel<<<strips, kThreads, kBytes, stream>>>(all);
  return cudaGetLastError();
}

template <typename T>
int Start(Tasks all, int rank, cudaStream_t stream) {
  const bool wide = CountStrips(all, kWideStrip) >= kManyStrips;
  if (rank <= 16) return wide ? StartOf<T, kWideStrip, 16, 3>(all, stream) : StartOf<T, kStrip, 16, 4>(all, stream);
  if (rank <= 32) return wide ? StartOf<T, kWideStrip, 32, 2>(all, stream) : StartOf<T, kStrip, 32, 4>(all, stream);
  int device = 0;
  int most = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error != cudaSuccess) return error;
  if (most < kSharedBytes<kStrip, kMostFactorRank, 4>) return StartOf<T, kStrip, kMostFactorRank, 2>(all, stream);
  return StartOf<T, kStrip, kMostFactorRank, 4>(all, stream);
}

// Each in a kernel that suits its rank, those of one kernel at once.
template <typename T>
int StartEach(const Tasks& all, cudaStream_t stream) {
  int above = 0;
  for (const int most : {16, 32, static_cast<int>(kMostFactorRank)}) {
    Tasks some = all;
    some.count = 0;
    for (int i = 0; i < all.count; ++i) {
      if (all.tasks[i].rank > above && all.tasks[i].rank <= most) some.tasks[some.count++] = all.tasks[i];
    }
    above = most;
    if (some.count == 0) continue;
    const int error = Start<T>(some, most, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

// Whether b reads what a reads, and of the narrow side the columns behind a's `rank`.
bool Follows(const FactorGradient& a, int rank, const FactorGradient& first, const FactorGradient& b) {
  const auto* behind = static_cast<const char*>(first.narrow.data) + rank * 2;
  return b.wide.data == a.wide.data && b.wide.stride == a.wide.stride && b.wide.cols == a.wide.cols &&
         b.narrow.stride == a.narrow.stride && b.narrow.data == behind && rank + b.narrow.cols <= kMostFactorRank &&
         (a.narrow_step == 1) == (b.narrow_step == 1);
}

}  // namespace

bool TakesFactors(const FactorGradient& gradient) {
  return InPieces(gradient.wide) && InPieces(gradient.narrow) && gradient.narrow.cols <= kMostFactorRank;
}

int AccumulateFactors(const FactorGradient* gradients, int64_t count, void* stream) {
  Tasks all = {};
  const FactorGradient* first = gradients;
  for (int i = 0; i < count; ++i) {
    const FactorGradient& g = gradients[i];
    const bool follows = i > 0 && Follows(gradients[i - 1], all.tasks[all.count - 1].rank, *first, g);
    if (!follows) {
      first = &g;
      all.tasks[all.count++] = {.wide = g.wide.data,
                                .narrow = g.narrow.data,
                                .wide_stride = g.wide.stride,
                                .narrow_stride = g.narrow.stride,
                                .tokens = g.wide.rows,
                                .cols = static_cast<int>(g.wide.cols),
                                .rank = 0,
                                .first_strip = 0,
                                .first_part = i,
                                .last_part = i};
    }
    Task& task = all.tasks[all.count - 1];
    all.parts[i] = {
        .out = g.out, .wide_step = g.wide_step, .narrow_step = g.narrow_step, .scale = g.scale, .first = task.rank};
    task.rank += static_cast<int>(g.narrow.cols);
    task.last_part = i + 1;
  }
  if (count == 0 || gradients[0].wide.rows == 0) return cudaSuccess;
  auto* on = static_cast<cudaStream_t>(stream);
  if (gradients[0].wide.type == Type::kF16) return StartEach<__half>(all, on);
  return StartEach<__nv_bfloat16>(all, on);
}

}  // namespace strata::kernels::cuda
