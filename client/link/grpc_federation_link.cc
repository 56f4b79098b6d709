#include "client/link/grpc_federation_link.h"

#include <grpc/grpc.h>
#include <grpcpp/channel.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/link/call_registry.h"
#include "client/link/convert.h"
#include "client/link/fetch_call.h"
#include "client/link/submit_call.h"
#include "common/status/status_macros.h"
#include "common/wire/address.h"
#include "common/wire/chunk.h"
#include "proto/federation.grpc.pb.h"

namespace strata::link {
namespace {

constexpr int kMaxFrameBytes = (1 << 24) - 1;  // HTTP/2's limit
constexpr int kKeepaliveMs = 60'000;
constexpr int kKeepaliveTimeoutMs = 20'000;
constexpr int kFirstReconnectMs = 500;
constexpr int kMaxReconnectMs = 5'000;  // the session decides how long to wait, not the channel

// gRPC 1.51 can hang while it takes itself down after its last user; so it stays up until the process ends.
void KeepGrpcUp() {
  [[maybe_unused]] static const bool kUp = [] {
    grpc_init();
    return true;
  }();
}

absl::StatusOr<std::string> ReadPem(runtime::FileSystem& files, const std::string& path, const char* key) {
  absl::StatusOr<std::string> text = files.ReadFile(path);
  if (!text.ok()) return Annotate(text.status(), absl::StrCat("tls.", key));
  if (!absl::StrContains(*text, "-----BEGIN")) {
    return absl::InvalidArgumentError(absl::StrCat("tls.", key, ": ", path, " is no PEM file (it has no -----BEGIN)"));
  }
  return text;
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> Credentials(const LinkOptions& options,
                                                                      runtime::FileSystem& files) {
  if (!options.tls.enabled()) {
    STRATA_RETURN_IF_ERROR(Annotate(wire::CheckPlainAddress(options.address), "server"));
    return grpc::InsecureChannelCredentials();
  }
  grpc::SslCredentialsOptions ssl;
  STRATA_ASSIGN_OR_RETURN(ssl.pem_cert_chain, ReadPem(files, options.tls.cert, "cert"));
  STRATA_ASSIGN_OR_RETURN(ssl.pem_private_key, ReadPem(files, options.tls.key, "key"));
  STRATA_ASSIGN_OR_RETURN(ssl.pem_root_certs, ReadPem(files, options.tls.ca, "ca"));
  return grpc::SslCredentials(ssl);
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> Connect(const LinkOptions& options, runtime::FileSystem& files) {
  KeepGrpcUp();
  if (options.channel != nullptr) return options.channel;
  STRATA_ASSIGN_OR_RETURN(const wire::HostPort server, wire::ParseHostPort(options.address));
  STRATA_ASSIGN_OR_RETURN(const auto credentials, Credentials(options, files));
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(wire::kMaxMessageBytes);
  arguments.SetMaxSendMessageSize(-1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, kMaxFrameBytes);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kFirstReconnectMs);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kFirstReconnectMs);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kMaxReconnectMs);
  // Two links of one process would otherwise share a connection, and one's TLS identity must not serve the other.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  if (wire::IsLoopback(server.host)) arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return grpc::CreateCustomChannel(options.address, credentials, arguments);
}

// A unary call from its start to its callback on the executor, where it is destroyed.
template <typename Request, typename Response, typename Result>
struct UnaryCall {
  std::shared_ptr<CallRegistry> registry;
  std::shared_ptr<CallContext> context;
  Request request;
  Response response;
  absl::AnyInvocable<absl::StatusOr<Result>(const Response&)> convert;
  Callback<Result> done;

  static void Finish(std::unique_ptr<UnaryCall> call, const absl::Status& status) {
    const std::shared_ptr<CallRegistry> registry = call->registry;
    const uint64_t id = call->context == nullptr ? 0 : call->context->id();
    if (call->context != nullptr) call->context->StopWatching();
    registry->executor().Run([call = std::move(call), status]() mutable {
      absl::StatusOr<Result> result = status.ok() ? call->convert(call->response) : absl::StatusOr<Result>(status);
      Callback<Result> done = std::move(call->done);
      call.reset();
      std::move(done)(std::move(result));
    });
    registry->Finish(id);
  }
};

}  // namespace

class GrpcFederationLink::Core {
 public:
  Core(const LinkOptions& options, std::shared_ptr<grpc::Channel> channel, runtime::Runtime runtime)
      : options_(options),
        channel_(std::move(channel)),
        runtime_(runtime),
        stub_(v1::Federation::NewStub(channel_)),
        registry_(std::make_shared<CallRegistry>(runtime.executor, options.site)) {}

  // `start` is a method of the stub's callback interface.
  template <typename Request, typename Response, typename Result, typename Convert>
  void Unary(void (v1::Federation::StubInterface::async_interface::*start)(grpc::ClientContext*, const Request*,
                                                                           Response*,
                                                                           std::function<void(grpc::Status)>),
             Request request, absl::Duration timeout, Convert convert, Callback<Result> done) {
    using Call = UnaryCall<Request, Response, Result>;
    auto call = std::make_unique<Call>();
    call->registry = registry_;
    call->context = registry_->Begin();
    call->request = std::move(request);
    call->convert = std::move(convert);
    call->done = std::move(done);
    if (call->context == nullptr) return Call::Finish(std::move(call), ShutDownStatus());
    call->context->Watch(timeout);
    Call* raw = call.release();
    (stub_->async()->*start)(&raw->context->grpc(), &raw->request, &raw->response, [raw](const grpc::Status& status) {
      const absl::Status result = raw->context->Result(status);
      Call::Finish(std::unique_ptr<Call>(raw), result);
    });
  }

