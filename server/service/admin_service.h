// The gRPC handlers of v1::Admin, for the operator on the admin socket.
#ifndef STRATA_SERVER_SERVICE_ADMIN_SERVICE_H_
#define STRATA_SERVER_SERVICE_ADMIN_SERVICE_H_

#include "proto/admin.grpc.pb.h"
#include "server/service/backend.h"

namespace strata::service {

// Whoever can open the socket is the operator: its file mode is the access control. Codes are the backend's.
class AdminService final : public v1::Admin::CallbackService {
 public:
  // Borrowed; must outlive the gRPC server that this is registered with.
  explicit AdminService(Backend& backend) : backend_(backend) {}

  grpc::ServerUnaryReactor* SubmitJob(grpc::CallbackServerContext* context, const v1::SubmitJobRequest* request,
                                      v1::SubmitJobResponse* response) override;
  grpc::ServerUnaryReactor* ListJobs(grpc::CallbackServerContext* context, const v1::ListJobsRequest* request,
                                     v1::ListJobsResponse* response) override;
  grpc::ServerUnaryReactor* ShowJob(grpc::CallbackServerContext* context, const v1::ShowJobRequest* request,
                                    v1::JobReport* response) override;
  grpc::ServerWriteReactor<v1::JobReport>* WatchJob(grpc::CallbackServerContext* context,
                                                    const v1::ShowJobRequest* request) override;
  grpc::ServerUnaryReactor* AbortJob(grpc::CallbackServerContext* context, const v1::AbortJobRequest* request,
                                     v1::JobSummary* response) override;
  grpc::ServerUnaryReactor* ListSites(grpc::CallbackServerContext* context, const v1::ListSitesRequest* request,
                                      v1::ListSitesResponse* response) override;
  grpc::ServerUnaryReactor* ListVersions(grpc::CallbackServerContext* context, const v1::ListVersionsRequest* request,
                                         v1::ListVersionsResponse* response) override;
  grpc::ServerWriteReactor<v1::BlobPart>* ReadBlob(grpc::CallbackServerContext* context,
                                                   const v1::ReadBlobRequest* request) override;

 private:
  Backend& backend_;
};

}  // namespace strata::service

#endif  // STRATA_SERVER_SERVICE_ADMIN_SERVICE_H_
