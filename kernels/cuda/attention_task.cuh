// What attention's kernels are given, and which tile of it a block owns.
#ifndef STRATA_KERNELS_CUDA_ATTENTION_TASK_CUH_
#define STRATA_KERNELS_CUDA_ATTENTION_TASK_CUH_

#include <cstdint>

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
inline unsigned TileNumbers(int64_t tokens, int64_t documents, int size) {
  return static_cast<unsigned>(tokens / size + documents);
}

}  // namespace strata::kernels::cuda

#endif  // STRATA_KERNELS_CUDA_ATTENTION_TASK_CUH_
