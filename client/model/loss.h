// Cross-entropy over the vocabulary, chunk by chunk: the logits never exist whole.
#ifndef STRATA_CLIENT_MODEL_LOSS_H_
#define STRATA_CLIENT_MODEL_LOSS_H_

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "client/model/arena.h"

namespace strata::model {

// Logits at once: enough rows to make up for reading the head again, little beside the activations.
inline constexpr int64_t kLogitsAtOnce = int64_t{12} << 20;
inline constexpr int64_t kLogitsAtOnceOnDevice = int64_t{64} << 20;

struct Head {
  at::Tensor weight;   // [vocab, d]
  double softcap = 0;  // > 0: logits count as softcap * tanh(logits / softcap)
};

// What the gradient is multiplied by: *on_device (fp32 [1]) where it is defined, else `scale`.
struct LossScale {
  double scale = 1;
  at::Tensor on_device;
};

// Negative log-likelihood (natural log), fp32 [n] on hidden's device, of targets[i] given hidden[i]; hidden [n, d]
// after the final norm, targets int32 [n]. With d_hidden defined ([n, d]) it becomes scale * d (sum of nll) / d hidden.
at::Tensor HeadLoss(const at::Tensor& hidden, const Head& head, const at::Tensor& targets, const LossScale& scale,
                    const at::Tensor& d_hidden, Arena& arena);

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_LOSS_H_
