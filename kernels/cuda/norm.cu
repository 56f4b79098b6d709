// Norms of rows or of their heads. The truth is cpu/row_ops_impl.h.
#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include "kernels/cuda/rows.cuh"
#include "kernels/cuda_ops.h"

namespace strata::kernels::cuda {
namespace {

struct NormArgs {
  const float* weight;
  const float* bias;
  float epsilon;
  int64_t heads;
  int cols;  // of a head
};

// Adds to the values of columns [c, c + V) of a piece.
template <int V>
__device__ void AddBias(const NormArgs& norm, int c, float (&values)[V]) {
  if (norm.bias == nullptr) return;
  float bias[V];
  Load<float, V>(norm.bias + c, bias);
#pragma unroll
  for (int i = 0; i < V; ++i) values[i] += bias[i];
}

// A block a piece. With kAdd the piece is x + delta, rounded, which is also kept in `sum`.
template <typename T, int V, bool kAdd>
__global__ void NormKernel(View<T> x, View<T> delta, View<T> sum, NormArgs norm, View<T> out, float* rstd) {
  const int64_t piece = blockIdx.x;
  const int64_t row = piece / norm.heads;
  const int64_t first = piece % norm.heads * norm.cols;
  const T* source = x.Row(row) + first;
  float total = 0;
  float squares = 0;
  for (int c = static_cast<int>(threadIdx.x) * V; c < norm.cols; c += static_cast<int>(blockDim.x) * V) {
    float values[V];
    Load<T, V>(source + c, values);
    if constexpr (kAdd) {
      float added[V];
      Load<T, V>(delta.Row(row) + first + c, added);
#pragma unroll
      for (int i = 0; i < V; ++i) values[i] = Rounded<T>(values[i] + added[i]);
      Store<T, V>(sum.Row(row) + first + c, values);
    }
#pragma unroll
    for (int i = 0; i < V; ++i) {
      total += values[i];
      squares += values[i] * values[i];
    }
  }
  if constexpr (kAdd) source = sum.Row(row) + first;
  float mean = 0;
  if (norm.bias != nullptr) {
    mean = OverBlock<Sum>(total) / static_cast<float>(norm.cols);
    squares = 0;
    for (int c = static_cast<int>(threadIdx.x) * V; c < norm.cols; c += static_cast<int>(blockDim.x) * V) {
      float values[V];
      Load<T, V>(source + c, values);
#pragma unroll
      for (int i = 0; i < V; ++i) squares += (values[i] - mean) * (values[i] - mean);
    }
  }
  const float scale = rsqrtf(OverBlock<Sum>(squares) / static_cast<float>(norm.cols) + norm.epsilon);
  if (threadIdx.x == 0) rstd[piece] = scale;
  for (int c = static_cast<int>(threadIdx.x) * V; c < norm.cols; c += static_cast<int>(blockDim.x) * V) {
    float values[V];
    float weight[V];
    Load<T, V>(source + c, values);
    Load<float, V>(norm.weight + c, weight);
#pragma unroll
    for (int i = 0; i < V; ++i) values[i] = (values[i] - mean) * scale * weight[i];
    AddBias<V>(norm, c, values);
    Store<T, V>(out.Row(row) + first + c, values);
  }
}

// Then, if `and_value`, dy becomes the norm's value.
template <typename T, int V>
__global__ void NormBackwardKernel(View<T> dy, View<T> x, NormArgs norm, const float* rstd, View<T> dx, bool accumulate,
                                   bool and_value) {
  const int64_t piece = blockIdx.x;
  const int64_t row = piece / norm.heads;
  const int64_t first = piece % norm.heads * norm.cols;
  const T* source = x.Row(row) + first;
  T* given = dy.Row(row) + first;
  const auto count = static_cast<float>(norm.cols);
  float mean = 0;
  if (norm.bias != nullptr) {
    for (int c = static_cast<int>(threadIdx.x) * V; c < norm.cols; c += static_cast<int>(blockDim.x) * V) {
      float values[V];
      Load<T, V>(source + c, values);
#pragma unroll
      for (int i = 0; i < V; ++i) mean += values[i];
    }
    mean = OverBlock<Sum>(mean) / count;
  }
  float along = 0;
  float total = 0;
  for (int c = static_cast<int>(threadIdx.x) * V; c < norm.cols; c += static_cast<int>(blockDim.x) * V) {
    float values[V];
    float g[V];
    float weight[V];
    Load<T, V>(source + c, values);
    Load<T, V>(given + c, g);
    Load<float, V>(norm.weight + c, weight);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      along += g[i] * weight[i] * (values[i] - mean);
      total += g[i] * weight[i];
    }
  }
  const float scale = rstd[piece];
  const float pull = OverBlock<Sum>(along) / count * scale * scale * scale;
  const float shift = norm.bias != nullptr ? OverBlock<Sum>(total) / count : 0.0F;
  for (int c = static_cast<int>(threadIdx.x) * V; c < norm.cols; c += static_cast<int>(blockDim.x) * V) {
    float values[V];
    float g[V];
    float weight[V];
    Load<T, V>(source + c, values);
    Load<T, V>(given + c, g);
    Load<float, V>(norm.weight + c, weight);
    T* to = dx.Row(row) + first + c;
    float sum[V] = {};
    if (accumulate) Load<T, V>(to, sum);
#pragma unroll
    for (int i = 0; i < V; ++i) sum[i] += scale * (g[i] * weight[i] - shift) - pull * (values[i] - mean);
    Store<T, V>(to, sum);
    if (!and_value) continue;
#pragma unroll
    for (int i = 0; i < V; ++i) values[i] = (values[i] - mean) * scale * weight[i];
    AddBias<V>(norm, c, values);
    Store<T, V>(given + c, values);
  }
}

NormArgs ArgsOf(const Rows& x, const NormWeights& norm) {
  return {norm.weight, norm.bias, norm.epsilon, norm.heads, static_cast<int>(x.cols / norm.heads)};
}

}  // namespace

