// One document as a model is trained on it.
#ifndef STRATA_CLIENT_DATA_EXAMPLE_H_
#define STRATA_CLIENT_DATA_EXAMPLE_H_

#include <cstdint>
#include <vector>

namespace strata::data {

inline constexpr int32_t kIgnored = -100;  // the label of a token that is no target

// labels[i] belongs to ids[i] (unshifted); kIgnored = no target. The first token is never a target.
struct Example {
  std::vector<int32_t> ids;
  std::vector<int32_t> labels;
  std::vector<int32_t> position_ids;  // empty: 0..n-1
  int64_t num_targets() const;        // labels that are targets, at index >= 1
};

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_EXAMPLE_H_
