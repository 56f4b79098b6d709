// Options -> messages, complete: every default is written out.
#ifndef STRATA_COMMON_CONFIG_TO_PROTO_H_
#define STRATA_COMMON_CONFIG_TO_PROTO_H_

#include "common/config/options.h"
#include "proto/config.pb.h"

namespace strata::config {

v1::AdapterConfig AdapterToProto(const AdapterOptions& options);
v1::TlsConfig TlsToProto(const TlsOptions& options);
v1::ServerConfig ServerToProto(const ServerOptions& options);
v1::ClientConfig ClientToProto(const ClientOptions& options);
v1::SimConfig SimToProto(const SimOptions& options);

}  // namespace strata::config

#endif  // STRATA_COMMON_CONFIG_TO_PROTO_H_
