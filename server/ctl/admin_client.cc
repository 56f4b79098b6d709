#include "server/ctl/admin_client.h"

#include <grpc/grpc.h>
#include <grpcpp/channel.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <sys/stat.h>

#include <iostream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/secure/digest.h"
#include "common/wire/chunk.h"
#include "common/wire/codes.h"

namespace strata::ctl {
namespace {

constexpr int kFailed = 1;
constexpr int kMisuse = 2;
constexpr uint64_t kMaxBlobBytes = uint64_t{1} << 40;

// gRPC 1.51 can hang while it takes itself down after its last user; so it stays up until the process ends.
void KeepGrpcUp() {
  [[maybe_unused]] static const bool kUp = [] {
    grpc_init();
    return true;
  }();
}

}  // namespace

void Report(const absl::Status& status, CtlContext& context) {
  for (absl::string_view line : absl::StrSplit(status.message(), '\n')) std::cerr << "error: " << line << "\n";
  context.exit_code = status.code() == absl::StatusCode::kInvalidArgument ? kMisuse : kFailed;
}

absl::StatusOr<AdminClient> AdminClient::Connect(const std::string& socket) {
  struct stat info {};
  if (stat(socket.c_str(), &info) != 0 || !S_ISSOCK(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat("there is no admin socket at ", socket,
                     "; start strata-server, or name its socket with --socket (or STRATA_ADMIN): STATE_DIR/admin.sock "
                     "unless server.yaml says otherwise"));
  }
  KeepGrpcUp();
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  auto channel =
      grpc::CreateCustomChannel(absl::StrCat("unix:", socket), grpc::InsecureChannelCredentials(), arguments);
  return AdminClient(socket, std::move(channel));
}

AdminClient::AdminClient(std::string socket, std::shared_ptr<grpc::Channel> channel)
    : socket_(std::move(socket)), channel_(std::move(channel)), stub_(v1::Admin::NewStub(channel_)) {}

absl::Status AdminClient::Result(const grpc::Status& status) const {
  if (status.error_code() != grpc::StatusCode::UNAVAILABLE) return wire::FromGrpc(status);
  return absl::UnavailableError(absl::StrCat("no server answers at ", socket_, " (", status.error_message(), ")"));
}

absl::StatusOr<std::string> AdminClient::SubmitJob(const v1::JobConfig& job) {
  grpc::ClientContext context;
  v1::SubmitJobRequest request;
  *request.mutable_job() = job;
  v1::SubmitJobResponse response;
  absl::Status status = Result(stub_->SubmitJob(&context, request, &response));
  if (!status.ok()) return status;
  return response.id();
}

absl::StatusOr<v1::ListJobsResponse> AdminClient::ListJobs() {
  grpc::ClientContext context;
  v1::ListJobsResponse response;
  absl::Status status = Result(stub_->ListJobs(&context, {}, &response));
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<v1::JobReport> AdminClient::ShowJob(const std::string& id) {
  grpc::ClientContext context;
  v1::ShowJobRequest request;
  request.set_id(id);
  v1::JobReport response;
  absl::Status status = Result(stub_->ShowJob(&context, request, &response));
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<v1::JobSummary> AdminClient::AbortJob(const std::string& id, const std::string& reason) {
  grpc::ClientContext context;
  v1::AbortJobRequest request;
  request.set_id(id);
  request.set_reason(reason);
  v1::JobSummary response;
  absl::Status status = Result(stub_->AbortJob(&context, request, &response));
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<v1::ListSitesResponse> AdminClient::ListSites() {
  grpc::ClientContext context;
  v1::ListSitesResponse response;
  absl::Status status = Result(stub_->ListSites(&context, {}, &response));
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<v1::ListVersionsResponse> AdminClient::ListVersions(const std::string& job) {
  grpc::ClientContext context;
  v1::ListVersionsRequest request;
  request.set_job(job);
  v1::ListVersionsResponse response;
  absl::Status status = Result(stub_->ListVersions(&context, request, &response));
  if (!status.ok()) return status;
  return response;
}

absl::Status AdminClient::WatchJob(const std::string& id, const std::function<void(const v1::JobReport&)>& on_report) {
  grpc::ClientContext context;
  v1::ShowJobRequest request;
  request.set_id(id);
  const auto reader = stub_->WatchJob(&context, request);
  v1::JobReport report;
  while (reader->Read(&report)) on_report(report);
  return Result(reader->Finish());
}

bool AdminClient::AwaitServer(absl::Duration limit) {
  return channel_->WaitForConnected(gpr_time_from_millis(absl::ToInt64Milliseconds(limit), GPR_TIMESPAN));
}

absl::StatusOr<AdminClient::Blob> AdminClient::ReadBlob(const std::string& sha256) {
  grpc::ClientContext context;
  v1::ReadBlobRequest request;
  request.set_sha256(sha256);
  const auto reader = stub_->ReadBlob(&context, request);
  Blob blob;
  v1::BlobPart part;
  while (reader->Read(&part)) {
    if (blob.tensors.empty()) {
      blob.manifest = part.manifest();
      blob.tensors.reserve(std::min(part.size(), kMaxBlobBytes));
    }
    blob.tensors += part.data();
  }
  absl::Status status = Result(reader->Finish());
  if (!status.ok()) return status;
  if (secure::Sha256(std::string_view(blob.tensors)) != sha256) {
    return absl::DataLossError(absl::StrCat("blob ", secure::ToHex(sha256), " arrived with another digest; try again"));
  }
  return blob;
}

}  // namespace strata::ctl