int Norm(const Rows& x, const NormWeights& norm, const Rows& out, float* rstd, void* stream) {
  if (x.rows == 0) return cudaSuccess;
  const NormArgs args = ArgsOf(x, norm);
  return Dispatch({&x, &out}, args.cols, [&](auto places) -> int {
    using T = typename decltype(places)::Type;
    constexpr int V = decltype(places)::kWidth;
    NormKernel<T, V, false>
        <<<static_cast<unsigned>(x.rows * norm.heads), RowThreads(args.cols, V), 0, StreamOf(stream)>>>(
            ViewOf<T>(x), {}, {}, args, ViewOf<T>(out), rstd);
    return cudaGetLastError();
  });
}

int AddNorm(const Rows& x, const Rows& delta, const Rows& sum, const NormWeights& norm, const Rows& out, float* rstd,
            void* stream) {
  if (x.rows == 0) return cudaSuccess;
  const NormArgs args = ArgsOf(x, norm);
  return Dispatch({&x, &delta, &sum, &out}, args.cols, [&](auto places) -> int {
    using T = typename decltype(places)::Type;
    constexpr int V = decltype(places)::kWidth;
    NormKernel<T, V, true>
        <<<static_cast<unsigned>(x.rows * norm.heads), RowThreads(args.cols, V), 0, StreamOf(stream)>>>(
            ViewOf<T>(x), ViewOf<T>(delta), ViewOf<T>(sum), args, ViewOf<T>(out), rstd);
    return cudaGetLastError();
  });
}

namespace {

int StartNormBackward(const Rows& dy, const Rows& x, const NormWeights& norm, const float* rstd, const Rows& dx,
                      bool accumulate, bool and_value, void* stream) {
  if (x.rows == 0) return cudaSuccess;
  const NormArgs args = ArgsOf(x, norm);
  return Dispatch({&dy, &x, &dx}, args.cols, [&](auto places) -> int {
    using T = typename decltype(places)::Type;
    constexpr int V = decltype(places)::kWidth;
    NormBackwardKernel<T, V>
        <<<static_cast<unsigned>(x.rows * norm.heads), RowThreads(args.cols, V), 0, StreamOf(stream)>>>(
            ViewOf<T>(dy), ViewOf<T>(x), args, rstd, ViewOf<T>(dx), accumulate, and_value);
    return cudaGetLastError();
  });
}

}  // namespace

int NormBackward(const Rows& dy, const Rows& x, const NormWeights& norm, const float* rstd, const Rows& dx,
                 bool accumulate, void* stream) {
  return StartNormBackward(dy, x, norm, rstd, dx, accumulate, /*and_value=*/false, stream);
}

int NormBackwardAndValue(const Rows& dy, const Rows& x, const NormWeights& norm, const float* rstd, const Rows& dx,
                         void* stream) {
  return StartNormBackward(dy, x, norm, rstd, dx, /*accumulate=*/true, /*and_value=*/true, stream);
}

}  // namespace strata::kernels::cuda
