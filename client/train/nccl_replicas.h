// Replicas that have a CUDA device each, whose gradients NCCL adds up there.
#ifndef STRATA_CLIENT_TRAIN_NCCL_REPLICAS_H_
#define STRATA_CLIENT_TRAIN_NCCL_REPLICAS_H_

#include <c10/core/Device.h>

#include <memory>

#include "absl/status/statusor.h"
#include "client/train/replicas.h"

namespace strata::train {

// Why there are none in a build without STRATA_CUDA.
absl::Status NoNccl();

// `met` as they are, with tensors of `device`, this one's own, summed up on it. Blocks until all have come here.
// UNAVAILABLE: NCCL cannot start (two of them on one device, say). FAILED_PRECONDITION: a build without STRATA_CUDA.
absl::StatusOr<std::unique_ptr<Replicas>> MeetOnDevice(std::unique_ptr<Replicas> met, at::Device device);

}  // namespace strata::train

#endif  // STRATA_CLIENT_TRAIN_NCCL_REPLICAS_H_
