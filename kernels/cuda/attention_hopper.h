// Attention in 16 bits without a cap, of heads 64 or 128 wide, on devices of compute capability 9.0. Both as
// kernels/cuda_ops.h's; delta stands in the task.
#ifndef STRATA_KERNELS_CUDA_ATTENTION_HOPPER_H_
#define STRATA_KERNELS_CUDA_ATTENTION_HOPPER_H_

#include <cuda_runtime_api.h>

#include "kernels/cuda/attention_task.cuh"

namespace strata::kernels::cuda {

template <typename T>
int HopperAttention(const AttentionTask<T>& task, cudaStream_t stream);
template <typename T>
int HopperAttentionBackward(const AttentionTask<T>& task, cudaStream_t stream);

}  // namespace strata::kernels::cuda

#endif  // STRATA_KERNELS_CUDA_ATTENTION_HOPPER_H_
