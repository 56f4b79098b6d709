#include "client/model/dropout.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "client/model/ops.h"
#include "kernels/ops.h"
#ifdef STRATA_CUDA
#include "client/model/cuda_launch.h"
#include "kernels/cuda_ops.h"
#endif

namespace strata::model {

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
  const int threads = at::get_num_threads();
  if (x.is_cpu()) return kernels::Dropout(RowsOf(x), key.key, key.probability, RowsOf(out), threads);
  const at::Tensor mask = at::ones(x.sizes(), at::kFloat);
  kernels::Dropout(RowsOf(mask), key.key, key.probability, RowsOf(mask), threads);
  out.copy_(x * mask.to(x.device()));
}

}  // namespace strata::model
