// AdamW over an adapter's flat buffers, with clipping by the joint norm.
#ifndef STRATA_CLIENT_TRAIN_OPTIMIZER_H_
#define STRATA_CLIENT_TRAIN_OPTIMIZER_H_

#include <cstdint>

#include "client/peft/adapter_state.h"
#include "common/config/options.h"

namespace strata::train {

// Joint norms, in double: of the gradients before clipping, and of the values. Finite where all of them are.
double GradientNorm(const peft::AdapterState& state);
double ValueNorm(const peft::AdapterState& state);

// Decoupled weight decay on every factor, bias correction as in torch.optim.AdamW.
class Optimizer {
 public:
  explicit Optimizer(const config::OptimizerOptions& options) : options_(options) {}
  // One update with the gradients scaled by min(1, max_grad_norm / (norm + 1e-6)) / loss_scale; they are zero
  // afterwards.
  void Step(peft::AdapterState& state, double learning_rate, double norm, double loss_scale = 1);

  // Updates done, which the bias correction counts.
  uint64_t updates() const { return updates_; }
  void set_updates(uint64_t updates) { updates_ = updates; }

 private:
  config::OptimizerOptions options_;
  uint64_t updates_ = 0;
};

}  // namespace strata::train

#endif  // STRATA_CLIENT_TRAIN_OPTIMIZER_H_
