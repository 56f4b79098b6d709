// absl::Status <-> the status of a call: one to one.
#ifndef STRATA_COMMON_WIRE_CODES_H_
#define STRATA_COMMON_WIRE_CODES_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace strata::wire {

// The number of a code on the wire (gRPC's), and back; numbers that we do not know become UNKNOWN.
int ToWireCode(absl::StatusCode code);
absl::StatusCode FromWireCode(int code);

// A text that fits in a call's trailers: cut after kMaxStatusMessageBytes, at a character's border.
std::string WireMessage(absl::string_view message);

// A status may carry how long to stay away, as decimal milliseconds under this type URL; on the wire it stands in the
// status details.
inline constexpr char kRetryAfterPayload[] = "strata/retry-after-ms";
std::string WireDetails(const absl::Status& status);
absl::Status WithDetails(absl::Status status, absl::string_view details);

// GrpcStatus is grpc::Status; a template, so that this folder stays free of gRPC.
template <typename GrpcStatus>
GrpcStatus ToGrpc(const absl::Status& status) {
  if (status.ok()) return GrpcStatus();
  using Code = decltype(GrpcStatus().error_code());
  return GrpcStatus(static_cast<Code>(ToWireCode(status.code())), WireMessage(status.message()), WireDetails(status));
}

template <typename GrpcStatus>
absl::Status FromGrpc(const GrpcStatus& status) {
  return WithDetails(absl::Status(FromWireCode(static_cast<int>(status.error_code())), status.error_message()),
                     status.error_details());
}

}  // namespace strata::wire

#endif  // STRATA_COMMON_WIRE_CODES_H_
