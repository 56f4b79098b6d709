// Where a caller's identity comes from. Nothing else in the server knows.
#ifndef STRATA_SERVER_SERVICE_CALLER_H_
#define STRATA_SERVER_SERVICE_CALLER_H_

#include <grpcpp/server_context.h>

#include <string>

#include "absl/status/statusor.h"
#include "server/service/backend.h"

namespace strata::service {

// With TLS: the common name of the peer's verified certificate, whatever else the caller says. Without (loopback,
// in-process): `loopback_name`, or where that is empty the call's metadata `strata-site`. UNAUTHENTICATED: no name, or
// one that is no site name.
absl::StatusOr<Caller> IdentifySite(const grpc::CallbackServerContext& context, const std::string& loopback_name = "");

// The value of a metadata key, empty when absent.
std::string MetadataValue(const grpc::CallbackServerContext& context, const std::string& key);

}  // namespace strata::service

#endif  // STRATA_SERVER_SERVICE_CALLER_H_
