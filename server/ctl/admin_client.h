// stratactl's side of the admin socket, and what its commands share.
#ifndef STRATA_SERVER_CTL_ADMIN_CLIENT_H_
#define STRATA_SERVER_CTL_ADMIN_CLIENT_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/admin.grpc.pb.h"

namespace grpc {
class Channel;
}  // namespace grpc

namespace strata::ctl {

// What the command line says for every command, and what the command leaves behind.
struct CtlContext {
  std::string socket;           // path of the admin socket
  std::string format = "text";  // text | json
  int exit_code = 0;            // 0 done, 1 failed, 2 misuse
  bool json() const { return format == "json"; }
};

// Prints "error: .." to standard error and sets the exit code: 2 for INVALID_ARGUMENT (what was typed or a file's
// fault), else 1.
void Report(const absl::Status& status, CtlContext& context);

// Blocking calls to one server. Errors are the server's; UNAVAILABLE says which socket nobody answers at.
class AdminClient {
 public:
  // INVALID_ARGUMENT: no such socket.
  static absl::StatusOr<AdminClient> Connect(const std::string& socket);

  absl::StatusOr<std::string> SubmitJob(const v1::JobConfig& job);
  absl::StatusOr<v1::ListJobsResponse> ListJobs();
  absl::StatusOr<v1::JobReport> ShowJob(const std::string& id);
  absl::StatusOr<v1::JobSummary> AbortJob(const std::string& id, const std::string& reason);
  absl::StatusOr<v1::ListSitesResponse> ListSites();
  absl::StatusOr<v1::ListVersionsResponse> ListVersions(const std::string& job);
  // Calls `on_report` for each report until the job has ended.
  absl::Status WatchJob(const std::string& id, const std::function<void(const v1::JobReport&)>& on_report);
  // Waits until a server answers again.
  bool AwaitServer(absl::Duration limit);

  struct Blob {
    std::string manifest, tensors;
  };
  absl::StatusOr<Blob> ReadBlob(const std::string& sha256);

 private:
  AdminClient(std::string socket, std::shared_ptr<grpc::Channel> channel);
  absl::Status Result(const grpc::Status& status) const;

  std::string socket_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Admin::Stub> stub_;
};

}  // namespace strata::ctl

#endif  // STRATA_SERVER_CTL_ADMIN_CLIENT_H_
