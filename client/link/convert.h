// The link's plain structs <-> the messages. Everything received is judged here; a message that breaks the protocol is
// INTERNAL.
#ifndef STRATA_CLIENT_LINK_CONVERT_H_
#define STRATA_CLIENT_LINK_CONVERT_H_

#include <string>

#include "absl/status/statusor.h"
#include "client/link/federation_link.h"
#include "proto/federation.pb.h"

namespace strata::link {

v1::CheckInRequest ToProto(const struct CheckIn& request, const std::string& software);
absl::StatusOr<CheckInAnswer> FromProto(const v1::CheckInResponse& response);

// The receipt must be for `assignment`.
absl::StatusOr<Receipt> FromProto(const v1::Receipt& receipt, const std::string& assignment);

v1::ProgressRequest ToProto(const Progress& progress);
absl::StatusOr<ProgressAnswer> FromProto(const v1::ProgressResponse& response);

}  // namespace strata::link

#endif  // STRATA_CLIENT_LINK_CONVERT_H_
