#include "client/model/host_layers.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAEvent.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <vector>

namespace strata::model {
namespace {

at::Tensor PageLocked(size_t bytes) {
  void* memory = nullptr;
  C10_CUDA_CHECK(cudaHostAlloc(&memory, std::max<size_t>(bytes, 1), cudaHostAllocDefault));
  return at::from_blob(
      memory, {static_cast<int64_t>(bytes)}, [](void* p) { (void)cudaFreeHost(p); }, at::kByte);
}

// Which of `layers` layers stay on the host when `count` do.
bool StaysOnHost(int64_t layer, int64_t layers, int64_t count) {
  return (layer + 1) * count / layers > layer * count / layers;
}

}  // namespace

struct HostLayers::State {
  struct Place {
    at::Tensor memory;
    int64_t held = -1;                 // which of the host's layers
    at::cuda::CUDAEvent filled, free;  // free: whatever read what it holds has ended
  };
  std::vector<int64_t> order;    // of a layer: its number among the host's; -1: the device has it
  std::vector<at::Tensor> host;  // by that number
  std::vector<Place> places;
  c10::cuda::CUDAStream copies;
  int64_t last = 0, step = 1;

  explicit State(at::Device device) : copies(c10::cuda::getStreamFromPool(/*isHighPriority=*/true, device.index())) {}
  Place& PlaceOf(int64_t number) { return places[static_cast<size_t>(number) % places.size()]; }
  void Fetch(int64_t number) {
    Place& place = PlaceOf(number);
    if (number < 0 || number >= static_cast<int64_t>(host.size()) || place.held == number) return;
    place.held = number;
    place.free.block(copies);
    const at::Tensor& from = host[static_cast<size_t>(number)];
    C10_CUDA_CHECK(cudaMemcpyAsync(place.memory.mutable_data_ptr(), from.const_data_ptr(),
                                   static_cast<size_t>(from.numel()), cudaMemcpyHostToDevice, copies.stream()));
    place.filled.record(copies);
  }
};

HostLayers::HostLayers(int64_t layers, int64_t count, size_t bytes, at::Device device)
    : state_(std::make_unique<State>(device)) {
  const c10::cuda::CUDAGuard guard(device);
  for (int64_t l = 0; l < layers; ++l) {
    const bool here = StaysOnHost(l, layers, count);
    state_->order.push_back(here ? static_cast<int64_t>(state_->host.size()) : -1);
    if (here) state_->host.push_back(PageLocked(bytes));
  }
  state_->places = std::vector<State::Place>(static_cast<size_t>(PlacesFor(count)));
  for (State::Place& place : state_->places)
    place.memory = at::empty({static_cast<int64_t>(bytes)}, at::TensorOptions().dtype(at::kByte).device(device));
}

HostLayers::~HostLayers() { (void)cudaStreamSynchronize(state_->copies.stream()); }

bool HostLayers::Has(int64_t layer) const { return state_->order[static_cast<size_t>(layer)] >= 0; }

at::Tensor HostLayers::Host(int64_t layer) const {
  return state_->host[static_cast<size_t>(state_->order[static_cast<size_t>(layer)])];
}

at::Tensor HostLayers::Place(int64_t layer) const {
  return state_->PlaceOf(state_->order[static_cast<size_t>(layer)]).memory;
}

void HostLayers::Use(int64_t layer) {
  const int64_t number = state_->order[static_cast<size_t>(layer)];
  if (number < 0) return;
  State& s = *state_;
  const c10::cuda::CUDAGuard guard(s.copies.device());
  const c10::cuda::CUDAStream current = c10::cuda::getCurrentCUDAStream();
  // All that was started before has read its layers.
  for (State::Place& place : s.places) place.free.record(current);
  s.Fetch(number);
  s.PlaceOf(number).filled.block(current);
  // Forward, then backward.
  const auto count = static_cast<int64_t>(s.host.size());
  if (number != s.last) s.step = number > s.last ? 1 : -1;
  if (number == 0) s.step = 1;
  if (number == count - 1) s.step = -1;
  s.last = number;
  s.Fetch(number + s.step);
}

}  // namespace strata::model
