#include "server/service/caller.h"

#include <grpc/grpc_security_constants.h>

#include <vector>

#include "absl/strings/str_cat.h"
#include "common/wire/address.h"
#include "common/wire/chunk.h"

namespace strata::service {
namespace {

std::string Property(const grpc::AuthContext& auth, const char* name) {
  const std::vector<grpc::string_ref> values = auth.FindPropertyValues(name);
  return values.size() == 1 ? std::string(values[0].data(), values[0].size()) : "";
}

}  // namespace

std::string MetadataValue(const grpc::CallbackServerContext& context, const std::string& key) {
  const auto it = context.client_metadata().find(key);
  return it == context.client_metadata().end() ? "" : std::string(it->second.data(), it->second.size());
}

absl::StatusOr<Caller> IdentifySite(const grpc::CallbackServerContext& context, const std::string& loopback_name) {
  const std::shared_ptr<const grpc::AuthContext> auth = context.auth_context();
  const bool tls = auth != nullptr &&
                   Property(*auth, GRPC_TRANSPORT_SECURITY_TYPE_PROPERTY_NAME) == GRPC_SSL_TRANSPORT_SECURITY_TYPE;
  std::string name;
  if (tls) {
    name = Property(*auth, GRPC_X509_CN_PROPERTY_NAME);
    if (name.empty()) {
      return absl::UnauthenticatedError(
          "the client's certificate has no common name; a site is called what its certificate says, so give it one");
    }
  } else {
    name = loopback_name.empty() ? MetadataValue(context, std::string(wire::kSiteKey)) : loopback_name;
    if (name.empty()) {
      return absl::UnauthenticatedError(
          "the caller has no name: without TLS a site says its own; set `name` in client.yaml");
    }
  }
  if (absl::Status status = wire::CheckSiteName(name); !status.ok()) {
    return absl::UnauthenticatedError(status.message());
  }
  return Caller{.site = std::move(name), .admin = false};
}

}  // namespace strata::service
