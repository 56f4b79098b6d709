// Options <-> the messages of proto/config.proto, for the rooms that put them on the wire or in the store.
#ifndef STRATA_COMMON_CONFIG_CONVERT_H_
#define STRATA_COMMON_CONFIG_CONVERT_H_

#include "absl/status/statusor.h"
#include "common/config/options.h"
#include "proto/config.pb.h"

namespace strata::config {

// The From functions validate like the parsers of files; INVALID_ARGUMENT lists every fault, one a line.
absl::StatusOr<TrainOptions> FromProto(const v1::TrainConfig& proto);
absl::StatusOr<JobOptions> FromProto(const v1::JobConfig& proto);
v1::TrainConfig ToProto(const TrainOptions& options);
v1::JobConfig ToProto(const JobOptions& options);

}  // namespace strata::config

#endif  // STRATA_COMMON_CONFIG_CONVERT_H_
