// One update to the server: announce it, send what the server lacks, take the receipt.
#ifndef STRATA_CLIENT_LINK_SUBMIT_CALL_H_
#define STRATA_CLIENT_LINK_SUBMIT_CALL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "client/link/call_registry.h"
#include "client/link/federation_link.h"
#include "common/runtime/executor.h"
#include "proto/federation.grpc.pb.h"

namespace strata::link {

struct SubmitPlan {
  std::string assignment;
  Update update;
  std::shared_ptr<grpc::Channel> channel;
  size_t chunk_bytes = 0;
  absl::Duration call_timeout;
  absl::Duration idle_timeout;
};

// A broken stream ends the submit with its error; the next submit of the same update goes on where the server synced.
// Chunks are the update's mapping itself, never copies. `done` runs on the executor.
class SubmitCall {
 public:
  SubmitCall(SubmitPlan plan, std::shared_ptr<CallRegistry> registry, Callback<Receipt> done);
  // Owns itself from here to its end.
  static void Start(std::unique_ptr<SubmitCall> call);

 private:
  friend class UploadStream;

  static void Announced(std::unique_ptr<SubmitCall> call, const absl::Status& status);
  static void Finish(std::unique_ptr<SubmitCall> call, absl::StatusOr<Receipt> result);

  const SubmitPlan plan_;
  const std::shared_ptr<CallRegistry> registry_;
  Callback<Receipt> done_;
  std::unique_ptr<v1::Federation::Stub> stub_;
  std::shared_ptr<CallContext> call_;
  v1::BeginSubmitRequest request_;
  v1::BeginSubmitResponse response_;
};

}  // namespace strata::link

#endif  // STRATA_CLIENT_LINK_SUBMIT_CALL_H_
