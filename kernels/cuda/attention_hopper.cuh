// What the kernels of attention on Hopper's tensor cores share: 16 bits, no cap, heads 64 or 128 wide. As in
// attention.cu a block owns a tile of queries or of keys and walks over the tiles of the other side; here a warpgroup
// has 64 of its rows, and its products run while it works on the weights of the ones before.
#ifndef STRATA_KERNELS_CUDA_ATTENTION_HOPPER_CUH_
#define STRATA_KERNELS_CUDA_ATTENTION_HOPPER_CUH_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/attention_task.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace strata::kernels::cuda {

constexpr int kGroups = 2;
constexpr int kThreads = kGroups * kGroup;
constexpr int kOwn = kGroups * kGroupRows;
constexpr float kLog2E = 1.44269504F;

__device__ inline float Exp2(float x) {
  float out;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
  return out;
}

// Where a lane's sums stand: rows Row(0) and Row(1) of the block's tile, of eight columns j Col(j) and the next.
struct Lane {
  int group = static_cast<int>(threadIdx.x) / kGroup;
  int first_row = group * kGroupRows;
  int row = static_cast<int>(threadIdx.x) / kWarp * 16 + static_cast<int>(threadIdx.x) % kWarp / 4;
  int col = static_cast<int>(threadIdx.x) % 4 * 2;
  __device__ int Row(int i) const { return row + 8 * i; }
  __device__ int Col(int j) const { return col + 8 * j; }
};

__device__ inline uint32_t PlaceOf(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

__device__ inline char* Memory() {
  extern __shared__ uint4 memory[];
  char* from = reinterpret_cast<char*>(memory);
  return from + (-PlaceOf(from) & (kBlockAlign - 1));
}

template <int kSize>
__device__ void Clear(float (&values)[kSize]) {
#pragma unroll
  for (int i = 0; i < kSize; ++i) values[i] = 0;
}

// A block's second warpgroup asks for its products after the first one, so that these end first and what is made of
// them is made while the second one's run.
template <bool kInTurn>
__device__ void AwaitTurn(const Lane& lane) {
  if (kInTurn && lane.group == 1) asm volatile("bar.sync 1, 256;" ::: "memory");
}
template <bool kInTurn>
__device__ void PassTurn(const Lane& lane) {
  if (kInTurn && lane.group == 0) asm volatile("bar.arrive 1, 256;" ::: "memory");
}

// scores = own other^T, on their way.
template <typename T, int kRows, int kOther, int kDim>
__device__ void BeginScores(uint32_t own, int first_row, uint32_t other, float (&scores)[kOther / 2]) {
#pragma unroll
  for (int k = 0; k < kDim / kDepth; ++k) {
    Multiply<T, false>(WideTile<kRows, kDim>::AlongRow(own, first_row, k),
                       WideTile<kOther, kDim>::AlongRow(other, 0, k), k > 0, scores);
  }
  CommitProducts();
}

// The weights of a tile's row as the next product takes them.
template <typename T, int kSize>
__device__ void Pack(const float (&weights)[kSize], uint32_t (&pairs)[kSize / 2]) {
#pragma unroll
  for (int i = 0; i < kSize / 2; ++i) pairs[i] = PairOf<T>(weights[2 * i], weights[2 * i + 1]);
}

// sums += weights other, on their way.
template <typename T, int kOther, int kDim>
__device__ void BeginSums(const uint32_t (&weights)[kOther / 4], uint32_t other, float (&sums)[kDim / 2]) {
#pragma unroll
  for (int k = 0; k < kOther / kDepth; ++k) {
    Multiply<T, true>(weights + 4 * k, WideTile<kOther, kDim>::AlongColumn(other, 0, k), true, sums);
  }
  CommitProducts();
}

template <typename T, int kDim>
__device__ void StoreSums(const Lane& lane, const float (&sums)[kDim / 2], float scale0, float scale1, int rows, T* to,
                          int64_t stride) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (lane.Row(r) >= rows) continue;
    const float scale = r == 0 ? scale0 : scale1;
#pragma unroll
    for (int j = 0; j < kDim / 8; ++j) {
      const float pair[2] = {sums[4 * j + 2 * r] * scale, sums[4 * j + 2 * r + 1] * scale};
      Store<T, 2>(to + lane.Row(r) * stride + lane.Col(j), pair);
    }
  }
}

// Scores that a query doesn't see count nothing. `row` and `col`: the tile's first query and key.
template <typename T, int kSize>
__device__ void HideKeys(const AttentionTask<T>& task, const Lane& lane, int row, int col, float (&scores)[kSize]) {
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    if (!task.Sees(row + lane.Row(i / 2 % 2), col + lane.Col(i / 4) + i % 2)) scores[i] = -INFINITY;
  }
}

// Whether some query of [first, first + queries) doesn't see some key of [key, key + keys).
template <typename T>
__device__ bool HidesSome(const AttentionTask<T>& task, int first, int queries, int key, int keys) {
  return key + keys - 1 > first || first + queries - 1 - key >= task.window;
}

// A cluster of blocks for each tile that a document may have, and each of `heads`.
template <typename Shape, typename T>
int Start(void (*kernel)(AttentionTask<T>), const AttentionTask<T>& task, int heads, int cluster, cudaStream_t stream) {
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kBytes);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute in_clusters = {};
  in_clusters.id = cudaLaunchAttributeClusterDimension;
  in_clusters.val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  cudaLaunchConfig_t launch = {};
  launch.gridDim = TileNumbers(task.tokens, task.documents, kOwn) * static_cast<unsigned>(heads * cluster);
  launch.blockDim = kThreads;
  launch.dynamicSmemBytes = static_cast<size_t>(Shape::kBytes);
  launch.stream = stream;
  launch.attrs = &in_clusters;
  launch.numAttrs = 1;
  return cudaLaunchKernelEx(&launch, kernel, task);
}

}  // namespace strata::kernels::cuda

#endif  // STRATA_KERNELS_CUDA_ATTENTION_HOPPER_CUH_
