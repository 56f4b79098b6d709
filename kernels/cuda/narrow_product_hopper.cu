// Products whose result has a rank's few columns, x w^T or x w: they are bound by reading x. A cluster of blocks takes
// 32 tokens and shares the depth; the warps of a block take 64 of its depth in turn, multiply them on the tensor cores
// while the next ones are on their way, each from a ring of its own, and all add their sums up at last, in order.
#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/pieces.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda_ops.h"

namespace strata::kernels::cuda {
namespace {

constexpr int kTile = 32;  // tokens of a cluster
constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kDepth = 64;  // of a warp at once
// So many blocks are at work at once, one on a multiprocessor: in clusters of four some multiprocessors are left over.
constexpr int kMostPairs = 132, kMostFours = 96;

struct Task {
  const void* x;
  const void* w;
  void* out;
  void* copy;
  int64_t x_stride, w_stride, out_stride, copy_stride;
  int depth, cols;
};
struct Tasks {
  Task tasks[kMostNarrowProducts];
  int64_t tokens;
  int tiles;
};

template <int kCols>
struct Shape {
  static constexpr int kX = kTile * kDepth, kW = kCols * kDepth;  // numbers of a stage
  static constexpr int kStages = kCols <= 32 ? 3 : 2;
  static constexpr int kRingBytes = kStages * (kX + kW) * 2;  // of a warp
  static constexpr int kSumsStride = kCols + 8;               // four rows' pairs lie on different banks
  static constexpr int kSums = kTile * kSumsStride;           // of a warp
  static constexpr int kPairs = kTile * kCols / 2;
  static constexpr int kBytes = std::max(kRingBytes * kWarps, kSums * 4 * kWarps + kPairs * 8);
};

template <typename T, int kCols, bool kByRows>
__global__ void __launch_bounds__(kThreads) NarrowKernel(Tasks all) {
  using Own = Shape<kCols>;
  extern __shared__ uint4 memory[];
  const auto cluster = cooperative_groups::this_cluster();
  const int blocks = static_cast<int>(cluster.num_blocks());
  const int rank = static_cast<int>(cluster.block_rank());
  const int number = static_cast<int>(blockIdx.x) / blocks;
  const Task& task = all.tasks[number / all.tiles];
  const int64_t first = static_cast<int64_t>(number % all.tiles) * kTile;
  const int64_t tokens = all.tokens - first;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;

  const int steps = (task.depth + kDepth - 1) / kDepth;
  const int share = (steps + blocks - 1) / blocks;
  const int end = min((rank + 1) * share, steps);
  T* ring = reinterpret_cast<T*>(memory) + warp * (Own::kRingBytes / 2);
  const T* x = static_cast<const T*>(task.x) + first * task.x_stride;
  const T* w = static_cast<const T*>(task.w);
  const auto fetch = [&](int step, int stage) {
    if (step < end) {
      T* tile = ring + stage * (Own::kX + Own::kW);
      const int64_t from = static_cast<int64_t>(step) * kDepth;
      Fetch<kTile, kDepth / kPieceNumbers>(x + from, task.x_stride, tokens, task.depth - from, tile);
      if constexpr (kByRows) {
        Fetch<kCols, kDepth / kPieceNumbers>(w + from, task.w_stride, task.cols, task.depth - from, tile + Own::kX);
      } else {
        Fetch<kDepth, kCols / kPieceNumbers>(w + from * task.w_stride, task.w_stride, task.depth - from, task.cols,
                                             tile + Own::kX);
      }
    }
    __pipeline_commit();
  };

  int step = rank * share + warp;
#pragma unroll
  for (int stage = 0; stage + 1 < Own::kStages; ++stage) fetch(step + stage * kWarps, stage);
  float sums[kTile / 16][kCols / 16][8] = {};
  for (int stage = 0; step < end; step += kWarps, stage = (stage + 1) % Own::kStages) {
    __pipeline_wait_prior(Own::kStages - 2);
    __syncwarp();
    fetch(step + (Own::kStages - 1) * kWarps, (stage + Own::kStages - 1) % Own::kStages);  // where the last one was
    const T* tile = ring + stage * (Own::kX + Own::kW);
#pragma unroll
    for (int k = 0; k < kDepth / 16; ++k) {
      uint32_t left[kTile / 16][4];
#pragma unroll
      for (int m = 0; m < kTile / 16; ++m)
        LoadMatrices<false>(tile + PlaceInTile<kDepth / kPieceNumbers>(m * 16 + lane % 16, 2 * k + lane / 16), left[m]);
#pragma unroll
      for (int n = 0; n < kCols / 16; ++n) {
        uint32_t right[4];
        if constexpr (kByRows) {
          LoadMatrices<false>(
              tile + Own::kX +
                  PlaceInTile<kDepth / kPieceNumbers>(n * 16 + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2),
              right);
        } else {
          LoadMatrices<true>(tile + Own::kX + PlaceInTile<kCols / kPieceNumbers>(k * 16 + lane % 16, 2 * n + lane / 16),
                             right);
        }
#pragma unroll
        for (int m = 0; m < kTile / 16; ++m) {
          float(&out)[8] = sums[m][n];
          MultiplyAdd<T>(left[m], right[0], right[1], out[0], out[1], out[2], out[3]);
          MultiplyAdd<T>(left[m], right[2], right[3], out[4], out[5], out[6], out[7]);
        }
      }
    }
  }
  __pipeline_wait_prior(0);
  __syncthreads();

  float* shares = reinterpret_cast<float*>(memory);
  auto* own = reinterpret_cast<float2*>(shares + kWarps * Own::kSums);
  float* to = shares + warp * Own::kSums + lane / 4 * Own::kSumsStride + lane % 4 * 2;
#pragma unroll
  for (int m = 0; m < kTile / 16; ++m) {
#pragma unroll
    for (int n = 0; n < kCols / 16; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float(&pair)[8] = sums[m][n];
        *reinterpret_cast<float2*>(to + (m * 16 + i % 2 * 8) * Own::kSumsStride + n * 16 + i / 2 * 8) =
            make_float2(pair[2 * i], pair[2 * i + 1]);
      }
    }
  }
  __syncthreads();
  const auto store = [&](int pair, float2 value) {
    const int64_t row = pair / (kCols / 2);
    const int col = pair % (kCols / 2) * 2;
    if (row >= tokens || col >= task.cols) return;
    const float values[2] = {value.x, value.y};
    Store<T, 2>(static_cast<T*>(task.out) + (first + row) * task.out_stride + col, values);
    if (task.copy != nullptr) Store<T, 2>(static_cast<T*>(task.copy) + (first + row) * task.copy_stride + col, values);
  };
  for (int pair = static_cast<int>(threadIdx.x); pair < Own::kPairs; pair += kThreads) {
    const float* from = shares + pair / (kCols / 2) * Own::kSumsStride + pair % (kCols / 2) * 2;
    float2 total = {0, 0};
#pragma unroll
    for (int other = 0; other < kWarps; ++other) {
      const float2 value = *reinterpret_cast<const float2*>(from + other * Own::kSums);
      total.x += value.x;
      total.y += value.y;
    }
    if (blocks == 1) {
      store(pair, total);
    } else {
      own[pair] = total;
    }
  }
  if (blocks == 1) return;
  cluster.sync();
  const int part = Own::kPairs / blocks;
  for (int pair = rank * part + static_cast<int>(threadIdx.x); pair < (rank + 1) * part; pair += kThreads) {
    float2 total = {0, 0};
    for (int other = 0; other < blocks; ++other) {
      const float2 value = cluster.map_shared_rank(own, other)[pair];
      total.x += value.x;
      total.y += value.y;
    }
    store(pair, total);
  }
  cluster.sync();  // no block's memory goes before it has been read
}

template <typename T, int kCols, bool kByRows>
int StartOf(const Tasks& all, int count, int blocks, cudaStream_t stream) {
  constexpr int kBytes = Shape<kCols>::kBytes;
  const auto kernel = NarrowKernel<T, kCols, kByRows>;
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute in_clusters = {};
  in_clusters.id = cudaLaunchAttributeClusterDimension;
  in_clusters.val.clusterDim = {static_cast<unsigned>(blocks), 1, 1};
  cudaLaunchConfig_t launch = {};
  launch.gridDim = static_cast<unsigned>(all.tiles * count * blocks);
  launch.blockDim = kThreads;
  launch.dynamicSmemBytes = kBytes;
  launch.stream = stream;
  launch.attrs = &in_clusters;
  launch.numAttrs = 1;
  return cudaLaunchKernelEx(&launch, kernel, all);
}

template <typename T, bool kByRows>
int Start(const Tasks& all, int count, int cols, int blocks, cudaStream_t stream) {
  if (cols <= 16) return StartOf<T, 16, kByRows>(all, count, blocks, stream);
  if (cols <= 32) return StartOf<T, 32, kByRows>(all, count, blocks, stream);
  return StartOf<T, kMostNarrowColumns, kByRows>(all, count, blocks, stream);
}

template <typename T>
int Start(const Tasks& all, int count, int cols, bool by_rows, int blocks, cudaStream_t stream) {
  return by_rows ? Start<T, true>(all, count, cols, blocks, stream) : Start<T, false>(all, count, cols, blocks, stream);
}

}  // namespace

