// A server core that keeps everything in memory, for tests of the handlers and of the link.
#ifndef STRATA_TESTS_TESTING_FAKE_BACKEND_H_
#define STRATA_TESTS_TESTING_FAKE_BACKEND_H_

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/adapter/manifest.h"
#include "common/runtime/executor.h"
#include "common/secure/digest.h"
#include "server/service/backend.h"

namespace strata::testing {

// Bytes as if they were a mapped file.
class MemoryMapping final : public runtime::Mapping {
 public:
  explicit MemoryMapping(std::string bytes) : bytes_(std::move(bytes)) {}
  std::span<const std::byte> bytes() const override {
    return {reinterpret_cast<const std::byte*>(bytes_.data()), bytes_.size()};
  }
  void Release(size_t /*offset*/, size_t /*length*/) const override {}

 private:
  const std::string bytes_;
};

// Thread-safe. Answers on the executor. An announced update's manifest is a serialised v1::Manifest, of which only
// tensors_sha256 and tensors_bytes are read.
class FakeBackend final : public service::Backend {
 public:
  explicit FakeBackend(runtime::Executor& executor) : executor_(executor) {}

  struct Upload {
    std::string sha256;
    uint64_t size = 0;
    std::string bytes;
    bool done = false;
    int receipts = 0;
  };

  // What CheckIn answers; without one it parks.
  void set_answer(v1::CheckInResponse answer) {
    absl::MutexLock lock(&mutex_);
    answer_ = std::make_unique<v1::CheckInResponse>(std::move(answer));
  }
  std::string AddBlob(std::string bytes, std::string manifest = "") {
    std::string sha256 = secure::Sha256(std::string_view(bytes));
    absl::MutexLock lock(&mutex_);
    blobs_[sha256] = std::make_shared<MemoryMapping>(std::move(bytes));
    manifests_[sha256] = std::move(manifest);
    return sha256;
  }
  // Bytes under a digest that is not theirs.
  void AddCorruptBlob(const std::string& sha256, std::string bytes) {
    absl::MutexLock lock(&mutex_);
    blobs_[sha256] = std::make_shared<MemoryMapping>(std::move(bytes));
  }
  // The next upload's WriteChunk fails with `status` once `offset` would be passed; what was before is kept.
  void FailUploadAt(uint64_t offset, absl::Status status) {
    absl::MutexLock lock(&mutex_);
    fail_at_ = offset;
    fail_with_ = std::move(status);
  }
  void AddReport(const v1::JobReport& report) {
    std::vector<service::Reply<std::pair<uint64_t, v1::JobReport>>> waiting;
    uint64_t revision = 0;
    {
      absl::MutexLock lock(&mutex_);
      report_ = report;
      revision = ++revision_;
      for (auto& [token, reply] : watches_) waiting.push_back(std::move(reply));
      watches_.clear();
    }
    for (auto& reply : waiting) std::move(reply)(std::pair(revision, report));
  }

  Upload upload(const std::string& assignment) const {
    absl::MutexLock lock(&mutex_);
    const auto it = uploads_.find(assignment);
    return it == uploads_.end() ? Upload{} : it->second;
  }
  size_t parked() const {
    absl::MutexLock lock(&mutex_);
    return parked_.size();
  }
  void AwaitParked(size_t count) const {
    Await([&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return parked_.size() == count; });
  }
  void AwaitWatches(size_t count) const {
    Await([&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return watches_.size() == count; });
  }
  int cancelled() const {
    absl::MutexLock lock(&mutex_);
    return cancelled_;
  }
  std::vector<std::string> calls() const {
    absl::MutexLock lock(&mutex_);
    return calls_;
  }
  v1::CheckInRequest last_check_in() const {
    absl::MutexLock lock(&mutex_);
    return last_check_in_;
  }
  v1::JobConfig submitted() const {
    absl::MutexLock lock(&mutex_);
    return submitted_;
  }

