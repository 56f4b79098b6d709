// Replicas that are processes of one machine, over the loopback interface (gloo). They sum up what is on the CPU.
#ifndef STRATA_CLIENT_TRAIN_GLOO_REPLICAS_H_
#define STRATA_CLIENT_TRAIN_GLOO_REPLICAS_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "client/train/replicas.h"

namespace strata::train {

// Which of `size` this one is, and a folder, empty at first, that only they use. REQUIRES: 0 <= rank < size.
struct ReplicaPlace {
  int rank = 0, size = 1;
  std::string folder;
};

// Blocks until all are there. UNAVAILABLE: not within five minutes.
absl::StatusOr<std::unique_ptr<Replicas>> JoinReplicas(const ReplicaPlace& place);

}  // namespace strata::train

#endif  // STRATA_CLIENT_TRAIN_GLOO_REPLICAS_H_
