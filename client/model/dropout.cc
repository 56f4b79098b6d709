#include "client/model/dropout.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "common/runtime/random.h"
#ifdef STRATA_CUDA
#include "client/model/cuda_launch.h"
#include "client/model/ops.h"
#include "kernels/cuda_ops.h"
#endif

namespace strata::model {
namespace {

at::Tensor Mask(int64_t rows, int64_t cols, uint64_t key, double probability) {
  const runtime::Philox philox(key);
  at::Tensor mask = at::empty({rows, cols}, at::kFloat);
  auto* data = mask.data_ptr<float>();
  const auto keep = static_cast<float>(1 / (1 - probability));
  const auto limit = static_cast<uint32_t>(probability * (1 << 24));
  const int64_t count = rows * cols;
  at::parallel_for(0, (count + 3) / 4, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const std::array<uint32_t, 4> words = philox.Block(static_cast<uint64_t>(block));
      for (int64_t i = 0; i < 4 && block * 4 + i < count; ++i)
        data[block * 4 + i] = (words[static_cast<size_t>(i)] >> 8) >= limit ? keep : 0.0F;
    }
  });
  return mask;
}

}  // namespace

DropoutKey DropoutKey::Of(uint64_t n) const {
  constexpr uint64_t kStep = 0x9E3779B97F4A7C15ULL;
  DropoutKey part = *this;
  part.key = key * kStep + n;
  part.factor = factor * kStep;
  part.addend = addend * kStep + n;
  return part;
}

void ApplyDropout(const at::Tensor& x, const at::Tensor& out, const DropoutKey& key) {
#ifdef STRATA_CUDA
  if (key.base != nullptr) {
    const kernels::cuda::DropoutMask mask = {key.base, key.factor, key.addend, key.probability};
    return Launch(x, [&](void* stream) { return kernels::cuda::Dropout(RowsOf(x), mask, RowsOf(out), stream); });
  }
#endif
  out.copy_(x * Mask(x.size(0), x.size(1), key.key, key.probability).to(x.device()));
}

}  // namespace strata::model
