// Entropy that a seed decides.
#ifndef STRATA_TESTS_TESTING_SIM_ENTROPY_H_
#define STRATA_TESTS_TESTING_SIM_ENTROPY_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "common/runtime/random.h"

namespace strata::testing {

class SimEntropy : public runtime::Entropy {
 public:
  explicit SimEntropy(uint64_t seed) : philox_(seed) {}

  void Fill(std::span<std::byte> bytes) override {
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(philox_.Word(next_++) >> 24);
  }

 private:
  runtime::Philox philox_;
  std::atomic<uint64_t> next_ = 0;
};

}  // namespace strata::testing

#endif  // STRATA_TESTS_TESTING_SIM_ENTROPY_H_
