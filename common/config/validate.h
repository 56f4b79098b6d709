// Messages -> options: defaults, ranges, contradictions. One function a file kind, faults by key.
#ifndef STRATA_COMMON_CONFIG_VALIDATE_H_
#define STRATA_COMMON_CONFIG_VALIDATE_H_

#include "common/config/options.h"
#include "common/config/section.h"
#include "proto/config.pb.h"

namespace strata::config {

// What comes back is meant only if `section`'s faults stayed empty.
TrainOptions ValidateTrain(const v1::TrainConfig& proto, const Section& section);
JobOptions ValidateJob(const v1::JobConfig& proto, const Section& section);
ServerOptions ValidateServer(const v1::ServerConfig& proto, const Section& section);
ClientOptions ValidateClient(const v1::ClientConfig& proto, const Section& section);
SimOptions ValidateSim(const v1::SimConfig& proto, const Section& section);

}  // namespace strata::config

#endif  // STRATA_COMMON_CONFIG_VALIDATE_H_
