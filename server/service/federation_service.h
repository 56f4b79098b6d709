// The gRPC handlers of v1::Federation: who calls, well-formed or not, and over to the backend.
#ifndef STRATA_SERVER_SERVICE_FEDERATION_SERVICE_H_
#define STRATA_SERVER_SERVICE_FEDERATION_SERVICE_H_

#include "common/runtime/executor.h"
#include "proto/federation.grpc.pb.h"
#include "server/service/backend.h"

namespace strata::service {

// Fetch and Upload are raw: their chunks stay byte buffers.
template <typename Base>
using RawFederationStreams =
    v1::Federation::WithRawCallbackMethod_Fetch<v1::Federation::WithRawCallbackMethod_Upload<Base>>;
template <typename Base>
using FederationCalls = v1::Federation::WithCallbackMethod_CheckIn<
    v1::Federation::WithCallbackMethod_BeginSubmit<v1::Federation::WithCallbackMethod_SubmitEvaluation<
        v1::Federation::WithCallbackMethod_Progress<v1::Federation::WithCallbackMethod_Release<Base>>>>>;

// No call holds a thread while it waits. Answers of its own: UNAUTHENTICATED (no name, see caller.h), INVALID_ARGUMENT
// (ids or digests of a wrong length, a message that is none), UNIMPLEMENTED (another major protocol version);
// everything else is the backend's.
class FederationService final : public FederationCalls<RawFederationStreams<v1::Federation::Service>> {
 public:
  // Both are borrowed and must outlive the gRPC server that this is registered with.
  FederationService(Backend& backend, runtime::Executor& executor) : backend_(backend), executor_(executor) {}

  grpc::ServerUnaryReactor* CheckIn(grpc::CallbackServerContext* context, const v1::CheckInRequest* request,
                                    v1::CheckInResponse* response) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Fetch(grpc::CallbackServerContext* context,
                                                    const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* BeginSubmit(grpc::CallbackServerContext* context, const v1::BeginSubmitRequest* request,
                                        v1::BeginSubmitResponse* response) override;
  grpc::ServerReadReactor<grpc::ByteBuffer>* Upload(grpc::CallbackServerContext* context,
                                                    grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* SubmitEvaluation(grpc::CallbackServerContext* context,
                                             const v1::SubmitEvaluationRequest* request,
                                             v1::Receipt* response) override;
  grpc::ServerUnaryReactor* Progress(grpc::CallbackServerContext* context, const v1::ProgressRequest* request,
                                     v1::ProgressResponse* response) override;
  grpc::ServerUnaryReactor* Release(grpc::CallbackServerContext* context, const v1::ReleaseRequest* request,
                                    v1::ReleaseResponse* response) override;

 private:
  Backend& backend_;
  runtime::Executor& executor_;
};

}  // namespace strata::service

#endif  // STRATA_SERVER_SERVICE_FEDERATION_SERVICE_H_
