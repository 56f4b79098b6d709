// The loss over the vocabulary and its gradient, a block a row. The truth is cpu/row_ops_impl.h.
#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include "kernels/cuda/rows.cuh"
#include "kernels/cuda_ops.h"

namespace strata::kernels::cuda {
namespace {

struct LossArgs {
  const int32_t* targets;
  LossOptions options;
  const float* scale;
  float* nll;
  int cols;
};

// A block a row.
template <typename T, int V>
__global__ void CrossEntropyKernel(View<T> logits, LossArgs args) {
  T* row = logits.Row(blockIdx.x);
  const int32_t target = args.targets[blockIdx.x];
  const float cap = args.options.softcap;
  float most = -INFINITY;
  float sum = 0;
  for (int c = static_cast<int>(threadIdx.x) * V; c < args.cols; c += static_cast<int>(blockDim.x) * V) {
    float values[V];
    Load<T, V>(row + c, values);
    if (cap > 0) {
#pragma unroll
      for (int i = 0; i < V; ++i) values[i] = Rounded<T>(cap * tanhf(values[i] / cap));
      Store<T, V>(row + c, values);
    }
    float top = values[0];
#pragma unroll
    for (int i = 1; i < V; ++i) top = fmaxf(top, values[i]);
    if (top > most) {
      sum *= expf(most - top);
      most = top;
    }
#pragma unroll
    for (int i = 0; i < V; ++i) sum += expf(values[i] - most);
  }
  const float largest = OverBlock<Largest>(most);
  const float log_sum = largest + logf(OverBlock<Sum>(most == -INFINITY ? 0.0F : sum * expf(most - largest)));
  // The barriers above stand between the capped values' writing and this reading.
  if (threadIdx.x == 0) args.nll[blockIdx.x] = target < 0 ? 0.0F : log_sum - ToFloat(row[target]);
  if (!args.options.gradient) return;
  __syncthreads();  // the target's logit has been read
  float scale = args.options.scale;
  if (args.scale != nullptr) scale *= *args.scale;
  for (int c = static_cast<int>(threadIdx.x) * V; c < args.cols; c += static_cast<int>(blockDim.x) * V) {
    float values[V];
    Load<T, V>(row + c, values);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      float g = target < 0 ? 0.0F : expf(values[i] - log_sum) - (c + i == target ? 1.0F : 0.0F);
      if (cap > 0) g *= 1.0F - values[i] / cap * (values[i] / cap);
      values[i] = g * scale;
    }
    Store<T, V>(row + c, values);
  }
}

}  // namespace

int CrossEntropy(const Rows& logits, const int32_t* targets, const LossOptions& options, const float* scale, float* nll,
                 void* stream) {
  if (logits.rows == 0) return cudaSuccess;
  const LossArgs args = {targets, options, scale, nll, static_cast<int>(logits.cols)};
  return Dispatch({&logits}, logits.cols, [&](auto places) -> int {
    using T = typename decltype(places)::Type;
    constexpr int V = decltype(places)::kWidth;
    CrossEntropyKernel<T, V><<<static_cast<unsigned>(logits.rows), RowThreads(logits.cols, V), 0, StreamOf(stream)>>>(
        ViewOf<T>(logits), args);
    return cudaGetLastError();
  });
}

}  // namespace strata::kernels::cuda
