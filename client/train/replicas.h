// The processes of one machine that train one adapter together, each on its share of a step's rows.
#ifndef STRATA_CLIENT_TRAIN_REPLICAS_H_
#define STRATA_CLIENT_TRAIN_REPLICAS_H_

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/data/dataset.h"

namespace strata::train {

// One of them, joined to the others over the loopback interface (gloo). Each holds the whole model and adapter and
// makes every update itself; gradients are summed up in between. Not thread-safe; all call the same functions in the
// same order.
class Replicas {
 public:
  // Which of `size` this one is, and a folder, empty at first, that only they use. REQUIRES: 0 <= rank < size.
  struct Place {
    int rank = 0, size = 1;
    std::string folder;
  };
  // Blocks until all are there. UNAVAILABLE: not within five minutes.
  static absl::StatusOr<std::unique_ptr<Replicas>> Join(const Place& place);
  ~Replicas();
  Replicas(const Replicas&) = delete;
  Replicas& operator=(const Replicas&) = delete;

  int rank() const;
  int size() const;
  // Adds up over all of them, element by element and in place; the same bytes come out at each, and the same again for
  // the same addends. UNAVAILABLE: one of them has ended.
  absl::Status Sum(std::span<float> values);
  absl::Status Sum(std::span<double> values);

 private:
  struct Ring;
  explicit Replicas(std::unique_ptr<Ring> ring);
  std::unique_ptr<Ring> ring_;
};

// The rows of one out of `size` replicas, in their order: dealt out longest first, each to the one with the fewest
// tokens so far.
std::vector<const data::Example*> RowsOfReplica(const std::vector<const data::Example*>& rows, int rank, int size);

}  // namespace strata::train

#endif  // STRATA_CLIENT_TRAIN_REPLICAS_H_
