// The kernel's entropy.
#ifndef STRATA_COMMON_RUNTIME_SYSTEM_ENTROPY_H_
#define STRATA_COMMON_RUNTIME_SYSTEM_ENTROPY_H_

#include "common/runtime/random.h"

namespace strata::runtime {

class SystemEntropy : public Entropy {
 public:
  void Fill(std::span<std::byte> bytes) override;
};

}  // namespace strata::runtime

#endif  // STRATA_COMMON_RUNTIME_SYSTEM_ENTROPY_H_
