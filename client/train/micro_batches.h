// How many rows go through the model at once.
#ifndef STRATA_CLIENT_TRAIN_MICRO_BATCHES_H_
#define STRATA_CLIENT_TRAIN_MICRO_BATCHES_H_

#include <cstddef>
#include <utility>
#include <vector>

#include "client/data/dataset.h"

namespace strata::train {

// More tokens at once make the matrix products hardly faster and the activations larger.
inline constexpr size_t kMicroBatchTokens = 2048;

// Ranges [first, last) of consecutive rows that fill at most kMicroBatchTokens (a longer row stands alone); one row
// each unless `pack`.
std::vector<std::pair<size_t, size_t>> MicroBatches(const std::vector<const data::Example*>& rows, bool pack);

}  // namespace strata::train

#endif  // STRATA_CLIENT_TRAIN_MICRO_BATCHES_H_
