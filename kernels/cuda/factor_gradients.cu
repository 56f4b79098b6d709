// Gradients of low-rank factors: out += scale * wide^T narrow over all tokens, where one side has a rank's few columns.
// A block takes 64 wide columns and a share of the tokens, and multiplies on the tensor cores while the next tokens are
// on their way. Where the tokens are shared out, the block that ends last adds the shares up in their order, so that
// the result does not depend on who was first.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <mma.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda_ops.h"

namespace strata::kernels::cuda {
namespace {

constexpr int kStrip = 64;   // wide columns of a block
constexpr int kTokens = 64;  // at once
constexpr int kThreads = 128;
constexpr int kTile = 16;  // of a tensor core's product
constexpr int kMostTiles = kMostFactorRank / kTile;
[[maybe_unused]] constexpr int kPad = 8;  // columns that keep rows of shared memory on different banks
constexpr int kPiece = 8;                 // 16-bit numbers in 16 bytes
constexpr int64_t kMostBlocks = 512;
constexpr int64_t kWantedBlocks = 264;
constexpr int64_t kFewestTokens = 128;  // of a share
constexpr int64_t kCounters = kMostBlocks;
static_assert(kFactorWorkspace >= kCounters * 4 + kMostBlocks * kStrip * kMostFactorRank * 4);

struct Task {
  const void* wide;
  const void* narrow;
  float* out;
  int64_t wide_stride, narrow_stride, wide_step, narrow_step, tokens;
  float scale;
  int cols, rank, first_strip;
};
struct Tasks {
  Task tasks[kMostFactorTasks];
  int count, shares, tokens_each;
};

template <typename T>
__device__ uint4 LoadPiece(const T* from, bool inside) {
  return inside ? *reinterpret_cast<const uint4*>(from) : uint4{};
}

template <typename T, int kTiles>
__device__ void Multiply(const Tasks& all, int* counters, float* parts) {
  namespace wmma = nvcuda::wmma;
  constexpr int kRank = kTiles * kTile;
  constexpr int kWideLd = kStrip + kPad;
  constexpr int kNarrowLd = kRank + kPad;
  constexpr int kWidePieces = kTokens * kStrip / kPiece / kThreads;
  constexpr int kNarrowPieces = (kTokens * kRank / kPiece + kThreads - 1) / kThreads;
  constexpr int kTileBytes = kTokens * (kWideLd + kNarrowLd) * 2;
  constexpr int kSumBytes = kStrip * kRank * 4;
  __shared__ alignas(128) unsigned char memory[kTileBytes > kSumBytes ? kTileBytes : kSumBytes];
  auto* wide = reinterpret_cast<T*>(memory);
  T* narrow = wide + kTokens * kWideLd;
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / 32;

  int index = 0;
  while (index + 1 < all.count && static_cast<int>(blockIdx.x) >= all.tasks[index + 1].first_strip) ++index;
  const Task& task = all.tasks[index];
  const int strip = static_cast<int>(blockIdx.x) - task.first_strip;
  const int first_col = strip * kStrip;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * all.tokens_each;
  const int64_t last = min(first + all.tokens_each, task.tokens);
  const auto* task_wide = static_cast<const T*>(task.wide);
  const auto* task_narrow = static_cast<const T*>(task.narrow);

  uint4 next_wide[kWidePieces];
  uint4 next_narrow[kNarrowPieces];
  const auto fetch = [&](int64_t token) {
#pragma unroll
    for (int i = 0; i < kWidePieces; ++i) {
      const int piece = i * kThreads + thread;
      const int64_t row = token + piece / (kStrip / kPiece);
      const int col = first_col + piece % (kStrip / kPiece) * kPiece;
      next_wide[i] = LoadPiece(task_wide + row * task.wide_stride + col, row < last && col < task.cols);
    }
#pragma unroll
    for (int i = 0; i < kNarrowPieces; ++i) {
      const int piece = i * kThreads + thread;
      const int64_t row = token + piece / (kRank / kPiece);
      const int col = piece % (kRank / kPiece) * kPiece;
      next_narrow[i] = LoadPiece(task_narrow + row * task.narrow_stride + col,
                                 piece < kTokens * kRank / kPiece && row < last && col < task.rank);
    }
  };
  const auto put = [&] {
#pragma unroll
    for (int i = 0; i < kWidePieces; ++i) {
      const int piece = i * kThreads + thread;
      *reinterpret_cast<uint4*>(wide + piece / (kStrip / kPiece) * kWideLd + piece % (kStrip / kPiece) * kPiece) =
          next_wide[i];
    }
#pragma unroll
    for (int i = 0; i < kNarrowPieces; ++i) {
      const int piece = i * kThreads + thread;
      if (piece >= kTokens * kRank / kPiece) break;
      *reinterpret_cast<uint4*>(narrow + piece / (kRank / kPiece) * kNarrowLd + piece % (kRank / kPiece) * kPiece) =
          next_narrow[i];
    }
  };

  wmma::fragment<wmma::accumulator, kTile, kTile, kTile, float> sums[kTiles];
#pragma unroll
  for (int n = 0; n < kTiles; ++n) wmma::fill_fragment(sums[n], 0.0F);
  fetch(first);
  for (int64_t token = first; token < last; token += kTokens) {
    put();
    __syncthreads();
    if (token + kTokens < last) fetch(token + kTokens);
#pragma unroll
    for (int k = 0; k < kTokens; k += kTile) {
      wmma::fragment<wmma::matrix_a, kTile, kTile, kTile, T, wmma::col_major> left;
      wmma::load_matrix_sync(left, wide + k * kWideLd + warp * kTile, kWideLd);
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        wmma::fragment<wmma::matrix_b, kTile, kTile, kTile, T, wmma::row_major> right;
        wmma::load_matrix_sync(right, narrow + k * kNarrowLd + n * kTile, kNarrowLd);
        wmma::mma_sync(sums[n], left, right, sums[n]);
      }
    }
    __syncthreads();
  }

