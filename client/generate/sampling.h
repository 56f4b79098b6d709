// How the next token is chosen from a model's logits. Pure.
#ifndef STRATA_CLIENT_GENERATE_SAMPLING_H_
#define STRATA_CLIENT_GENERATE_SAMPLING_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace strata::generate {

// In transformers' order: temperature, then top_k, top_p, min_p.
struct SamplingOptions {
  double temperature = 0;  // logits are divided by it; 0: the likeliest token, the first of equals
  size_t top_k = 0;        // so many of the likeliest tokens; 0: all
  double top_p = 1;        // the fewest of the likeliest tokens that have this probability together; 1: all
  double min_p = 0;        // tokens at least this probable, in units of the likeliest one's
};

struct Candidate {
  int32_t id = 0;
  double probability = 0;
};

// The tokens that may be drawn, their probabilities adding up to 1; the likeliest first, equals by id, where top_k or
// top_p look at their order, else by id. REQUIRES: logits not empty, finite; temperature > 0, top_p in (0, 1], min_p
// in [0, 1].
std::vector<Candidate> Candidates(std::span<const float> logits, const SamplingOptions& options);

// The token that `uniform`, in [0, 1), draws from them. REQUIRES: as Candidates, but temperature >= 0.
int32_t SampleToken(std::span<const float> logits, const SamplingOptions& options, double uniform);

}  // namespace strata::generate

#endif  // STRATA_CLIENT_GENERATE_SAMPLING_H_
