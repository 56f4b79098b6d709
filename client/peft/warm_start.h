// Warm start of a round: the strongest directions of C_t are trained on, the rest stays frozen, and what the training
// changed travels as one exact pair.
#ifndef STRATA_CLIENT_PEFT_WARM_START_H_
#define STRATA_CLIENT_PEFT_WARM_START_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/model/transformer.h"
#include "client/peft/adapter_state.h"
#include "common/adapter/adapter.h"

namespace strata::peft {

// Values of the trained factors where the round began.
struct WarmOrigin {
  at::Tensor values;  // copy of AdapterState::values()
};

// Splits the sum of `base` per module by its SVD (fp64, through QR of the factors): the top rank_j triplets become the
// state's factors, each side times sqrt(S / scaling); fewer than rank_j (singular values below max(out, in) * 2^-52 *
// the largest do not count): the others start fresh. Returns the rest, frozen; modules without a target are returned as
// they are.
absl::StatusOr<std::vector<model::NamedFactors>> SplitWarm(
    const std::vector<std::shared_ptr<const adapter::Adapter>>& base, AdapterState& state, uint64_t seed,
    uint64_t round, const std::string& site);
WarmOrigin RememberOrigin(const AdapterState& state);
// B'A' - B0 A0 as the pair [B' - B0 | B0] [A' ; A' - A0], differences formed in fp32; columns where B0 is zero are left
// out.
adapter::Adapter Increment(const AdapterState& state, const WarmOrigin& origin);

}  // namespace strata::peft

#endif  // STRATA_CLIENT_PEFT_WARM_START_H_
