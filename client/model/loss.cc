#include "client/model/loss.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "client/model/gemm.h"
#include "client/model/ops.h"

namespace strata::model {
namespace {

// Logits at once: enough rows to make up for reading the head again, little beside the activations.
constexpr int64_t kChunkElements = int64_t{12} << 20;

}  // namespace

std::vector<float> HeadLoss(const at::Tensor& hidden, const Head& head, const std::vector<int32_t>& targets,
                            double scale, const at::Tensor& d_hidden, Arena& arena) {
  const auto n = static_cast<int64_t>(targets.size());
  const int64_t chunk = std::clamp<int64_t>(kChunkElements / head.weight.size(0), 16, std::max<int64_t>(n, 16));
  ArenaScope scope(arena);
  const at::Tensor logits_buffer = arena.Take({std::min(chunk, n), head.weight.size(0)}, hidden.scalar_type());
  const at::Tensor nll = at::empty({n}, hidden.options().dtype(at::kFloat));
  const at::Tensor wanted = at::empty({n}, at::kInt);
  std::copy(targets.begin(), targets.end(), wanted.data_ptr<int32_t>());
  const at::Tensor device_targets = wanted.to(hidden.device());
  const kernels::LossOptions options{
      .scale = static_cast<float>(scale), .gradient = d_hidden.defined(), .softcap = static_cast<float>(head.softcap)};
  for (int64_t first = 0; first < n; first += chunk) {
    const int64_t count = std::min(chunk, n - first);
    const at::Tensor logits = logits_buffer.narrow(0, 0, count);
    MatMulNT(logits, hidden.narrow(0, first, count), head.weight, false);
    CrossEntropy(logits, device_targets.narrow(0, first, count), options, nll.narrow(0, first, count));
    if (d_hidden.defined()) MatMulNN(d_hidden.narrow(0, first, count), logits, head.weight, false);
  }
  const at::Tensor host = nll.cpu();
  const auto* values = host.const_data_ptr<float>();
  return {values, values + n};
}

}  // namespace strata::model
