// What lives on the server's strand. Private to server/.
#ifndef STRATA_SERVER_SERVER_CORE_H_
#define STRATA_SERVER_SERVER_CORE_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/adapter/manifest.h"
#include "common/runtime/runtime.h"
#include "server/merge.h"
#include "server/report.h"
#include "server/round/round_controller.h"
#include "server/server.h"
#include "server/service/backend.h"
#include "server/store/store.h"

namespace strata::server {

using service::Caller;
using service::Reply;

// Member functions run on the strand unless said otherwise. What the executor still holds when the server is destroyed
// finds the core gone and does nothing.
class ServerCore : public std::enable_shared_from_this<ServerCore> {
 public:
  using OnAnswer = absl::AnyInvocable<void(const round::Answer&) &&>;

  ServerCore(const runtime::Runtime& runtime, ServerOptions options);

  // Before the first Post, on the caller's thread.
  absl::Status Start();
  // Thread-safe.
  void Post(absl::AnyInvocable<void(ServerCore&) &&> work);
  // Thread-safe. Runs on the executor, off the strand; the core is kept alive meanwhile.
  void RunOff(absl::AnyInvocable<void(ServerCore&) &&> work);
  uint64_t NewToken() { return next_token_.fetch_add(1); }
  store::BlobFiles& blobs() { return store_->blobs(); }
  store::Store& store() { return *store_; }
  const ServerOptions& options() const { return options_; }

  void Stop(absl::AnyInvocable<void() &&> done);
  // Nullopt-like: OK, or why requests are not taken.
  absl::Status CheckOpen() const;
  void Handle(const round::Event& event);
  // As Handle; the answer with this token goes to `on_answer`.
  void Handle(const round::Event& event, uint64_t token, OnAnswer on_answer);

  // Sites.
  void CheckIn(const Caller& caller, const v1::CheckInRequest& request, uint64_t token,
               Reply<v1::CheckInResponse> reply);
  void CancelCheckIn(uint64_t token, const absl::Status& why);
  void OpenBlob(const Caller& caller, const std::string& sha256, Reply<std::shared_ptr<const runtime::Mapping>> reply);
  void SawSite(const std::string& site);
  // Something about this assignment changed that is not stored: who watches its job is told.
  void TouchJobOf(const std::string& assignment);

  // Submits (submit.cc).
  void BeginSubmit(const Caller& caller, const v1::BeginSubmitRequest& request,
                   const absl::StatusOr<adapter::Manifest>& manifest, Reply<v1::BeginSubmitResponse> reply);
  void OpenUpload(const Caller& caller, const std::string& assignment,
                  Reply<std::unique_ptr<service::UploadSink>> reply);
  void RecordDurable(const std::string& assignment, uint64_t generation, uint64_t durable);
  void FinishUpload(const std::string& assignment, uint64_t generation, Reply<v1::Receipt> reply);

  // Operator (operate.cc).
  void SubmitJob(const config::JobOptions& options, Reply<v1::SubmitJobResponse> reply);
  v1::ListJobsResponse ListJobs() const;
  absl::StatusOr<v1::JobReport> ShowJob(const std::string& id) const;
  void WatchJob(const std::string& id, uint64_t seen, uint64_t token, Reply<std::pair<uint64_t, v1::JobReport>> reply);
  void CancelWatch(uint64_t token, const absl::Status& why);
  void AbortJob(const v1::AbortJobRequest& request, Reply<v1::JobSummary> reply);
  v1::ListSitesResponse ListSites() const;
  absl::StatusOr<v1::ListVersionsResponse> ListVersions(const std::string& job) const;

 private:
  struct Upload {
    store::UploadRow row;
    adapter::Manifest manifest;
    // The stream that may write; older ones see that theirs is another. Shared with the streams.
    std::shared_ptr<std::atomic<uint64_t>> generation = std::make_shared<std::atomic<uint64_t>>(0);
    bool busy = false;  // its file is being made, or its bytes are being checked
  };
  struct Watch {
    std::string job;
    Reply<std::pair<uint64_t, v1::JobReport>> reply;
  };
  struct Site {
    absl::Time last_seen;
    std::string software, mismatch;
  };
  using Held = absl::AnyInvocable<void(const absl::Status&) &&>;

  // Start.
  absl::StatusOr<std::vector<round::JobRecord>> Load(const store::Contents& contents);
  absl::Status LoadAssignments(const store::Contents& contents, std::map<std::string, round::JobRecord>& jobs);
  void LoadBlobs(const store::Contents& contents, std::map<std::string, round::JobRecord>& jobs);
  void LoadUploads(const store::Contents& contents);

  // Carrying out.
  void Perform(round::Answer answer);
  void Perform(const round::SaveJob& save);
  void Perform(const round::SaveAssignment& save);
  void Perform(const round::StartAggregation& start);
  void Perform(const round::Fact& fact);
  void StartMerge(const round::StartAggregation& start, std::vector<std::string> manifests);
  void MergeEnded(const round::StartAggregation& start, absl::StatusOr<Merged> merged);
  bool StillAggregates(const round::StartAggregation& start) const;
  void Rearm();

  // Durability: rows wait in dirty_, answers in held_, until one transaction has taken them.
  void Save(std::string key, store::Change change);
  void Hold(Held answer) { held_.push_back(std::move(answer)); }
  void Flush();
  void Committed(const absl::Status& status);
  void PublishTouched();
  void MaybeStopped();

  void RefuseUpdate(const Caller& caller, const std::string& assignment, const absl::Status& why);
  void AnnounceUpload(const std::string& assignment, Upload upload, Reply<v1::BeginSubmitResponse> reply);
  void Admitted(const Caller& caller, const std::string& assignment, const absl::Status& status,
                Reply<v1::Receipt> reply);
  void ForgetUpload(const std::string& assignment, bool remove_file);

  const runtime::Runtime runtime_;
  const ServerOptions options_;
  std::atomic<uint64_t> next_token_{1};
  std::unique_ptr<store::Store> store_;
  std::unique_ptr<round::RoundController> controller_;
  runtime::Strand strand_;

  std::map<uint64_t, OnAnswer> answers_;
  std::map<uint64_t, Reply<v1::CheckInResponse>> check_ins_;
  std::map<uint64_t, Watch> watches_;
  std::map<std::string, Upload> uploads_;                           // by assignment
  std::map<std::string, StoredRounds> rounds_;                      // by job
  std::map<std::string, std::vector<store::VersionRow>> versions_;  // by job
  std::map<std::string, uint64_t> blob_bytes_;                      // of the versions' blobs
  std::map<std::string, std::set<std::string>> blob_jobs_;          // version blob -> jobs
  std::set<std::string> update_blobs_;                              // digests of accepted updates
  std::map<std::string, std::set<std::string>> participants_;       // job -> sites that had an assignment
  FetchedBytes bytes_down_;
  std::map<std::string, Site> sites_;
  std::map<std::string, uint64_t> revisions_;  // by job

  std::map<std::string, store::Change> dirty_, in_flight_;
  std::vector<Held> held_, held_in_flight_;
  std::set<std::string> touched_, touched_in_flight_;
  bool committing_ = false;
  bool retry_armed_ = false;
  runtime::TimerId timer_ = 0;
  absl::Time armed_for_ = absl::InfiniteFuture();
  bool stopping_ = false;
  absl::AnyInvocable<void() &&> stopped_;
};

}  // namespace strata::server

#endif  // STRATA_SERVER_SERVER_CORE_H_
