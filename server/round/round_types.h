// The nouns of a job: what the controller remembers, what it is told (events) and what it asks for (actions). Plain
// values; the ones marked "persisted" are the rows that the controller is rebuilt from.
#ifndef STRATA_SERVER_ROUND_ROUND_TYPES_H_
#define STRATA_SERVER_ROUND_ROUND_TYPES_H_

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/adapter/manifest.h"
#include "common/config/options.h"

namespace strata::round {

struct BlobRef {
  std::string sha256;  // 32 bytes
  uint64_t size_bytes = 0;
  bool operator==(const BlobRef&) const = default;
};

// A base model that a site holds.
struct ModelOffer {
  std::string label;  // the site's own name for it
  adapter::BaseIdentity identity;
  std::vector<config::ModuleShape> modules;
};

// A module that a site is to adapt.
struct Target {
  std::string module;
  int64_t out = 0, in = 0, rank = 0;
  double alpha = 0, scaling = 1;
};

enum class Task { kTrain, kEvaluate };

// What one site is asked to do. Training options, start and hold-out are the job's.
struct Assignment {
  std::string id;  // 16 bytes
  std::string job, site, model_label;
  uint32_t round = 0, attempt = 0;
  uint32_t version = 0;  // C_version is what it starts from
  Task task = Task::kTrain;
  bool evaluate = false;  // score C_version, and C_version + own update, on the held-out rows
  std::vector<BlobRef> blobs;
  std::vector<Target> targets;
  adapter::BaseIdentity base;
};

enum class AssignmentState {
  kActive,
  kAccepted,  // its report is durable and counts
  kRefused,   // its report was refused for what it was; final for the round's attempt
  kReleased,  // the site gave it back
  kLost,      // no progress for liveness_timeout; taken up again when the site is heard of in time
  kOver,      // the round went on without it
};

// What a site reported.
struct Report {
  std::string tensors_sha256;  // of an update's tensor file
  uint64_t tensors_bytes = 0;
  uint64_t num_examples = 0;
  std::vector<adapter::Metric> metrics;
};

struct Progress {
  std::string phase;
  uint32_t step = 0, of = 0;
  double loss = 0, tokens_per_second = 0;
};

// Persisted, but for `progress` and `heard`.
struct AssignmentRecord {
  Assignment assignment;  // blobs and targets are dropped from memory when the round is over
  AssignmentState state = AssignmentState::kActive;
  std::string reason;
  absl::Time issued;
  uint32_t rank = 0;  // largest of the targets
  Report report;
  Progress progress;
  absl::Time heard;
};

enum class JobState { kQueued, kRunning, kDone, kFailed, kAborted };
enum class Stage { kTraining, kAggregating, kEvaluating };

// Persisted.
struct JobRecord {
  std::string id;
  uint64_t sequence = 0;  // order of submission
  config::JobOptions options;
  JobState state = JobState::kQueued;
  std::string reason;  // why it failed, was aborted, or what it waits for
  absl::Time created;
  uint32_t round = 0, attempt = 0;  // from 1
  Stage stage = Stage::kTraining;
  uint32_t version = 0;
  std::vector<BlobRef> blobs;                           // of `version`, oldest first
  absl::Time opened = absl::InfiniteFuture();           // the round's first assignment; the evaluation's begin
  std::map<std::string, AssignmentRecord> assignments;  // by id, of all rounds
};

// ---- Events. `token` comes back in the answer. ----
struct JobSubmitted {
  std::string id;
  config::JobOptions options;
};
struct JobAborted {
  uint64_t token = 0;
  std::string id, reason;
};
struct CheckedIn {
  uint64_t token = 0;
  std::string site;
  std::vector<ModelOffer> offers;
  std::vector<std::string> data_labels;
  uint32_t rank = 0;      // 0: the job's
  double alpha = 0;       // with rank; 0: the job's
  uint32_t max_rank = 0;  // 0: no cap
  absl::Duration max_wait;
  std::string holding;  // an assignment that the site still works on; empty: none
};
struct CheckInCancelled {
  uint64_t token = 0;
};
struct ProgressMade {
  uint64_t token = 0;
  std::string site, assignment;
  Progress progress;
};
struct GivenBack {
  uint64_t token = 0;
  std::string site, assignment, reason;
};
// Bytes of an announced update arrive: the site is alive. No answer.
struct Heard {
  std::string site, assignment;
};
// The update passed its checks and its bytes are durable.
struct UpdateStored {
  uint64_t token = 0;
  std::string site, assignment;
  Report report;
};
// The update failed its checks. No answer: the caller has the reason.
struct UpdateRefused {
  std::string site, assignment, reason;
};
struct Evaluated {
  uint64_t token = 0;
  std::string site, assignment;
  std::vector<adapter::Metric> metrics;
};
struct Aggregated {
  std::string job;
  uint32_t round = 0, attempt = 0;
  std::vector<BlobRef> blobs;  // the new version's whole list
};
struct AggregationFailed {
  std::string job;
  uint32_t round = 0, attempt = 0;
  std::string reason;
};
struct Restarted {};  // the first event after construction
struct Ticked {};     // time has passed
using Event = std::variant<JobSubmitted, JobAborted, CheckedIn, CheckInCancelled, ProgressMade, GivenBack, Heard,
                           UpdateStored, UpdateRefused, Evaluated, Aggregated, AggregationFailed, Restarted, Ticked>;

// ---- Actions ----
struct ComeBack {
  absl::Duration after;
  std::string reason;
  bool no_open_job = false;
};
struct Mismatch {
  std::string job, what, expected, found;
};
struct NotEligible {
  absl::Duration after;
  std::vector<Mismatch> reasons;
};
struct ProgressAnswer {
  bool stop = false;
  std::string reason;
};
struct Receipt {
  std::string assignment, tensors_sha256;
};
using AnswerValue = std::variant<std::monostate, Assignment, ComeBack, NotEligible, ProgressAnswer, Receipt>;
// To be sent when everything saved so far is durable.
struct Answer {
  uint64_t token = 0;
  absl::Status status;
  AnswerValue value;
};
struct SaveJob {
  std::string job;
};
struct SaveAssignment {
  std::string job, assignment;
};
struct Member {
  std::string site, assignment, tensors_sha256;
  uint64_t num_examples = 0;
};
// Add up; answered by Aggregated or AggregationFailed. Repeated after a restart.
struct StartAggregation {
  std::string job;
  uint32_t round = 0, attempt = 0, version = 0;  // parent version
  std::vector<BlobRef> blobs;                    // of the parent
  std::vector<Member> members;                   // by site
};
// Something that happened, for log and reports.
struct Fact {
  enum class Kind {
    kJobQueued,
    kJobStarted,
    kJobEnded,
    kRoundOpened,
    kRoundClosed,  // aggregating
    kRoundRetried,
    kRoundCommitted,
    kEvaluationOpened,
    kAssigned,
    kReleased,
    kLost,
    kAccepted,
    kRefused,
  };
  Kind kind = Kind::kJobQueued;
  std::string job;
  uint32_t round = 0, attempt = 0;
  std::string site, detail;
};
using Action = std::variant<Answer, SaveJob, SaveAssignment, StartAggregation, Fact>;

}  // namespace strata::round

#endif  // STRATA_SERVER_ROUND_ROUND_TYPES_H_
