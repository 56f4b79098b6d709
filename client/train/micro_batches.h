// How many rows go through the model at once.
#ifndef STRATA_CLIENT_TRAIN_MICRO_BATCHES_H_
#define STRATA_CLIENT_TRAIN_MICRO_BATCHES_H_

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "client/data/dataset.h"

namespace strata::train {

// More tokens at once make the matrix products hardly faster and the activations larger.
inline constexpr size_t kMicroBatchTokens = 2048;

// How a step's rows go through the model.
struct MicroBatchRule {
  bool pack = false;  // false: one row at a time
  size_t tokens = kMicroBatchTokens;
  size_t rows = SIZE_MAX;  // the step's rows are cut after every so many; no micro-batch reaches over a cut
};

// Ranges [first, last) of consecutive rows that fill at most rule.tokens (a longer row stands alone).
std::vector<std::pair<size_t, size_t>> MicroBatches(const std::vector<const data::Example*>& rows,
                                                    const MicroBatchRule& rule);

// The rows of one out of `size` replicas, in their order: dealt out longest first, each to the one with the fewest
// tokens so far.
std::vector<const data::Example*> RowsOfReplica(const std::vector<const data::Example*>& rows, int rank, int size);

}  // namespace strata::train

#endif  // STRATA_CLIENT_TRAIN_MICRO_BATCHES_H_