  uint64_t CheckIn(const service::Caller& caller, const v1::CheckInRequest& request,
                   service::Reply<v1::CheckInResponse> reply) override {
    absl::MutexLock lock(&mutex_);
    Note("CheckIn", caller);
    last_check_in_ = request;
    const uint64_t token = ++tokens_;
    if (answer_ != nullptr) {
      Answer(std::move(reply), v1::CheckInResponse(*answer_));
    } else {
      parked_.emplace(token, std::move(reply));
    }
    return token;
  }
  void CancelCheckIn(uint64_t token) override {
    absl::MutexLock lock(&mutex_);
    const auto it = parked_.find(token);
    if (it == parked_.end()) return;
    ++cancelled_;
    Answer<v1::CheckInResponse>(std::move(it->second), absl::CancelledError("gone"));
    parked_.erase(it);
  }
  void OpenBlob(const service::Caller& caller, const std::string& sha256,
                service::Reply<std::shared_ptr<const runtime::Mapping>> reply) override {
    absl::MutexLock lock(&mutex_);
    Note("OpenBlob", caller);
    using Reference = std::shared_ptr<const runtime::Mapping>;
    const auto it = blobs_.find(sha256);
    if (it == blobs_.end()) return Answer<Reference>(std::move(reply), absl::NotFoundError("no such blob"));
    Answer<Reference>(std::move(reply), it->second);
  }
  void BeginSubmit(const service::Caller& caller, const v1::BeginSubmitRequest& request,
                   service::Reply<v1::BeginSubmitResponse> reply) override {
    absl::MutexLock lock(&mutex_);
    Note("BeginSubmit", caller);
    v1::Manifest manifest;
    if (!manifest.ParseFromString(request.manifest().manifest())) {
      return Answer<v1::BeginSubmitResponse>(std::move(reply), absl::InvalidArgumentError("no manifest"));
    }
    Upload& upload = uploads_[request.assignment()];
    if (!upload.sha256.empty() && upload.sha256 != manifest.tensors_sha256()) {
      return Answer<v1::BeginSubmitResponse>(std::move(reply), absl::AlreadyExistsError("another update was accepted"));
    }
    upload.sha256 = manifest.tensors_sha256();
    upload.size = manifest.tensors_bytes();
    v1::BeginSubmitResponse response;
    if (upload.done) {
      *response.mutable_receipt() = MakeReceipt(request.assignment(), upload);
    } else {
      response.set_offset(upload.bytes.size());
    }
    Answer(std::move(reply), std::move(response));
  }
  void OpenUpload(const service::Caller& caller, const std::string& assignment,
                  service::Reply<std::unique_ptr<service::UploadSink>> reply) override {
    using Sink = std::unique_ptr<service::UploadSink>;
    absl::MutexLock lock(&mutex_);
    Note("OpenUpload", caller);
    if (!uploads_.contains(assignment)) {
      return Answer<Sink>(std::move(reply), absl::FailedPreconditionError("not announced"));
    }
    Answer<Sink>(std::move(reply), std::make_unique<MemorySink>(*this, assignment, uploads_[assignment].bytes.size()));
  }
  void SubmitEvaluation(const service::Caller& caller, const v1::SubmitEvaluationRequest& request,
                        service::Reply<v1::Receipt> reply) override {
    absl::MutexLock lock(&mutex_);
    Note("SubmitEvaluation", caller);
    v1::Receipt receipt;
    receipt.set_assignment(request.assignment());
    receipt.set_accepted(true);
    Answer(std::move(reply), std::move(receipt));
  }
  void Progress(const service::Caller& caller, const v1::ProgressRequest& request,
                service::Reply<v1::ProgressResponse> reply) override {
    absl::MutexLock lock(&mutex_);
    Note("Progress", caller);
    v1::ProgressResponse response;
    if (request.step() < 100) {
      response.set_carry_on(true);
    } else {
      response.set_stop("enough");
    }
    Answer(std::move(reply), std::move(response));
  }
  void Release(const service::Caller& caller, const v1::ReleaseRequest& /*request*/,
               service::Reply<v1::ReleaseResponse> reply) override {
    absl::MutexLock lock(&mutex_);
    Note("Release", caller);
    Answer(std::move(reply), v1::ReleaseResponse());
  }

  void SubmitJob(const v1::SubmitJobRequest& request, service::Reply<v1::SubmitJobResponse> reply) override {
    absl::MutexLock lock(&mutex_);
    submitted_ = request.job();
    v1::SubmitJobResponse response;
    response.set_id("job-1");
    Answer(std::move(reply), std::move(response));
  }
  void ListJobs(service::Reply<v1::ListJobsResponse> reply) override {
    absl::MutexLock lock(&mutex_);
    v1::ListJobsResponse response;
    *response.add_jobs() = report_.summary();
    Answer(std::move(reply), std::move(response));
  }
  void ShowJob(const std::string& id, service::Reply<v1::JobReport> reply) override {
    absl::MutexLock lock(&mutex_);
    if (id != report_.summary().id())
      return Answer<v1::JobReport>(std::move(reply), absl::NotFoundError("no such job"));
    Answer(std::move(reply), v1::JobReport(report_));
  }
  uint64_t WatchJob(const std::string& /*id*/, uint64_t seen,
                    service::Reply<std::pair<uint64_t, v1::JobReport>> reply) override {
    absl::MutexLock lock(&mutex_);
    const uint64_t token = ++tokens_;
    if (seen < revision_) {
      Answer(std::move(reply), std::pair(revision_, report_));
    } else {
      watches_.emplace(token, std::move(reply));
    }
    return token;
  }
  void CancelWatch(uint64_t token) override {
    absl::MutexLock lock(&mutex_);
    const auto it = watches_.find(token);
    if (it == watches_.end()) return;
    ++cancelled_;
    Answer<std::pair<uint64_t, v1::JobReport>>(std::move(it->second), absl::CancelledError("gone"));
    watches_.erase(it);
  }
  void AbortJob(const v1::AbortJobRequest& request, service::Reply<v1::JobSummary> reply) override {
    absl::MutexLock lock(&mutex_);
    report_.mutable_summary()->set_state(v1::ABORTED);
    report_.mutable_summary()->set_reason(request.reason());
    Answer(std::move(reply), v1::JobSummary(report_.summary()));
  }
  void ListSites(service::Reply<v1::ListSitesResponse> reply) override {
    absl::MutexLock lock(&mutex_);
    v1::ListSitesResponse response;
    v1::SiteInfo* site = response.add_sites();
    site->set_name("alpha");
    site->set_state("parked");
    Answer(std::move(reply), std::move(response));
  }
  void ListVersions(const std::string& /*job*/, service::Reply<v1::ListVersionsResponse> reply) override {
    absl::MutexLock lock(&mutex_);
    Answer(std::move(reply), v1::ListVersionsResponse(versions_));
  }
  void ReadManifest(const std::string& sha256, service::Reply<std::string> reply) override {
    absl::MutexLock lock(&mutex_);
    const auto it = manifests_.find(sha256);
    if (it == manifests_.end()) return Answer<std::string>(std::move(reply), absl::NotFoundError("no such blob"));
    Answer<std::string>(std::move(reply), it->second);
  }
  void set_versions(v1::ListVersionsResponse versions) {
    absl::MutexLock lock(&mutex_);
    versions_ = std::move(versions);
  }

