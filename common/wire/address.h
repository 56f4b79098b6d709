// Addresses and names as both sides judge them.
#ifndef STRATA_COMMON_WIRE_ADDRESS_H_
#define STRATA_COMMON_WIRE_ADDRESS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace strata::wire {

struct HostPort {
  std::string host;  // without brackets
  int port = 0;
  std::string ToString() const;  // "host:port", an IPv6 host in brackets
};

// "host:port" or "[v6]:port". INVALID_ARGUMENT: anything else.
absl::StatusOr<HostPort> ParseHostPort(absl::string_view address);

// localhost, 127.0.0.0/8 or ::1.
bool IsLoopback(absl::string_view host);

// INVALID_ARGUMENT, with what to do, when `address` may not be used without TLS (it is no loopback address).
absl::Status CheckPlainAddress(absl::string_view address);

// A site's name stands in paths, logs and reports: 1 to 64 of A-Z a-z 0-9 . _ -, not beginning with a dot or a dash.
// INVALID_ARGUMENT: another name.
absl::Status CheckSiteName(absl::string_view name);

}  // namespace strata::wire

#endif  // STRATA_COMMON_WIRE_ADDRESS_H_
