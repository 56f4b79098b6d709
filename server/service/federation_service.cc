#include "server/service/federation_service.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/wire/chunk.h"
#include "common/wire/version.h"
#include "server/service/caller.h"
#include "server/service/fetch_reactor.h"
#include "server/service/reply.h"
#include "server/service/upload_reactor.h"

namespace strata::service {
namespace {

absl::Status CheckSize(const char* what, const std::string& value, size_t expected) {
  if (value.size() == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("`", what, "` has ", value.size(), " bytes; expected ", expected));
}

absl::Status CheckVersion(const v1::ProtocolVersion& version) {
  if (version.major() == wire::kProtocolMajor) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat("the site speaks protocol ", version.major(), ".", version.minor(),
                                               ", this server ", wire::kProtocolMajor, ".", wire::kProtocolMinor,
                                               "; install releases of the same major version"));
}

// Who calls, and whether the assignment that the call names can be one.
absl::StatusOr<Caller> Admit(const grpc::CallbackServerContext& context, const std::string& assignment) {
  absl::StatusOr<Caller> caller = IdentifySite(context);
  if (!caller.ok()) return caller;
  absl::Status status = CheckSize("assignment", assignment, wire::kAssignmentIdBytes);
  if (!status.ok()) return status;
  return caller;
}

}  // namespace

grpc::ServerUnaryReactor* FederationService::CheckIn(grpc::CallbackServerContext* context,
                                                     const v1::CheckInRequest* request, v1::CheckInResponse* response) {
  auto* reactor = new UnaryReactor<v1::CheckInResponse>(response);
  absl::StatusOr<Caller> caller = IdentifySite(*context, request->loopback_name());
  if (!caller.ok()) return reactor->Fail(caller.status());
  if (absl::Status status = CheckVersion(request->protocol()); !status.ok()) return reactor->Fail(status);
  const uint64_t token = backend_.CheckIn(*caller, *request, reactor->Answer());
  reactor->set_on_cancel([this, token] { backend_.CancelCheckIn(token); });
  return reactor;
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* FederationService::Fetch(grpc::CallbackServerContext* context,
                                                                     const grpc::ByteBuffer* request) {
  auto* reactor = new FetchReactor;
  absl::StatusOr<Caller> caller = IdentifySite(*context);
  if (!caller.ok()) return reactor->Fail(caller.status());
  v1::FetchRequest fetch;
  if (!FromBuffer(*request, &fetch))
    return reactor->Fail(absl::InvalidArgumentError("FetchRequest is no valid message"));
  absl::Status status = CheckSize("sha256", fetch.sha256(), wire::kDigestBytes);
  if (!status.ok()) return reactor->Fail(status);
  reactor->Begin(backend_, *caller, fetch.sha256(), fetch.offset());
  return reactor;
}

grpc::ServerUnaryReactor* FederationService::BeginSubmit(grpc::CallbackServerContext* context,
                                                         const v1::BeginSubmitRequest* request,
                                                         v1::BeginSubmitResponse* response) {
  auto* reactor = new UnaryReactor<v1::BeginSubmitResponse>(response);
  absl::StatusOr<Caller> caller = Admit(*context, request->assignment());
  if (!caller.ok()) return reactor->Fail(caller.status());
  backend_.BeginSubmit(*caller, *request, reactor->Answer());
  return reactor;
}

grpc::ServerReadReactor<grpc::ByteBuffer>* FederationService::Upload(grpc::CallbackServerContext* context,
                                                                     grpc::ByteBuffer* response) {
  auto* reactor = new UploadReactor(context, response, executor_);
  const std::string assignment = MetadataValue(*context, std::string(wire::kAssignmentKey));
  absl::StatusOr<Caller> caller = Admit(*context, assignment);
  if (!caller.ok()) return reactor->Fail(caller.status());
  reactor->Begin(backend_, *caller, assignment);
  return reactor;
}

grpc::ServerUnaryReactor* FederationService::SubmitEvaluation(grpc::CallbackServerContext* context,
                                                              const v1::SubmitEvaluationRequest* request,
                                                              v1::Receipt* response) {
  auto* reactor = new UnaryReactor<v1::Receipt>(response);
  absl::StatusOr<Caller> caller = Admit(*context, request->assignment());
  if (!caller.ok()) return reactor->Fail(caller.status());
  backend_.SubmitEvaluation(*caller, *request, reactor->Answer());
  return reactor;
}

grpc::ServerUnaryReactor* FederationService::Progress(grpc::CallbackServerContext* context,
                                                      const v1::ProgressRequest* request,
                                                      v1::ProgressResponse* response) {
  auto* reactor = new UnaryReactor<v1::ProgressResponse>(response);
  absl::StatusOr<Caller> caller = Admit(*context, request->assignment());
  if (!caller.ok()) return reactor->Fail(caller.status());
  backend_.Progress(*caller, *request, reactor->Answer());
  return reactor;
}

grpc::ServerUnaryReactor* FederationService::Release(grpc::CallbackServerContext* context,
                                                     const v1::ReleaseRequest* request, v1::ReleaseResponse* response) {
  auto* reactor = new UnaryReactor<v1::ReleaseResponse>(response);
  absl::StatusOr<Caller> caller = Admit(*context, request->assignment());
  if (!caller.ok()) return reactor->Fail(caller.status());
  backend_.Release(*caller, *request, reactor->Answer());
  return reactor;
}

}  // namespace strata::service
