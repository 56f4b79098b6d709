// FederationLink over gRPC: a TLS connection, a loopback one, or a channel inside the process.
#ifndef STRATA_CLIENT_LINK_GRPC_FEDERATION_LINK_H_
#define STRATA_CLIENT_LINK_GRPC_FEDERATION_LINK_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/link/federation_link.h"
#include "common/config/options.h"
#include "common/runtime/runtime.h"

namespace grpc {
class Channel;
}  // namespace grpc

namespace strata::link {

struct LinkOptions {
  std::string address;                              // host:port; unused when `channel` is given
  std::shared_ptr<grpc::Channel> channel;           // in-process; empty: connect to `address`
  config::TlsOptions tls;                           // without, only loopback addresses are accepted
  std::string site;                                 // how this site calls itself; believed without TLS only
  std::string software = "strata-client";           // name and version, as `stratactl site list` shows it
  size_t chunk_bytes = size_t{1} << 20;             // payload of an uploaded chunk
  absl::Duration call_timeout = absl::Seconds(30);  // of a unary call; a check-in gets its max_wait on top
  absl::Duration idle_timeout = absl::Seconds(60);  // a stream without progress for this long is given up
};

// Beyond FederationLink's contract: INTERNAL means that an answer broke the protocol (nothing of it was used).
// Time-outs run on the runtime's executor, so that a simulated clock rules them; gRPC's own deadlines and retries are
// not used. Files are read, hashed and written on the executor. Deterministic over an in-process channel when one call
// at a time is under way and its executor runs what is posted in order: a call posts to the executor one thing after
// another.
class GrpcFederationLink final : public FederationLink {
 public:
  // Connects lazily: a server that is away shows as UNAVAILABLE of the calls. The runtime's parts are borrowed.
  // INVALID_ARGUMENT: an address that may not be used without TLS, PEM files that hold none. NOT_FOUND: a missing file.
  static absl::StatusOr<std::unique_ptr<GrpcFederationLink>> Create(const LinkOptions& options,
                                                                    runtime::Runtime runtime);
  // Shutdown, then waits for the calls under way. REQUIRES: the executor still works (or drops its work), or no call is
  // under way.
  ~GrpcFederationLink() override;

  void CheckIn(const struct CheckIn& request, Callback<CheckInAnswer> done) override;
  void Fetch(const BlobRef& blob, const std::string& path, Callback<uint64_t> done) override;
  void Submit(const std::string& assignment, Update update, Callback<Receipt> done) override;
  void SubmitEvaluation(const std::string& assignment, const std::vector<adapter::Metric>& metrics,
                        Callback<Receipt> done) override;
  void Report(const Progress& progress, Callback<ProgressAnswer> done) override;
  void Release(const std::string& assignment, const std::string& reason, Callback<bool> done) override;
  void Shutdown() override;

 private:
  class Core;
  explicit GrpcFederationLink(std::shared_ptr<Core> core) : core_(std::move(core)) {}
  std::shared_ptr<Core> core_;
};

}  // namespace strata::link

#endif  // STRATA_CLIENT_LINK_GRPC_FEDERATION_LINK_H_
