// How the kernels of this folder read, write and sum rows. Matrices are read and written in pieces of 16 bytes where
// their places allow it; a thread meets the same columns in each of its walks over a row, so that it may read again
// what it wrote. Sums over a row are butterflies of a fixed shape.
#ifndef STRATA_KERNELS_CUDA_ROWS_CUH_
#define STRATA_KERNELS_CUDA_ROWS_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "kernels/ops.h"

namespace strata::kernels::cuda {

constexpr int kWarp = 32;
constexpr int kMostThreads = 512;
constexpr int kFlatThreads = 256;

__device__ inline float ToFloat(float x) { return x; }
__device__ inline float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float ToFloat(__half x) { return __half2float(x); }
template <typename T>
__device__ T FromFloat(float x);
template <>
__device__ inline float FromFloat<float>(float x) {
  return x;
}
template <>
__device__ inline __nv_bfloat16 FromFloat<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ inline __half FromFloat<__half>(float x) {
  return __float2half_rn(x);
}

template <typename T, int V>
struct alignas(sizeof(T) * V) Packed {
  T values[V];
};

// V neighbours, widened.
template <typename T, int V>
__device__ inline void Load(const T* from, float (&out)[V]) {
  const Packed<T, V> packed = *reinterpret_cast<const Packed<T, V>*>(from);
#pragma unroll
  for (int i = 0; i < V; ++i) out[i] = ToFloat(packed.values[i]);
}

template <typename T, int V>
__device__ inline void Store(T* to, const float (&values)[V]) {
  Packed<T, V> packed;
#pragma unroll
  for (int i = 0; i < V; ++i) packed.values[i] = FromFloat<T>(values[i]);
  *reinterpret_cast<Packed<T, V>*>(to) = packed;
}

template <typename T>
__device__ inline float Rounded(float x) {
  return ToFloat(FromFloat<T>(x));
}

struct Sum {
  __device__ static float Of(float a, float b) { return a + b; }
  static constexpr float kNone = 0;
};
struct Largest {
  __device__ static float Of(float a, float b) { return fmaxf(a, b); }
  static constexpr float kNone = -INFINITY;
};

// Of all threads of the block, known to each.
template <typename F>
__device__ float OverBlock(float value) {
  __shared__ float parts[kWarp];
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value = F::Of(value, __shfl_xor_sync(~0U, value, offset));
  if (blockDim.x <= kWarp) return value;
  __syncthreads();  // the parts of the call before have been read
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = threadIdx.x % kWarp < blockDim.x / kWarp ? parts[threadIdx.x % kWarp] : F::kNone;
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value = F::Of(value, __shfl_xor_sync(~0U, value, offset));
  return value;
}

// A matrix as kernels see it.
template <typename T>
struct View {
  T* data;
  int64_t stride;
  __device__ T* Row(int64_t row) const { return data + row * stride; }
};
template <typename T>
View<T> ViewOf(const Rows& rows) {
  return {static_cast<T*>(rows.data), rows.stride};
}

// Row and first column of a thread's piece in a matrix of `pieces` pieces a row; the grid covers rows * pieces threads.
struct Place {
  int64_t row;
  int col;
  bool inside;
};
template <int V>
__device__ Place PlaceOf(int64_t rows, int pieces) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t row = index / pieces;
  return {row, static_cast<int>(index - row * pieces) * V, row < rows};
}

inline cudaStream_t StreamOf(void* stream) { return static_cast<cudaStream_t>(stream); }

// Whether pieces of `bytes` may be read everywhere: the place, the distance of rows and the columns are multiples.
inline bool Aligned(const void* data, int64_t stride_bytes, int64_t cols_bytes, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(bytes) == 0 && stride_bytes % bytes == 0 &&
         cols_bytes % bytes == 0;
}

constexpr int64_t kPiece = 16;  // bytes

template <typename T, int V>
struct Places {
  using Type = T;
  static constexpr int kWidth = V;
};

template <typename T>
struct Element {
  using Type = T;
};

// Calls f(Element<T>{}) with what a matrix's elements are. REQUIRES: not quantised.
template <typename F>
auto WithElement(Type type, const F& f) {
  if (type == Type::kF32) return f(Element<float>{});
  if (type == Type::kF16) return f(Element<__half>{});
  return f(Element<__nv_bfloat16>{});
}

// Calls f(Places<T, V>{}) with the matrices' type and as many columns at once as all of them allow, whose
// rows (or pieces of rows) count `cols`. fp32 vectors beside them lie aligned (they start a tensor) where cols do.
template <typename F>
int Dispatch(std::initializer_list<const Rows*> all, int64_t cols, const F& f) {
  return WithElement((*all.begin())->type, [&](auto element) -> int {
    using T = typename decltype(element)::Type;
    constexpr int64_t kSize = sizeof(T);
    bool wide = true;
    for (const Rows* m : all) wide = wide && Aligned(m->data, m->stride * kSize, cols * kSize, kPiece);
    return wide ? f(Places<T, kPiece / kSize>{}) : f(Places<T, 1>{});
  });
}

inline unsigned RowThreads(int64_t cols, int v) {
  const int64_t needed = (cols / v + kWarp - 1) / kWarp * kWarp;
  return static_cast<unsigned>(std::clamp<int64_t>(needed, kWarp, kMostThreads));
}

inline unsigned FlatBlocks(int64_t threads) {
  return static_cast<unsigned>((threads + kFlatThreads - 1) / kFlatThreads);
}

// Calls start(Places<T, V>{}, blocks, cols) for kernels of a thread a piece of `shape`; returns the launch's error.
template <typename F>
int StartFlat(std::initializer_list<const Rows*> all, const Rows& shape, const F& start) {
  if (shape.rows == 0) return cudaSuccess;
  return Dispatch(all, shape.cols, [&](auto places) -> int {
    start(places, FlatBlocks(shape.rows * shape.cols / decltype(places)::kWidth), static_cast<int>(shape.cols));
    return cudaGetLastError();
  });
}

}  // namespace strata::kernels::cuda

#endif  // STRATA_KERNELS_CUDA_ROWS_CUH_
