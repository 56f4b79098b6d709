#include "client/model/arena.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <sys/mman.h>
#ifdef STRATA_CUDA
#include <c10/cuda/CUDACachingAllocator.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <new>

namespace strata::model {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kAlignment = 64;
constexpr size_t kSmallestBlock = size_t{32} << 20;

size_t RoundUp(size_t value, size_t to) { return (value + to - 1) / to * to; }

}  // namespace

at::Tensor AllocateBytes(size_t bytes, at::Device device) {
  const auto options = at::TensorOptions().dtype(at::kByte).device(device);
  if (!device.is_cpu()) return at::empty({static_cast<int64_t>(bytes)}, options);
  const size_t size = RoundUp(std::max<size_t>(bytes, 1), kHugePage);
  void* memory = std::aligned_alloc(kHugePage, size);
  if (memory == nullptr) throw std::bad_alloc();
  madvise(memory, size, MADV_HUGEPAGE);  // only a wish
  return at::from_blob(
      memory, {static_cast<int64_t>(bytes)}, [](void* p) { std::free(p); }, options);
}

void* Workspace(int64_t bytes) {
  thread_local at::Tensor buffer;
  if (!buffer.defined() || buffer.numel() < bytes) {
    buffer = AllocateBytes(static_cast<size_t>(std::max<int64_t>(bytes, int64_t{1} << 22)), at::kCPU);
  }
  return buffer.mutable_data_ptr();
}

at::Tensor Arena::Take(at::IntArrayRef shape, at::ScalarType type) {
  size_t bytes = at::elementSize(type);
  for (const int64_t n : shape) bytes *= static_cast<size_t>(n);
  const size_t size = RoundUp(std::max<size_t>(bytes, 1), kAlignment);
  while (top_.block < blocks_.size() && top_.offset + size > static_cast<size_t>(blocks_[top_.block].numel()))
    top_ = {.block = top_.block + 1, .offset = 0, .taken = top_.taken};
  if (top_.block == blocks_.size()) {
    blocks_.push_back(AllocateBytes(std::max(size, kSmallestBlock), device_));
    ++generation_;
  }
  auto* data = static_cast<std::byte*>(blocks_[top_.block].data_ptr()) + top_.offset;
  top_.offset += size;
  top_.taken += size;
  most_taken_ = std::max(most_taken_, top_.taken);
  // The device is told: on CUDA it would be asked for at each call.
  return at::for_blob(data, shape)
      .options(at::TensorOptions().dtype(type).device(device_))
      .target_device(device_)
      .make_tensor();
}

void Arena::Reset() {
  top_ = {};
  if (blocks_.size() < 2) return;
  blocks_.clear();  // before the new one is fetched
#ifdef STRATA_CUDA
  if (device_.is_cuda()) c10::cuda::CUDACachingAllocator::emptyCache();  // which would keep them, of no use to others
#endif
  ++generation_;
  blocks_.push_back(AllocateBytes(most_taken_, device_));
}

size_t Arena::capacity_bytes() const {
  size_t total = 0;
  for (const at::Tensor& block : blocks_) total += static_cast<size_t>(block.numel());
  return total;
}

}  // namespace strata::model
