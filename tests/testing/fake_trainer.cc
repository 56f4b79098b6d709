#include "tests/testing/fake_trainer.h"

#include <utility>

#include "common/runtime/random.h"

namespace strata::testing {

FakeFactors MakeFakeFactors(uint64_t seed, uint64_t round, const std::string& site, const train::Target& target) {
  const std::string purpose = "fake_trainer/" + target.module;
  const runtime::Philox draws(runtime::RandomKey{.purpose = purpose, .seed = seed, .round = round, .site = site});
  FakeFactors factors;
  uint64_t drawn = 0;
  factors.a.resize(static_cast<size_t>(target.rank * target.in));
  factors.b.resize(static_cast<size_t>(target.out * target.rank));
  for (float& value : factors.a) value = draws.Normal(drawn++) / 8;
  for (float& value : factors.b) value = draws.Normal(drawn++) / 8;
  return factors;
}

uint64_t FakeNumExamples(const std::string& site) {
  const runtime::RandomKey key{.purpose = "fake_examples", .seed = 0, .round = 0, .site = site};
  return 1 + runtime::Philox(key).Below(0, 100);
}

absl::StatusOr<train::TrainResult> FakeTrainer::Run(
    const train::TrainRequest& request, const std::function<bool(const train::TrainProgress&)>& on_progress) {
  requests_.push_back(request);
  const int run = num_runs_++;
  if (runtime::Philox(options_.failure_seed).Uniform(static_cast<uint64_t>(run)) < options_.failure_rate) {
    ++num_failures_;
    return absl::InternalError("drawn failure of the fake trainer");
  }
  train::TrainResult result;
  for (uint32_t step = 1; request.train && step <= options_.steps; ++step) {
    if (options_.on_step) options_.on_step(step);
    const train::TrainProgress progress{.step = step, .of = options_.steps, .loss = 3.0 / step, .tokens = 100UL * step};
    if (!on_progress(progress)) return absl::CancelledError("stopped");
  }
  result.num_examples = FakeNumExamples(request.site);
  const double before = 4.0 / static_cast<double>(1 + request.base.size());
  if (request.evaluate_before || !request.train) {
    result.metrics = {{"loss_before", before}, {"heldout_tokens", 1000}};
  }
  if (!request.train) return result;
  if (request.evaluate_after) result.metrics.push_back({"loss_after", before * 0.9});
  result.metrics.push_back({"tokens_per_second", 100});
  adapter::AdapterBuilder builder;
  for (const train::Target& target : request.targets) {
    FakeFactors factors = MakeFakeFactors(request.seed, request.round, request.site, target);
    builder.Add(target.module, target.rank, target.out, target.in, target.alpha, target.scaling, std::move(factors.a),
                std::move(factors.b));
  }
  result.update = std::make_unique<adapter::Adapter>(std::move(builder).Build());
  return result;
}

}  // namespace strata::testing
