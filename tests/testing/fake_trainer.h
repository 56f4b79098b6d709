// A trainer that computes nothing: what it returns is a function of (seed, round, site), so that a test can tell what
// every site must have sent.
#ifndef STRATA_TESTS_TESTING_FAKE_TRAINER_H_
#define STRATA_TESTS_TESTING_FAKE_TRAINER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "client/train/local_trainer.h"

namespace strata::testing {

// Standard normal factors, scaled by 1/8: A [rank, in], B [out, rank] of one target.
struct FakeFactors {
  std::vector<float> a, b;
};
FakeFactors MakeFakeFactors(uint64_t seed, uint64_t round, const std::string& site, const train::Target& target);

// Between 1 and 100, fixed for a site.
uint64_t FakeNumExamples(const std::string& site);

struct FakeTrainerOptions {
  uint32_t steps = 3;
  double failure_rate = 0;  // of the calls of Run
  uint64_t failure_seed = 0;
  // Called before each step with its number; a test lets time pass here, or stops something.
  std::function<void(uint32_t)> on_step;
};

class FakeTrainer : public train::LocalTrainer {
 public:
  explicit FakeTrainer(FakeTrainerOptions options = {}) : options_(std::move(options)) {}

  // INTERNAL: a drawn failure. CANCELLED: on_progress said so. The metrics have the native trainer's names.
  absl::StatusOr<train::TrainResult> Run(const train::TrainRequest& request,
                                         const std::function<bool(const train::TrainProgress&)>& on_progress) override;

  void set_failure_rate(double rate) { options_.failure_rate = rate; }
  int num_runs() const { return num_runs_; }
  int num_failures() const { return num_failures_; }  // that were drawn
  const std::vector<train::TrainRequest>& requests() const { return requests_; }

 private:
  FakeTrainerOptions options_;
  int num_runs_ = 0;
  int num_failures_ = 0;
  std::vector<train::TrainRequest> requests_;
};

}  // namespace strata::testing

#endif  // STRATA_TESTS_TESTING_FAKE_TRAINER_H_
