// What a block of attention's kernels works on: its documents, its tile, the tiles that it walks over, and how scores
// count.
#ifndef STRATA_KERNELS_CUDA_ATTENTION_TILES_CUH_
#define STRATA_KERNELS_CUDA_ATTENTION_TILES_CUH_

#include <cuda_pipeline.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/attention_engines.cuh"
#include "kernels/cuda/rows.cuh"

namespace strata::kernels::cuda {

template <typename T>
struct AttentionTask {
  const int32_t* starts;
  int documents, heads, kv_heads, dim, window;
  float scale, cap, scale_of_cap;  // cap: 0 or the soft cap
  int64_t tokens;
  View<const T> qkv;
  View<T> o;
  float* lse;
  int64_t lse_stride;
  // Backward.
  View<const T> d_o;
  View<T> dqkv;
  float* delta;

  // First columns of heads.
  __device__ int Query(int head) const { return head * dim; }
  __device__ int Key(int kv_head) const { return (heads + kv_head) * dim; }
  __device__ int Value(int kv_head) const { return (heads + kv_heads + kv_head) * dim; }
  __device__ int Group() const { return heads / kv_heads; }

  __device__ bool Sees(int query, int key) const { return key <= query && query - key < window; }
  // The first key that a query sees, and the end of the queries that see a key.
  __device__ int FirstKey(int query) const { return query < window ? 0 : query - window + 1; }
  __device__ int EndOfQueries(int key, int length) const { return length - key < window ? length : key + window; }
};

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

template <typename F, int kLanes>
__device__ float OverLanes(float value) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) value = F::Of(value, __shfl_xor_sync(~0U, value, offset));
  return value;
}

// Rows [first, first + rows) of a document that starts at row `start` of the batch; no rows: nothing to do.
struct OwnTile {
  int64_t start;
  int first, rows, length;
};

// Document d's tiles have the numbers from starts[d] / size + d on, as many as it needs and some to spare.
template <typename T>
__device__ OwnTile FindTile(const AttentionTask<T>& task, int size, int number) {
  int begun = 0;
  for (int i = 0; i < task.documents; i += static_cast<int>(blockDim.x)) {
    const int d = i + static_cast<int>(threadIdx.x);
    begun += __syncthreads_count(d < task.documents && task.starts[d] / size + d <= number);
  }
  if (begun == 0) return {};
  const int start = task.starts[begun - 1];
  const int length = task.starts[begun] - start;
  const int first = (number - start / size - begun + 1) * size;
  return {start, first, max(min(size, length - first), 0), length};
}
unsigned TileNumbers(int64_t tokens, int64_t documents, int size) {
  return static_cast<unsigned>(tokens / size + documents);
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
