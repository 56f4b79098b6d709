// Cross-entropy over the vocabulary, chunk by chunk: the logits never exist whole.
#ifndef STRATA_CLIENT_MODEL_LOSS_H_
#define STRATA_CLIENT_MODEL_LOSS_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "client/model/arena.h"

namespace strata::model {

struct Head {
  at::Tensor weight;   // [vocab, d]
  double softcap = 0;  // > 0: logits count as softcap * tanh(logits / softcap)
};

// Negative log-likelihood (natural log) of targets[i] given hidden[i]; hidden [n, d] after the final norm. With
// d_hidden defined ([n, d]) it becomes scale * d (sum of nll) / d hidden.
std::vector<float> HeadLoss(const at::Tensor& hidden, const Head& head, const std::vector<int32_t>& targets,
                            double scale, const at::Tensor& d_hidden, Arena& arena);

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_LOSS_H_