 private:
  class MemorySink final : public service::UploadSink {
   public:
    MemorySink(FakeBackend& backend, std::string assignment, uint64_t offset)
        : backend_(backend), assignment_(std::move(assignment)), offset_(offset) {}
    uint64_t expected_offset() const override { return offset_; }
    absl::Status WriteChunk(std::string_view data) override {
      absl::MutexLock lock(&backend_.mutex_);
      Upload& upload = backend_.uploads_[assignment_];
      if (offset_ + data.size() > upload.size) return absl::InvalidArgumentError("more bytes than announced");
      if (!backend_.fail_with_.ok() && offset_ + data.size() > backend_.fail_at_) {
        upload.bytes += std::string(data.substr(0, backend_.fail_at_ - offset_));
        return std::exchange(backend_.fail_with_, absl::OkStatus());
      }
      upload.bytes += std::string(data);
      offset_ += data.size();
      return absl::OkStatus();
    }
    void Finish(service::Reply<v1::Receipt> reply) override {
      absl::MutexLock lock(&backend_.mutex_);
      Upload& upload = backend_.uploads_[assignment_];
      if (upload.bytes.size() < upload.size) {
        return backend_.Answer<v1::Receipt>(std::move(reply), absl::UnavailableError("bytes are missing"));
      }
      if (secure::Sha256(std::string_view(upload.bytes)) != upload.sha256) {
        upload.bytes.clear();
        return backend_.Answer<v1::Receipt>(std::move(reply), absl::DataLossError("another digest"));
      }
      upload.done = true;
      backend_.Answer(std::move(reply), MakeReceipt(assignment_, upload));
    }

   private:
    FakeBackend& backend_;
    const std::string assignment_;
    uint64_t offset_;
  };

  static v1::Receipt MakeReceipt(const std::string& assignment, Upload& upload) {
    ++upload.receipts;
    v1::Receipt receipt;
    receipt.set_assignment(assignment);
    receipt.set_tensors_sha256(upload.sha256);
    receipt.set_accepted(true);
    return receipt;
  }

  template <typename T>
  void Answer(service::Reply<T> reply, std::type_identity_t<absl::StatusOr<T>> answer) {
    executor_.Run(
        [reply = std::move(reply), answer = std::move(answer)]() mutable { std::move(reply)(std::move(answer)); });
  }
  template <typename Condition>
  void Await(Condition condition) const {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&condition));
  }
  void Note(const std::string& call, const service::Caller& caller) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    calls_.push_back(call + ":" + caller.site);
  }

  runtime::Executor& executor_;
  mutable absl::Mutex mutex_;
  std::unique_ptr<v1::CheckInResponse> answer_;
  v1::CheckInRequest last_check_in_;
  v1::JobConfig submitted_;
  std::map<uint64_t, service::Reply<v1::CheckInResponse>> parked_;
  std::map<uint64_t, service::Reply<std::pair<uint64_t, v1::JobReport>>> watches_;
  std::map<std::string, std::shared_ptr<const runtime::Mapping>> blobs_;
  std::map<std::string, std::string> manifests_;
  std::map<std::string, Upload> uploads_;
  std::vector<std::string> calls_;
  v1::JobReport report_;
  v1::ListVersionsResponse versions_;
  uint64_t revision_ = 0, tokens_ = 0, fail_at_ = 0;
  absl::Status fail_with_;
  int cancelled_ = 0;
};

}  // namespace strata::testing

#endif  // STRATA_TESTS_TESTING_FAKE_BACKEND_H_
