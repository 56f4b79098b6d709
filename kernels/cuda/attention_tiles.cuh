// How scores count, and how a block of attention.cu walks over tiles.
#ifndef STRATA_KERNELS_CUDA_ATTENTION_TILES_CUH_
#define STRATA_KERNELS_CUDA_ATTENTION_TILES_CUH_

#include <cuda_pipeline.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/attention_engines.cuh"
#include "kernels/cuda/attention_task.cuh"
#include "kernels/cuda/rows.cuh"

namespace strata::kernels::cuda {

template <typename T>
__device__ float Exp(float x) {
  if constexpr (std::is_same_v<T, float>) return expf(x);
  return __expf(x);
}

template <typename T>
__device__ float Tanh(float x) {
  if constexpr (std::is_same_v<T, float>) return tanhf(x);
  return 1.0F - __fdividef(2.0F, 1.0F + __expf(2.0F * x));
}

// A product of a query and a key as it counts, and what that changes by with the product.
template <typename T>
__device__ float ScoreOf(const AttentionTask<T>& task, float product, float& slope) {
  slope = task.scale;
  if (task.cap == 0) return product * task.scale;
  const float share = Tanh<T>(product * task.scale_of_cap);
  slope *= 1.0F - share * share;
  return task.cap * share;
}

// A product becomes its weight, the weight's gradient the product's.
template <typename T>
__device__ void Differentiate(const AttentionTask<T>& task, bool seen, float lse, float delta, float& product,
                              float& gradient) {
  float slope = 0;
  const float score = ScoreOf(task, product, slope);
  product = seen ? Exp<T>(score - lse) : 0.0F;
  gradient = product * (gradient - delta) * slope;
}

// Rows of a head on their way into a tile; what is outside is zero.
template <typename E, int kTileRows>
__device__ void LoadTile(const typename E::T* from, int64_t stride, int rows, int dim, typename E::T* tile) {
  using Piece = Packed<typename E::T, E::kPiece>;
  constexpr int kPieces = E::kDim / E::kPiece;
  for (int i = static_cast<int>(threadIdx.x); i < kTileRows * kPieces; i += E::kThreads) {
    const int row = i / kPieces;
    const int col = i % kPieces * E::kPiece;
    typename E::T* to = tile + E::Place(row, col);
    if (row < rows && col < dim) {
      __pipeline_memcpy_async(to, from + row * stride + col, sizeof(Piece));
    } else {
      *reinterpret_cast<Piece*>(to) = Piece{};
    }
  }
}

// A block's memory.
template <typename E>
struct Tiles {
  using T = typename E::T;
  __device__ explicit Tiles(int own_tiles) {
    extern __shared__ uint4 memory[];
    own = reinterpret_cast<T*>(memory);
    other = own + own_tiles * kOwnSize;
    scratch = other + 2 * E::kStages * kOtherSize;
  }
  __device__ T* Own(int tile) const { return own + tile * kOwnSize; }
  __device__ T* Other(int stage, int tile) const { return other + (2 * stage + tile) * kOtherSize; }

  static constexpr int kOwnSize = E::kOwn * E::kStride, kOtherSize = E::kOther * E::kStride;
  T *own, *other, *scratch;
};

// load(i, stage), then use(i, stage) for each i in order; while one tile is used, the next is on its way if there is
// room. What was being loaded before arrives with the first.
template <typename E, typename Load, typename Use>
__device__ void ForEachTile(int count, const Load& load, const Use& use) {
  load(0, 0);
  __pipeline_commit();
  for (int i = 0; i < count; ++i) {
    const int stage = i % E::kStages;
    const bool more = i + 1 < count;
    __pipeline_wait_prior(0);
    __syncthreads();
    if (E::kStages > 1 && more) load(i + 1, 1 - stage);
    __pipeline_commit();
    use(i, stage);
    if (E::kStages > 1) continue;
    __syncthreads();
    if (more) load(i + 1, 0);
    __pipeline_commit();
  }
}

template <typename E>
__device__ void StoreRows(const E& e, const float (&sums)[E::kRows][E::kSums], int rows, int dim, typename E::T* to,
                          int64_t stride) {
#pragma unroll
  for (int i = 0; i < E::kRows; ++i) {
    if (e.Row(i) >= rows) continue;
#pragma unroll
    for (int c = 0; c < E::kSums; c += E::kNeighbours) {
      if (e.SumCol(c) >= dim) continue;
      float values[E::kNeighbours];
#pragma unroll
      for (int n = 0; n < E::kNeighbours; ++n) values[n] = sums[i][c + n];
      Store<typename E::T, E::kNeighbours>(to + e.Row(i) * stride + e.SumCol(c), values);
    }
  }
}

}  // namespace strata::kernels::cuda

#endif  // STRATA_KERNELS_CUDA_ATTENTION_TILES_CUH_