bool TakesNarrowProduct(const NarrowProduct& p) {
  const auto fits = [&](const Rows& m) { return m.type == p.x.type && InPieces(m); };
  return p.out.cols <= kMostNarrowColumns && fits(p.x) && fits(p.w) && fits(p.out) &&
         (p.copy.data == nullptr || fits(p.copy));
}

int MultiplyNarrow(const NarrowProduct* products, int64_t count, bool by_rows, void* stream) {
  Tasks all = {};
  int64_t cols = 0;
  int64_t depth = 0;
  for (int64_t i = 0; i < count; ++i) {
    const NarrowProduct& p = products[i];
    all.tasks[i] = {.x = p.x.data,
                    .w = p.w.data,
                    .out = p.out.data,
                    .copy = p.copy.data,
                    .x_stride = p.x.stride,
                    .w_stride = p.w.stride,
                    .out_stride = p.out.stride,
                    .copy_stride = p.copy.stride,
                    .depth = static_cast<int>(p.x.cols),
                    .cols = static_cast<int>(p.out.cols)};
    cols = std::max(cols, p.out.cols);
    depth = std::max(depth, p.x.cols);
  }
  if (count == 0 || products[0].x.rows == 0) return cudaSuccess;
  all.tokens = products[0].x.rows;
  all.tiles = static_cast<int>((all.tokens + kTile - 1) / kTile);
  const int64_t tiles = all.tiles * count;
  const int64_t parts = depth / (kWarps * kDepth);  // that keep all warps of as many blocks busy
  int blocks = 1;
  if (2 * tiles <= kMostPairs && parts >= 2) blocks = 2;
  if (4 * tiles <= kMostFours && parts >= 4) blocks = 4;
  auto* on = static_cast<cudaStream_t>(stream);
  const auto number = static_cast<int>(count);
  if (products[0].x.type == Type::kF16) return Start<__half>(all, number, static_cast<int>(cols), by_rows, blocks, on);
  return Start<__nv_bfloat16>(all, number, static_cast<int>(cols), by_rows, blocks, on);
}

}  // namespace strata::kernels::cuda
