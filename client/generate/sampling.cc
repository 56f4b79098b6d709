#include "client/generate/sampling.h"

#include <algorithm>
#include <cmath>

namespace strata::generate {
namespace {

bool IsLikelier(const Candidate& a, const Candidate& b) {
  return a.probability != b.probability ? a.probability > b.probability : a.id < b.id;
}

double Sum(const std::vector<Candidate>& candidates) {
  double sum = 0;
  for (const Candidate& c : candidates) sum += c.probability;
  return sum;
}

void KeepTopK(std::vector<Candidate>& candidates, size_t k) {
  if (k < candidates.size()) {
    std::nth_element(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(k), candidates.end(),
                     IsLikelier);
    candidates.resize(k);
  }
  std::sort(candidates.begin(), candidates.end(), IsLikelier);
}

void KeepTopP(std::vector<Candidate>& candidates, double p) {
  const double total = Sum(candidates);
  // All that are so improbable have less than 1 - p together: they need no sorting.
  const double negligible = total * (1 - p) / static_cast<double>(candidates.size());
  std::erase_if(candidates, [&](const Candidate& c) { return c.probability < negligible; });
  std::sort(candidates.begin(), candidates.end(), IsLikelier);
  size_t kept = 0;
  for (double before = 0; kept < candidates.size() && (kept == 0 || before < p * total); ++kept) {
    before += candidates[kept].probability;
  }
  candidates.resize(kept);
}

}  // namespace

std::vector<Candidate> Candidates(std::span<const float> logits, const SamplingOptions& options) {
  const double highest = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  std::vector<Candidate> candidates(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {  // relative to the likeliest one's
    candidates[i] = {static_cast<int32_t>(i),
                     std::exp((static_cast<double>(logits[i]) - highest) / options.temperature)};
  }
  if (options.top_k > 0) KeepTopK(candidates, options.top_k);
  if (options.top_p < 1) KeepTopP(candidates, options.top_p);
  std::erase_if(candidates, [&](const Candidate& c) { return c.probability < options.min_p; });
  const double total = Sum(candidates);
  for (Candidate& c : candidates) c.probability /= total;
  return candidates;
}

int32_t SampleToken(std::span<const float> logits, const SamplingOptions& options, double uniform) {
  if (options.temperature == 0) {
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
  const std::vector<Candidate> candidates = Candidates(logits, options);
  double below = 0;
  for (const Candidate& c : candidates) {
    below += c.probability;
    if (uniform < below) return c.id;
  }
  return candidates.back().id;  // the sum fell short of 1 by rounding
}

}  // namespace strata::generate
