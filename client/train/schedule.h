// Learning-rate schedules, exactly transformers' get_scheduler.
#ifndef STRATA_CLIENT_TRAIN_SCHEDULE_H_
#define STRATA_CLIENT_TRAIN_SCHEDULE_H_

#include <cstdint>

#include "common/config/options.h"

namespace strata::train {

// Factor of the learning rate at `step` (from 0) of `total`: warm-up rises linearly from 0 over warmup_steps; then
// constant, linear to 0, or half a cosine to 0.
double ScheduleFactor(config::Schedule schedule, uint64_t step, uint64_t warmup_steps, uint64_t total);

}  // namespace strata::train

#endif  // STRATA_CLIENT_TRAIN_SCHEDULE_H_
