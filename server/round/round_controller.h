// Decides everything about jobs, rounds and assignments: a pure function of its events and the time that comes with
// them.
#ifndef STRATA_SERVER_ROUND_ROUND_CONTROLLER_H_
#define STRATA_SERVER_ROUND_ROUND_CONTROLLER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/round/round_types.h"

namespace strata::round {

struct ControllerOptions {
  absl::Duration liveness_timeout = absl::Seconds(60);    // an assignment without a sign of life is released
  absl::Duration poll_interval = absl::Seconds(2);        // when a site that found no work asks again
  absl::Duration not_eligible_delay = absl::Seconds(60);  // when a site that fits no job asks again
  absl::Duration max_wait = absl::Minutes(5);             // no check-in is parked longer
  size_t max_parked = 4096;                               // further check-ins come back later
  uint32_t max_releases = 2;  // assignments that a site may give back in an attempt before it waits
};

// Jobs run one after another in order of submission.
// Cohort of a round: the job's named sites, or every eligible site that is parked or checks in while the round is open.
// Each site counts once a round; having reported, it waits for the next. The round's clock starts at its first
// assignment. It closes
//  - with `report_goal`: when that many reports were accepted;
//  - with named sites: when each of them was accepted or refused, and at least min_sites accepted;
//  - with all sites: when no assignment is active and at least min_sites were accepted;
//  - at the deadline with what there is, if that is at least min_sites. Else the round is tried again, up to
//  max_attempts
//    times: accepted reports are kept (they are relative to the same version), the others start anew; then the job
//    fails.
// After the last round, when the job evaluates, the sites of that round score the last version; nobody is waited for
// beyond the round's time-out, a site that is lost or does not check in for two liveness_timeouts not even that long.
//
// Determinism: same records, same events, same times and ids, same actions. Not thread-safe.
class RoundController {
 public:
  // 16 unpredictable bytes at each call.
  using IdSource = std::function<std::string()>;

  // `jobs` is what was persisted. Handle(Restarted{}) must come first.
  RoundController(ControllerOptions options, IdSource ids, std::vector<JobRecord> jobs);

  std::vector<Action> Handle(const Event& event, absl::Time now);
  // When Handle(Ticked{}) is due; InfiniteFuture: nothing waits for time.
  absl::Time NextDeadline() const;

  // What a submit of `tensors_sha256` under this assignment would meet. nullopt: send it. A receipt: that update is
  // already in. FAILED_PRECONDITION: no such assignment. PERMISSION_DENIED: another site's. ALREADY_EXISTS: another
  // update was accepted. INVALID_ARGUMENT: it was refused (with the reason of then). ABORTED: given back, or the round
  // is over.
  absl::StatusOr<std::optional<Receipt>> JudgeSubmit(const std::string& site, const std::string& assignment,
                                                     const std::string& tensors_sha256) const;

  const std::map<std::string, JobRecord>& jobs() const { return jobs_; }
  const JobRecord* FindJob(const std::string& id) const;
  const AssignmentRecord* FindAssignment(const std::string& id) const;
  // What the site works on now; null: nothing.
  const AssignmentRecord* ActiveOf(const std::string& site) const;
  bool IsParked(const std::string& site) const;
  size_t num_parked() const { return parked_.size(); }

 private:
  struct Parked {
    CheckedIn check_in;
    absl::Time since, until;
  };

  void On(const JobSubmitted& event);
  void On(const JobAborted& event);
  void On(const CheckedIn& event);
  void On(const CheckInCancelled& event);
  void On(const ProgressMade& event);
  void On(const GivenBack& event);
  void On(const Heard& event);
  void On(const UpdateStored& event);
  void On(const UpdateRefused& event);
  void On(const Evaluated& event);
  void On(const Aggregated& event);
  void On(const AggregationFailed& event);
  void On(const Restarted& event);
  void On(const Ticked& event);

  JobRecord* Running();
  const JobRecord* Running() const;
  AssignmentRecord* Find(const std::string& id);
  bool InPlay(const JobRecord& job, const AssignmentRecord& record) const;
  // The newest assignment of a site in the current stage.
  AssignmentRecord* Latest(const std::string& site);
  // OK: the site may go on with it (a lost one is taken up again).
  absl::Status TouchActive(const std::string& site, const std::string& id);

  bool Serve(const CheckedIn& check_in);
  void Park(const CheckedIn& check_in);
  void ServeParked();
  std::vector<Mismatch> MismatchesOf(const CheckedIn& check_in, bool& fits_any) const;
  void Assign(JobRecord& job, const CheckedIn& check_in, const ModelOffer& offer);
  uint32_t CountReleases(const std::string& site) const;

  void StartNext();
  void OpenRound(JobRecord& job, uint32_t round, uint32_t attempt);
  void MaybeClose(bool at_deadline);
  void CloseTraining(JobRecord& job);
  bool TrainingComplete(const JobRecord& job, bool& hopeless) const;
  bool EvaluationComplete(const JobRecord& job) const;
  void Retry(JobRecord& job, const std::string& why, bool keep_reports);
  std::string Shortfall(const JobRecord& job) const;
  void OpenEvaluation(JobRecord& job);
  void End(JobRecord& job, JobState state, const std::string& reason);
  void EndActive(JobRecord& job, const std::string& reason);
  void RebuildInPlay();
  void LoseSilent();
  void ExpireParked();
  absl::Time Deadline(const JobRecord& job) const;
  StartAggregation AggregationOf(const JobRecord& job) const;

  void Send(uint64_t token, absl::Status status, AnswerValue value = {});
  void Save(const AssignmentRecord& record);
  void Save(const JobRecord& job);
  void Note(Fact::Kind kind, const JobRecord& job, std::string site = "", std::string detail = "");

  ControllerOptions options_;
  IdSource ids_;
  std::map<std::string, JobRecord> jobs_;
  std::map<std::string, std::string> job_of_;  // assignment -> job
  std::string running_;                        // id; empty: none
  std::vector<std::string> in_play_;           // assignments of the running job's current stage, in order of issue
  std::map<uint64_t, Parked> parked_;          // by token
  absl::Time not_before_ =
      absl::InfinitePast();  // no deadline fires before (after a restart sites need time to be heard)
  absl::Time now_;
  std::vector<Action> actions_;
};

}  // namespace strata::round

#endif  // STRATA_SERVER_ROUND_ROUND_CONTROLLER_H_
