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

// GrpcStatus is grpc::Status; a template, so that this folder stays free of gRPC.
template <typename GrpcStatus>
GrpcStatus ToGrpc(const absl::Status& status) {
  if (status.ok()) return GrpcStatus();
  using Code = decltype(GrpcStatus().error_code());
  return GrpcStatus(static_cast<Code>(ToWireCode(status.code())), WireMessage(status.message()));
}

template <typename GrpcStatus>
absl::Status FromGrpc(const GrpcStatus& status) {
  return absl::Status(FromWireCode(static_cast<int>(status.error_code())), status.error_message());
}

}  // namespace strata::wire

#endif  // STRATA_COMMON_WIRE_CODES_H_
