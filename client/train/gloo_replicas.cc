#include "client/train/gloo_replicas.h"

#include <gloo/allreduce.h>
#include <gloo/math.h>
#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/file_store.h>
#include <gloo/transport/tcp/device.h>

#include <exception>
#include <utility>

#include "common/status/cat.h"

namespace strata::train {
namespace {

constexpr int64_t kMeetMilliseconds = int64_t{5} * 60 * 1000;
// One that has ended is noticed at once; this only bounds how far one may lag behind.
constexpr int64_t kSumMilliseconds = int64_t{24} * 60 * 60 * 1000;

using Milliseconds = decltype(gloo::Context(0, 1).getTimeout());

absl::Status Unavailable(const char* doing, const std::exception& error) {
  return absl::UnavailableError(Cat(doing, " the other processes of this training: ", error.what()));
}

class GlooReplicas : public Replicas {
 public:
  explicit GlooReplicas(std::shared_ptr<gloo::Context> context) : context_(std::move(context)) {}
  int rank() const override { return context_->rank; }
  int size() const override { return context_->size; }
  absl::Status Sum(const at::Tensor& values) override {
    return SumOf(std::span(values.mutable_data_ptr<float>(), static_cast<size_t>(values.numel())));
  }
  absl::Status Sum(std::span<double> values) override { return SumOf(values); }

 private:
  template <typename T>
  absl::Status SumOf(std::span<T> values) {
    if (size() == 1 || values.empty()) return absl::OkStatus();
    try {
      gloo::AllreduceOptions options(context_);
      options.setAlgorithm(gloo::AllreduceOptions::Algorithm::RING);  // its order of adding is fixed
      options.setOutput(values.data(), values.size());
      options.setReduceFunction(
          [](void* out, const void* a, const void* b, size_t count) { gloo::sum<T>(out, a, b, count); });
      options.setTimeout(Milliseconds(kSumMilliseconds));
      gloo::allreduce(options);
    } catch (const std::exception& error) {
      return Unavailable("lost", error);
    }
    return absl::OkStatus();
  }

  std::shared_ptr<gloo::Context> context_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Replicas>> JoinReplicas(const ReplicaPlace& place) {
  try {
    auto context = std::make_shared<gloo::rendezvous::Context>(place.rank, place.size);
    context->setTimeout(Milliseconds(kMeetMilliseconds));
    if (place.size > 1) {
      gloo::rendezvous::FileStore store(place.folder);
      auto device = gloo::transport::tcp::CreateDevice("127.0.0.1");
      context->connectFullMesh(store, device);
    }
    return std::make_unique<GlooReplicas>(std::move(context));
  } catch (const std::exception& error) {
    return Unavailable("did not meet", error);
  }
}

}  // namespace strata::train
