// One blob from the server into a file.
#ifndef STRATA_CLIENT_LINK_FETCH_CALL_H_
#define STRATA_CLIENT_LINK_FETCH_CALL_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/link/call_registry.h"
#include "client/link/federation_link.h"
#include "common/runtime/runtime.h"
#include "common/secure/digest.h"

namespace grpc {
class Channel;
class ByteBuffer;
}  // namespace grpc

namespace strata::link {

// What a fetch needs; borrowed parts outlive it.
struct FetchPlan {
  BlobRef blob;
  std::string path;
  std::shared_ptr<grpc::Channel> channel;
  absl::Duration idle_timeout;
};

// Appends to `path`.part from where that ends, hashing as bytes arrive; renames when size and digest are right. A part
// that turns out wrong is fetched once more from the start; when that is wrong too it is removed: DATA_LOSS. Steps run
// on the executor, one after another. `done` gets the number of bytes received.
class FetchCall : public std::enable_shared_from_this<FetchCall> {
 public:
  FetchCall(FetchPlan plan, runtime::Runtime runtime, std::shared_ptr<CallRegistry> registry, Callback<uint64_t> done);
  void Start();

 private:
  friend class FetchStream;

  // Runs `step` on the executor unless the fetch has been ended meanwhile.
  void Post(absl::AnyInvocable<void() &&> step);
  void Prepare();
  absl::Status OpenPart();
  void BeginStream();
  absl::Status Append(const grpc::ByteBuffer& buffer);
  void StreamEnded(const absl::Status& status);
  void Conclude();
  absl::Status Publish();
  void Finish(absl::StatusOr<uint64_t> result);

  const FetchPlan plan_;
  const std::string part_path_;
  runtime::Runtime runtime_;
  std::shared_ptr<CallRegistry> registry_;
  std::shared_ptr<CallContext> whole_;  // registered while the fetch lasts; each of its streams has one of its own
  Callback<uint64_t> done_;
  std::unique_ptr<runtime::File> part_;
  secure::Sha256Stream digest_;
  uint64_t offset_ = 0;
  uint64_t received_ = 0;
  bool resumed_ = false;
  bool finished_ = false;
};

}  // namespace strata::link

#endif  // STRATA_CLIENT_LINK_FETCH_CALL_H_
