#include "common/runtime/system_clock.h"

#include <ctime>

#include "absl/time/clock.h"

namespace strata::runtime {

absl::Time SystemClock::Now() const { return absl::Now(); }

absl::Duration SystemClock::Monotonic() const {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return absl::DurationFromTimespec(now);
}

}  // namespace strata::runtime
