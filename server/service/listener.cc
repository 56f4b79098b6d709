#include "server/service/listener.h"

#include <grpc/grpc.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/support/channel_arguments.h>

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/status/status_macros.h"
#include "common/wire/address.h"
#include "common/wire/chunk.h"
#include "server/service/admin_service.h"
#include "server/service/federation_service.h"
#include "server/service/unix_socket.h"

namespace strata::service {
namespace {

constexpr int kMaxFrameBytes = (1 << 24) - 1;  // HTTP/2's limit
constexpr int kKeepaliveMs = 60'000;
constexpr int kKeepaliveTimeoutMs = 20'000;
constexpr int kMinPingIntervalMs = 10'000;
constexpr int kMaxStreamsPerConnection = 128;

absl::StatusOr<std::string> ReadPem(runtime::FileSystem& files, const std::string& path, const char* key) {
  absl::StatusOr<std::string> text = files.ReadFile(path);
  if (!text.ok()) return Annotate(text.status(), absl::StrCat("tls.", key));
  if (!absl::StrContains(*text, "-----BEGIN")) {
    return absl::InvalidArgumentError(absl::StrCat("tls.", key, ": ", path, " is no PEM file (it has no -----BEGIN)"));
  }
  return text;
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> Credentials(const ListenOptions& options,
                                                                     runtime::FileSystem& files) {
  if (!options.tls.enabled()) {
    STRATA_RETURN_IF_ERROR(Annotate(wire::CheckPlainAddress(options.address), "listen"));
    return grpc::InsecureServerCredentials();
  }
  STRATA_RETURN_IF_ERROR(Annotate(wire::ParseHostPort(options.address).status(), "listen"));
  STRATA_ASSIGN_OR_RETURN(std::string cert, ReadPem(files, options.tls.cert, "cert"));
  STRATA_ASSIGN_OR_RETURN(std::string key, ReadPem(files, options.tls.key, "key"));
  STRATA_ASSIGN_OR_RETURN(std::string ca, ReadPem(files, options.tls.ca, "ca"));
  grpc::SslServerCredentialsOptions ssl(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  ssl.pem_root_certs = std::move(ca);
  ssl.pem_key_cert_pairs.push_back({std::move(key), std::move(cert)});
  return grpc::SslServerCredentials(ssl);
}

// gRPC 1.51 can hang while it takes itself down after its last user, and sometimes aborts while it takes down the
// threads that run callbacks after its last server and channel. So a server without a door keeps both up until the
// process ends.
void KeepGrpcUp() {
  static grpc::CallbackGenericService refuses_all;
  [[maybe_unused]] static const grpc::Server* const kUp = [] {
    grpc_init();
    grpc::ServerBuilder builder;
    builder.RegisterCallbackGenericService(&refuses_all);
    return builder.BuildAndStart().release();
  }();
}

void Configure(grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(wire::kMaxMessageBytes);
  builder.SetMaxSendMessageSize(-1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, kMaxFrameBytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreamsPerConnection);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kMinPingIntervalMs);
  // Two servers on one port would share its connections.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
}

grpc::ChannelArguments InProcessArguments() {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  return arguments;
}

}  // namespace

struct Listener::Parts {
  Parts(Backend& backend, runtime::Executor& executor) : federation(backend, executor), admin(backend) {}
  FederationService federation;
  AdminService admin;
  std::unique_ptr<grpc::Server> sites;
  std::unique_ptr<grpc::Server> operators;
  int port = 0;
  std::string address;

  absl::Status StartSites(const ListenOptions& options, runtime::FileSystem& files) {
    grpc::ServerBuilder builder;
    Configure(builder);
    if (!options.address.empty()) {
      STRATA_ASSIGN_OR_RETURN(auto credentials, Credentials(options, files));
      builder.AddListeningPort(options.address, credentials, &port);
    }
    builder.RegisterService(&federation);
    sites = builder.BuildAndStart();
    if (sites == nullptr || (!options.address.empty() && port == 0)) {
      return absl::UnavailableError(absl::StrCat(
          "could not listen on ", options.address, ": the port is taken, the host is not this machine's",
          options.tls.enabled() ? absl::StrCat(", or ", options.tls.cert, " does not fit ", options.tls.key) : ""));
    }
    if (options.address.empty()) return absl::OkStatus();
    STRATA_ASSIGN_OR_RETURN(wire::HostPort bound, wire::ParseHostPort(options.address));
    bound.port = port;
    address = bound.ToString();
    return absl::OkStatus();
  }

  absl::Status StartAdmin(const ListenOptions& options) {
    grpc::ServerBuilder builder;
    Configure(builder);
    int bound = 0;
    if (!options.admin_socket.empty()) {
      STRATA_RETURN_IF_ERROR(PrepareUnixSocket(options.admin_socket));
      builder.AddListeningPort(absl::StrCat("unix:", options.admin_socket), grpc::InsecureServerCredentials(), &bound);
    }
    builder.RegisterService(&admin);
    const OwnerOnlyFiles owner_only;
    operators = builder.BuildAndStart();
    if (operators == nullptr || (!options.admin_socket.empty() && bound == 0)) {
      return absl::UnavailableError(
          absl::StrCat("could not listen on the admin socket ", options.admin_socket, "; does its folder exist?"));
    }
    return absl::OkStatus();
  }

  void Shutdown(absl::Duration grace) {
    const auto deadline = gpr_time_from_millis(absl::ToInt64Milliseconds(grace), GPR_TIMESPAN);
    if (operators != nullptr) operators->Shutdown(deadline);
    if (sites != nullptr) sites->Shutdown(deadline);
  }
};

absl::StatusOr<std::unique_ptr<Listener>> Listener::Start(const ListenOptions& options, Backend& backend,
                                                          runtime::Runtime runtime) {
  KeepGrpcUp();
  std::unique_ptr<Listener> listener(new Listener(std::make_unique<Parts>(backend, runtime.executor)));
  STRATA_RETURN_IF_ERROR(listener->parts_->StartAdmin(options));
  STRATA_RETURN_IF_ERROR(listener->parts_->StartSites(options, runtime.files));
  return listener;
}

Listener::Listener(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Listener::~Listener() { Shutdown(absl::ZeroDuration()); }
int Listener::port() const { return parts_->port; }
std::string Listener::address() const { return parts_->address; }
std::shared_ptr<grpc::Channel> Listener::InProcessChannel() {
  return parts_->sites->InProcessChannel(InProcessArguments());
}
std::shared_ptr<grpc::Channel> Listener::InProcessAdminChannel() {
  return parts_->operators->InProcessChannel(InProcessArguments());
}
void Listener::Shutdown(absl::Duration grace) { parts_->Shutdown(grace); }

}  // namespace strata::service
