// The processes that train one adapter together, each on its share of a step's rows.
#ifndef STRATA_CLIENT_TRAIN_REPLICAS_H_
#define STRATA_CLIENT_TRAIN_REPLICAS_H_

#include <ATen/core/Tensor.h>

#include <span>

#include "absl/status/status.h"

namespace strata::train {

// One of them, as it sees the others. Each holds the whole model and adapter and makes every update itself; gradients
// are summed up in between. Not thread-safe; all call the same functions in the same order.
class Replicas {
 public:
  virtual ~Replicas() = default;
  virtual int rank() const = 0;  // in [0, size)
  virtual int size() const = 0;
  // Adds up over all of them, element by element and in place; the same bytes come out at each, and the same again for
  // the same addends on the same machine. UNAVAILABLE: one of them has ended; of tensors on a device this may show at
  // the next sum of others only.
  virtual absl::Status Sum(const at::Tensor& values) = 0;  // fp32, contiguous, on the CPU or the replica's device
  virtual absl::Status Sum(std::span<double> values) = 0;
};

}  // namespace strata::train

#endif  // STRATA_CLIENT_TRAIN_REPLICAS_H_
