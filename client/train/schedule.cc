#include "client/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace strata::train {

double ScheduleFactor(config::Schedule schedule, uint64_t step, uint64_t warmup_steps, uint64_t total) {
  const auto at = static_cast<double>(step);
  const auto warm = static_cast<double>(warmup_steps);
  const auto end = static_cast<double>(total);
  if (step < warmup_steps) return at / std::max(1.0, warm);
  switch (schedule) {
    case config::Schedule::kConstant:
      return 1;
    case config::Schedule::kLinear:
      return std::max(0.0, (end - at) / std::max(1.0, end - warm));
    case config::Schedule::kCosine:
      return std::max(0.0, 0.5 * (1 + std::cos(std::numbers::pi * (at - warm) / std::max(1.0, end - warm))));
  }
  return 1;
}

}  // namespace strata::train
