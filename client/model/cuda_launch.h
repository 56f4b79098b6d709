// How the kernels of kernels/cuda_ops.h are started beside LibTorch's own. Only in a build with STRATA_CUDA.
#ifndef STRATA_CLIENT_MODEL_CUDA_LAUNCH_H_
#define STRATA_CLIENT_MODEL_CUDA_LAUNCH_H_

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

namespace strata::model {

// Calls `launch(stream)` with the current stream of the tensor's device; throws what LibTorch throws for its error.
template <typename F>
void Launch(const at::Tensor& on, const F& launch) {
  const c10::cuda::CUDAGuard guard(on.device());
  C10_CUDA_CHECK(static_cast<cudaError_t>(launch(static_cast<void*>(c10::cuda::getCurrentCUDAStream().stream()))));
}

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_CUDA_LAUNCH_H_
