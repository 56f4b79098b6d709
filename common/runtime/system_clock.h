// The machine's clocks.
#ifndef STRATA_COMMON_RUNTIME_SYSTEM_CLOCK_H_
#define STRATA_COMMON_RUNTIME_SYSTEM_CLOCK_H_

#include "common/runtime/clock.h"

namespace strata::runtime {

class SystemClock : public Clock {
 public:
  absl::Time Now() const override;
  absl::Duration Monotonic() const override;
};

}  // namespace strata::runtime

#endif  // STRATA_COMMON_RUNTIME_SYSTEM_CLOCK_H_
