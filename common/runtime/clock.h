// The only source of time.
#ifndef STRATA_COMMON_RUNTIME_CLOCK_H_
#define STRATA_COMMON_RUNTIME_CLOCK_H_

#include "absl/time/time.h"

namespace strata::runtime {

// Thread-safe. A simulated clock moves only when the simulator says so.
class Clock {
 public:
  virtual ~Clock() = default;
  // Wall time: for stamps that people read and for deadlines that survive a restart.
  virtual absl::Time Now() const = 0;
  // Never goes back; the origin has no meaning. For measuring how long something took.
  virtual absl::Duration Monotonic() const = 0;
};

}  // namespace strata::runtime

#endif  // STRATA_COMMON_RUNTIME_CLOCK_H_
