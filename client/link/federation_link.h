// How a client speaks to its server, without gRPC in sight. Every call is asynchronous; its callback runs exactly once,
// on any thread, never inside the call.
#ifndef STRATA_CLIENT_LINK_FEDERATION_LINK_H_
#define STRATA_CLIENT_LINK_FEDERATION_LINK_H_

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/train/local_trainer.h"
#include "common/adapter/manifest.h"
#include "common/config/options.h"
#include "common/runtime/file_system.h"

namespace strata::link {

struct ModelOffer {
  std::string label;
  adapter::BaseIdentity identity;
  std::vector<config::ModuleShape> modules;
};

struct CheckIn {
  std::vector<ModelOffer> models;
  std::vector<std::string> data_labels;
  uint32_t rank = 0;  // 0: the job's
  double alpha = 0;
  uint32_t max_rank = 0;  // 0: no cap
  absl::Duration max_wait;
  std::string loopback_name;
  std::string holding;  // assignment still being worked on; empty: none
};

struct BlobRef {
  std::string sha256;  // 32 bytes
  uint64_t size = 0;
};

struct Assignment {
  std::string id;  // 16 bytes
  std::string job, site, model_label, data_label;
  uint32_t round = 0, attempt = 0, version = 0;
  bool train = true;  // false: evaluate only
  std::vector<BlobRef> blobs;
  std::vector<train::Target> targets;
  config::TrainOptions training;
  config::Start start = config::Start::kFresh;
  uint64_t seed = 0;
  double holdout = 0;
  bool evaluate_before = false, evaluate_after = false;
  absl::Duration progress_interval;
  uint64_t max_update_bytes = 0;
  adapter::BaseIdentity base;
};

struct ComeBack {
  absl::Duration after;
  std::string reason;
  bool not_eligible = false;
  bool no_open_job = false;
};

using CheckInAnswer = std::variant<Assignment, ComeBack>;

struct Receipt {
  std::string assignment, tensors_sha256, note;
};

struct Progress {
  std::string assignment;
  int phase = 0;  // v1::Phase
  train::TrainProgress training;
};

struct ProgressAnswer {
  bool stop = false;
  std::string reason;
};

template <typename T>
using Callback = absl::AnyInvocable<void(absl::StatusOr<T>) &&>;

// What an update consists of: the manifest's bytes as signed, and the tensor file's.
struct Update {
  std::string manifest, signature, key_id;
  std::shared_ptr<const runtime::Mapping> tensors;
};

// Thread-safe. Errors: UNAVAILABLE and DEADLINE_EXCEEDED (try again), RESOURCE_EXHAUSTED (too busy, or a full disk at
// the server: try again later), UNAUTHENTICATED, PERMISSION_DENIED (the site's certificate), FAILED_PRECONDITION and
// ABORTED (the assignment is over: check in again), INVALID_ARGUMENT (refused for what it is: do not repeat), DATA_LOSS
// (bytes do not match their digest), UNIMPLEMENTED (protocol version).
class FederationLink {
 public:
  virtual ~FederationLink() = default;
  virtual void CheckIn(const struct CheckIn& request, Callback<CheckInAnswer> done) = 0;
  // Writes the blob to `path` (through path + ".part", from which it resumes), checked against its digest.
  virtual void Fetch(const BlobRef& blob, const std::string& path, Callback<uint64_t> done) = 0;  // bytes received
  // Announces, sends from where the server has it, waits for the durable receipt.
  virtual void Submit(const std::string& assignment, Update update, Callback<Receipt> done) = 0;
  virtual void SubmitEvaluation(const std::string& assignment, const std::vector<adapter::Metric>& metrics,
                                Callback<Receipt> done) = 0;
  virtual void Report(const Progress& progress, Callback<ProgressAnswer> done) = 0;
  virtual void Release(const std::string& assignment, const std::string& reason, Callback<bool> done) = 0;
  // Ends calls under way with CANCELLED.
  virtual void Shutdown() = 0;
};

}  // namespace strata::link

#endif  // STRATA_CLIENT_LINK_FEDERATION_LINK_H_
