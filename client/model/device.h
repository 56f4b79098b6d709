// Which device a model is computed on, and what this build can do there.
#ifndef STRATA_CLIENT_MODEL_DEVICE_H_
#define STRATA_CLIENT_MODEL_DEVICE_H_

#include <c10/core/Device.h>

#include <string>

#include "absl/status/statusor.h"

namespace strata::model {

// "cpu", "cuda:N", "auto" -> a device that works. For cuda LibTorch's CUDA library is loaded at run time.
// FAILED_PRECONDITION: no usable CUDA device (names driver and capability, found and needed). INVALID_ARGUMENT: another
// word.
absl::StatusOr<at::Device> ResolveDevice(const std::string& device);

// Whether our own CUDA kernels are in this build (STRATA_CUDA). LibTorch's work without.
bool HasCudaKernels();

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_DEVICE_H_
