#include "client/model/loss.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "client/model/gemm.h"
#include "client/model/ops.h"

namespace strata::model {
at::Tensor HeadLoss(const at::Tensor& hidden, const Head& head, const at::Tensor& targets, const LossScale& scale,
                    const at::Tensor& d_hidden, Arena& arena) {
  const int64_t n = targets.size(0);
  const int64_t elements = hidden.is_cpu() ? kLogitsAtOnce : kLogitsAtOnceOnDevice;
  const int64_t chunk = std::clamp<int64_t>(elements / head.weight.size(0), 16, std::max<int64_t>(n, 16));
  at::Tensor nll = at::empty({n}, hidden.options().dtype(at::kFloat));
  ArenaScope scope(arena);
  const at::Tensor logits_buffer = arena.Take({std::min(chunk, n), head.weight.size(0)}, hidden.scalar_type());
  const kernels::LossOptions options{.scale = scale.on_device.defined() ? 1 : static_cast<float>(scale.scale),
                                     .gradient = d_hidden.defined(),
                                     .softcap = static_cast<float>(head.softcap)};
  for (int64_t first = 0; first < n; first += chunk) {
    const int64_t count = std::min(chunk, n - first);
    const at::Tensor logits = logits_buffer.narrow(0, 0, count);
    MatMulNT(logits, hidden.narrow(0, first, count), head.weight, false);
    CrossEntropy(logits, targets.narrow(0, first, count), options, scale.on_device, nll.narrow(0, first, count));
    if (d_hidden.defined()) MatMulNN(d_hidden.narrow(0, first, count), logits, head.weight, false);
  }
  return nll;
}

}  // namespace strata::model
