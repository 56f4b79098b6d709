#include "client/train/nccl_replicas.h"

#ifdef STRATA_CUDA
#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/csrc/cuda/nccl.h>

#include <algorithm>
#include <array>
#include <exception>
#include <utility>
#include <vector>

#include "common/status/cat.h"
#include "common/status/status_macros.h"
#endif

namespace strata::train {

#ifdef STRATA_CUDA
namespace {

namespace nccl = torch::cuda::nccl;

absl::Status Unavailable(const char* doing, const std::exception& error) {
  return absl::UnavailableError(Cat(doing, " the other processes of this training through NCCL: ", error.what()));
}

class NcclReplicas : public Replicas {
 public:
  NcclReplicas(std::unique_ptr<Replicas> met, at::Device device, nccl::ncclComm_t communicator)
      : met_(std::move(met)), device_(device), communicator_(communicator) {}
  int rank() const override { return met_->rank(); }
  int size() const override { return met_->size(); }
  absl::Status Sum(std::span<double> values) override { return met_->Sum(values); }
  absl::Status Sum(const at::Tensor& values) override {
    if (values.is_cpu()) return met_->Sum(values);
    try {
      const c10::cuda::CUDAGuard guard(device_);
      std::vector<at::Tensor> all = {values};
      nccl::all_reduce(all, all, static_cast<int32_t>(nccl::ncclRedOp::Sum), {c10::cuda::getCurrentCUDAStream()},
                       {communicator_});
    } catch (const std::exception& error) {
      return Unavailable("lost", error);
    }
    return absl::OkStatus();
  }

 private:
  std::unique_ptr<Replicas> met_;
  at::Device device_;
  nccl::ncclComm_t communicator_;  // ends with the process, as all of LibTorch's
};

}  // namespace
#endif

absl::Status NoNccl() {
  return absl::FailedPreconditionError(
      "--processes on CUDA devices needs a build with -DSTRATA_CUDA=ON; leave it out, or set device: cpu");
}

absl::StatusOr<std::unique_ptr<Replicas>> MeetOnDevice([[maybe_unused]] std::unique_ptr<Replicas> met,
                                                       [[maybe_unused]] at::Device device) {
#ifdef STRATA_CUDA
  nccl::ncclUniqueId id = {};
  std::array<double, sizeof id.internal> bytes = {};
  try {
    const c10::cuda::CUDAGuard guard(device);
    if (met->rank() == 0) {
      nccl::get_unique_id(id);
      std::copy(std::begin(id.internal), std::end(id.internal), bytes.begin());
    }
    STRATA_RETURN_IF_ERROR(met->Sum(bytes));  // the first one's bytes and zeros
    for (size_t i = 0; i < bytes.size(); ++i) id.internal[i] = static_cast<char>(bytes[i]);
    nccl::ncclComm_t communicator = nccl::comm_init_rank(met->size(), id, met->rank());
    return std::make_unique<NcclReplicas>(std::move(met), device, communicator);
  } catch (const std::exception& error) {
    return Unavailable("did not meet", error);
  }
#else
  return NoNccl();
#endif
}

}  // namespace strata::train