  auto* sum = reinterpret_cast<float*>(memory);
#pragma unroll
  for (int n = 0; n < kTiles; ++n)
    wmma::store_matrix_sync(sum + warp * kTile * kRank + n * kTile, sums[n], kRank, wmma::mem_row_major);
  __syncthreads();
  constexpr int kValues = kStrip * kRank;
  if (all.shares > 1) {
    float* own = parts + (static_cast<int64_t>(blockIdx.x) * all.shares + blockIdx.y) * kValues;
    for (int i = thread; i < kValues; i += kThreads) own[i] = sum[i];
    __threadfence();
    __syncthreads();
    __shared__ bool is_last;
    if (thread == 0) {
      is_last = atomicAdd(counters + blockIdx.x, 1) == all.shares - 1;
      if (is_last) counters[blockIdx.x] = 0;
    }
    __syncthreads();
    if (!is_last) return;
    __threadfence();
    const float* shares = parts + static_cast<int64_t>(blockIdx.x) * all.shares * kValues;
    for (int i = thread; i < kValues; i += kThreads) {
      float total = 0;
      for (int s = 0; s < all.shares; ++s) total += shares[s * kValues + i];
      sum[i] = total;
    }
    __syncthreads();
  }
  // Neighbours in memory to neighbouring threads.
  const bool along_rank = task.narrow_step == 1;
  for (int i = thread; i < kValues; i += kThreads) {
    const int col = along_rank ? i / kRank : i % kStrip;
    const int j = along_rank ? i % kRank : i / kStrip;
    if (first_col + col >= task.cols || j >= task.rank) continue;
    float* to = task.out + (first_col + col) * task.wide_step + j * task.narrow_step;
    *to += task.scale * sum[col * kRank + j];
  }
}
template <typename T, int kTiles>
__global__ void FactorKernel(Tasks all, int* counters, float* parts) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  Multiply<T, kTiles>(all, counters, parts);
#else  // without products of bf16
  if constexpr (std::is_same_v<T, __half>) Multiply<T, kTiles>(all, counters, parts);
#endif
}

bool Aligned(const Rows& m) {
  return (m.type == Type::kBF16 || m.type == Type::kF16) && reinterpret_cast<uintptr_t>(m.data) % 16 == 0 &&
         m.stride % kPiece == 0 && m.cols % kPiece == 0;
}

template <typename T>
int Start(const Tasks& all, int64_t rank, dim3 grid, void* workspace, cudaStream_t stream) {
  auto* counters = static_cast<int*>(workspace);
  auto* parts = reinterpret_cast<float*>(counters + kCounters);
  if (rank <= kTile) {
    FactorKernel<T, 1><<<grid, kThreads, 0, stream>>>(all, counters, parts);
  } else if (rank <= 2 * kTile) {
    FactorKernel<T, 2><<<grid, kThreads, 0, stream>>>(all, counters, parts);
  } else {
    FactorKernel<T, kMostTiles><<<grid, kThreads, 0, stream>>>(all, counters, parts);
  }
  return cudaGetLastError();
}

}  // namespace

bool TakesFactors(const FactorGradient& gradient) {
  return Aligned(gradient.wide) && Aligned(gradient.narrow) && gradient.narrow.cols <= kMostFactorRank;
}

int AccumulateFactors(const FactorGradient* gradients, int64_t count, void* workspace, void* stream) {
  Tasks all = {};
  int strips = 0;
  int64_t rank = 0;
  int64_t tokens = 0;
  for (int64_t i = 0; i < count; ++i) {
    const FactorGradient& g = gradients[i];
    all.tasks[i] = {.wide = g.wide.data,
                    .narrow = g.narrow.data,
                    .out = g.out,
                    .wide_stride = g.wide.stride,
                    .narrow_stride = g.narrow.stride,
                    .wide_step = g.wide_step,
                    .narrow_step = g.narrow_step,
                    .tokens = g.wide.rows,
                    .scale = g.scale,
                    .cols = static_cast<int>(g.wide.cols),
                    .rank = static_cast<int>(g.narrow.cols),
                    .first_strip = strips};
    strips += static_cast<int>((g.wide.cols + kStrip - 1) / kStrip);
    rank = std::max(rank, g.narrow.cols);
    tokens = std::max(tokens, g.wide.rows);
  }
  if (tokens == 0 || strips == 0) return cudaSuccess;
  all.count = static_cast<int>(count);
  const int64_t most = std::max<int64_t>(std::min(kMostBlocks / strips, tokens / kFewestTokens), 1);
  const int64_t shares = std::clamp<int64_t>((kWantedBlocks + strips - 1) / strips, 1, most);
  const int64_t each = (tokens + shares - 1) / shares;
  all.tokens_each = static_cast<int>((each + kTokens - 1) / kTokens * kTokens);
  all.shares = static_cast<int>((tokens + all.tokens_each - 1) / all.tokens_each);
  const dim3 grid(static_cast<unsigned>(strips), static_cast<unsigned>(all.shares));
  auto* on = static_cast<cudaStream_t>(stream);
  if (gradients[0].wide.type == Type::kF16) return Start<__half>(all, rank, grid, workspace, on);
  return Start<__nv_bfloat16>(all, rank, grid, workspace, on);
}

}  // namespace strata::kernels::cuda
