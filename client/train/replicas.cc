#include "client/train/replicas.h"

#include <gloo/allreduce.h>
#include <gloo/math.h>
#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/file_store.h>
#include <gloo/transport/tcp/device.h>

#include <algorithm>
#include <exception>
#include <numeric>
#include <utility>

#include "common/status/cat.h"

namespace strata::train {
namespace {

constexpr int64_t kMeetMilliseconds = 5 * 60 * 1000;
// One that has ended is noticed at once; this only bounds how far one may lag behind.
constexpr int64_t kSumMilliseconds = int64_t{24} * 60 * 60 * 1000;

template <typename T>
void Add(void* out, const void* a, const void* b, size_t count) {
  gloo::sum<T>(out, a, b, count);
}

absl::Status Unavailable(const char* doing, const std::exception& error) {
  return absl::UnavailableError(Cat(doing, " the other processes of this training: ", error.what()));
}

}  // namespace

struct Replicas::Ring {
  std::shared_ptr<gloo::rendezvous::Context> context;

  template <typename T>
  absl::Status Sum(std::span<T> values) {
    if (context->size == 1 || values.empty()) return absl::OkStatus();
    try {
      gloo::AllreduceOptions options(context);
      options.setAlgorithm(gloo::AllreduceOptions::Algorithm::RING);  // its order of adding is fixed
      options.setOutput(values.data(), values.size());
      options.setReduceFunction(&Add<T>);
      options.setTimeout(decltype(context->getTimeout())(kSumMilliseconds));
      gloo::allreduce(options);
    } catch (const std::exception& error) {
      return Unavailable("lost", error);
    }
    return absl::OkStatus();
  }
};

absl::StatusOr<std::unique_ptr<Replicas>> Replicas::Join(const Place& place) {
  try {
    auto ring = std::make_unique<Ring>();
    ring->context = std::make_shared<gloo::rendezvous::Context>(place.rank, place.size);
    ring->context->setTimeout(decltype(ring->context->getTimeout())(kMeetMilliseconds));
    if (place.size > 1) {
      gloo::rendezvous::FileStore store(place.folder);
      auto device = gloo::transport::tcp::CreateDevice("127.0.0.1");
      ring->context->connectFullMesh(store, device);
    }
    return std::unique_ptr<Replicas>(new Replicas(std::move(ring)));
  } catch (const std::exception& error) {
    return Unavailable("did not meet", error);
  }
}

Replicas::Replicas(std::unique_ptr<Ring> ring) : ring_(std::move(ring)) {}
Replicas::~Replicas() = default;

int Replicas::rank() const { return ring_->context->rank; }
int Replicas::size() const { return ring_->context->size; }

absl::Status Replicas::Sum(std::span<float> values) { return ring_->Sum(values); }
absl::Status Replicas::Sum(std::span<double> values) { return ring_->Sum(values); }

std::vector<const data::Example*> RowsOfReplica(const std::vector<const data::Example*>& rows, int rank, int size) {
  std::vector<size_t> longest_first(rows.size());
  std::iota(longest_first.begin(), longest_first.end(), size_t{0});
  std::stable_sort(longest_first.begin(), longest_first.end(),
                   [&](size_t a, size_t b) { return rows[a]->ids.size() > rows[b]->ids.size(); });
  std::vector<size_t> tokens(static_cast<size_t>(size));
  std::vector<size_t> own;
  for (const size_t row : longest_first) {
    const auto least = std::min_element(tokens.begin(), tokens.end());
    *least += rows[row]->ids.size();
    if (least - tokens.begin() == rank) own.push_back(row);
  }
  std::sort(own.begin(), own.end());
  std::vector<const data::Example*> share;
  for (const size_t row : own) share.push_back(rows[row]);
  return share;
}

}  // namespace strata::train