  const LinkOptions options_;
  const std::shared_ptr<grpc::Channel> channel_;
  const runtime::Runtime runtime_;
  const std::unique_ptr<v1::Federation::Stub> stub_;
  const std::shared_ptr<CallRegistry> registry_;
};

namespace {
using Async = v1::Federation::StubInterface::async_interface;
template <typename Request, typename Response>
using Method = void (Async::*)(grpc::ClientContext*, const Request*, Response*, std::function<void(grpc::Status)>);
}  // namespace

absl::StatusOr<std::unique_ptr<GrpcFederationLink>> GrpcFederationLink::Create(const LinkOptions& options,
                                                                               runtime::Runtime runtime) {
  if (!options.site.empty()) STRATA_RETURN_IF_ERROR(Annotate(wire::CheckSiteName(options.site), "name"));
  if (options.chunk_bytes == 0 || options.chunk_bytes > wire::kMaxChunkBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("chunk_bytes is ", options.chunk_bytes, "; expected 1 to ", wire::kMaxChunkBytes));
  }
  STRATA_ASSIGN_OR_RETURN(std::shared_ptr<grpc::Channel> channel, Connect(options, runtime.files));
  return std::unique_ptr<GrpcFederationLink>(
      new GrpcFederationLink(std::make_shared<Core>(options, std::move(channel), runtime)));
}

GrpcFederationLink::~GrpcFederationLink() {
  Shutdown();
  core_->registry_->AwaitEnd();
}

void GrpcFederationLink::CheckIn(const struct CheckIn& request, Callback<CheckInAnswer> done) {
  v1::CheckInRequest proto = ToProto(request, core_->options_.software);
  if (proto.loopback_name().empty()) proto.set_loopback_name(core_->options_.site);
  constexpr Method<v1::CheckInRequest, v1::CheckInResponse> kStart = &Async::CheckIn;
  core_->Unary(
      kStart, std::move(proto), request.max_wait + core_->options_.call_timeout,
      [](const v1::CheckInResponse& response) { return FromProto(response); }, std::move(done));
}

void GrpcFederationLink::Fetch(const BlobRef& blob, const std::string& path, Callback<uint64_t> done) {
  FetchPlan plan{.blob = blob, .path = path, .channel = core_->channel_, .idle_timeout = core_->options_.idle_timeout};
  std::make_shared<FetchCall>(std::move(plan), core_->runtime_, core_->registry_, std::move(done))->Start();
}

void GrpcFederationLink::Submit(const std::string& assignment, Update update, Callback<Receipt> done) {
  SubmitPlan plan{.assignment = assignment,
                  .update = std::move(update),
                  .channel = core_->channel_,
                  .chunk_bytes = core_->options_.chunk_bytes,
                  .call_timeout = core_->options_.call_timeout,
                  .idle_timeout = core_->options_.idle_timeout};
  SubmitCall::Start(std::make_unique<SubmitCall>(std::move(plan), core_->registry_, std::move(done)));
}

void GrpcFederationLink::SubmitEvaluation(const std::string& assignment, const std::vector<adapter::Metric>& metrics,
                                          Callback<Receipt> done) {
  v1::SubmitEvaluationRequest request;
  request.set_assignment(assignment);
  for (const adapter::Metric& metric : metrics) {
    v1::Metric* proto = request.add_metrics();
    proto->set_name(metric.name);
    proto->set_value(metric.value);
  }
  constexpr Method<v1::SubmitEvaluationRequest, v1::Receipt> kStart = &Async::SubmitEvaluation;
  core_->Unary(
      kStart, std::move(request), core_->options_.call_timeout,
      [assignment](const v1::Receipt& receipt) { return FromProto(receipt, assignment); }, std::move(done));
}

void GrpcFederationLink::Report(const Progress& progress, Callback<ProgressAnswer> done) {
  constexpr Method<v1::ProgressRequest, v1::ProgressResponse> kStart = &Async::Progress;
  core_->Unary(
      kStart, ToProto(progress), core_->options_.call_timeout,
      [](const v1::ProgressResponse& response) { return FromProto(response); }, std::move(done));
}

void GrpcFederationLink::Release(const std::string& assignment, const std::string& reason, Callback<bool> done) {
  v1::ReleaseRequest request;
  request.set_assignment(assignment);
  request.set_reason(reason);
  constexpr Method<v1::ReleaseRequest, v1::ReleaseResponse> kStart = &Async::Release;
  core_->Unary(
      kStart, std::move(request), core_->options_.call_timeout,
      [](const v1::ReleaseResponse&) { return absl::StatusOr<bool>(true); }, std::move(done));
}

void GrpcFederationLink::Shutdown() { core_->registry_->Shutdown(); }

}  // namespace strata::link
