#include "server/convert.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "common/config/convert.h"
#include "common/status/status_macros.h"
#include "common/wire/codes.h"

namespace strata::server {
namespace {

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

int64_t ToMicros(absl::Time time) { return time == absl::InfiniteFuture() ? kNever : absl::ToUnixMicros(time); }
absl::Time FromMicros(int64_t micros) {
  return micros == kNever ? absl::InfiniteFuture() : absl::FromUnixMicros(micros);
}

adapter::BaseIdentity FromProto(const v1::BaseIdentity& proto) {
  return {proto.weights(), proto.semantics(), proto.encoding()};
}

// What identifies an assignment, without what the job and the configuration say.
v1::Assignment CoreOf(const round::Assignment& assignment) {
  v1::Assignment proto;
  proto.set_id(assignment.id);
  proto.set_job(assignment.job);
  proto.set_round(assignment.round);
  proto.set_attempt(assignment.attempt);
  proto.set_task(assignment.task == round::Task::kTrain ? v1::TRAIN : v1::EVALUATE);
  proto.set_site(assignment.site);
  proto.set_model_label(assignment.model_label);
  proto.set_version(assignment.version);
  for (const round::BlobRef& blob : assignment.blobs) {
    v1::BlobRef* added = proto.add_blobs();
    added->set_sha256(blob.sha256);
    added->set_size(blob.size_bytes);
  }
  for (const round::Target& target : assignment.targets) {
    v1::Target* added = proto.add_targets();
    added->set_module(target.module);
    added->set_out(static_cast<uint32_t>(target.out));
    added->set_in(static_cast<uint32_t>(target.in));
    added->set_rank(static_cast<uint32_t>(target.rank));
    added->set_alpha(target.alpha);
    added->set_scaling(target.scaling);
  }
  proto.set_evaluate_before(assignment.evaluate);
  proto.set_evaluate_after(assignment.evaluate && assignment.task == round::Task::kTrain);
  proto.mutable_base()->set_weights(assignment.base.weights);
  proto.mutable_base()->set_semantics(assignment.base.semantics);
  proto.mutable_base()->set_encoding(assignment.base.encoding);
  return proto;
}

round::Assignment FromCore(const v1::Assignment& proto) {
  round::Assignment assignment;
  assignment.id = proto.id();
  assignment.job = proto.job();
  assignment.round = proto.round();
  assignment.attempt = proto.attempt();
  assignment.task = proto.task() == v1::EVALUATE ? round::Task::kEvaluate : round::Task::kTrain;
  assignment.site = proto.site();
  assignment.model_label = proto.model_label();
  assignment.version = proto.version();
  assignment.evaluate = proto.evaluate_before();
  for (const v1::BlobRef& blob : proto.blobs()) assignment.blobs.push_back({blob.sha256(), blob.size()});
  for (const v1::Target& target : proto.targets()) {
    assignment.targets.push_back(
        {target.module(), target.out(), target.in(), target.rank(), target.alpha(), target.scaling()});
  }
  assignment.base = FromProto(proto.base());
  return assignment;
}

std::string LowerName(const std::string& name) {
  std::string lower = name;
  std::ranges::transform(lower, lower.begin(), [](unsigned char c) { return std::tolower(c); });
  return lower;
}

}  // namespace

round::CheckedIn FromProto(const service::Caller& caller, const v1::CheckInRequest& request, uint64_t token) {
  round::CheckedIn event;
  event.token = token;
  event.site = caller.site;
  for (const v1::ModelOffer& offer : request.models()) {
    round::ModelOffer& added = event.offers.emplace_back();
    added.label = offer.label();
    added.identity = FromProto(offer.identity());
    for (const v1::ModuleShape& module : offer.modules())
      added.modules.push_back({module.name(), module.out(), module.in()});
  }
  event.data_labels.assign(request.data_labels().begin(), request.data_labels().end());
  event.rank = request.rank();
  event.alpha = request.alpha();
  event.max_rank = request.max_rank();
  constexpr uint64_t kDayMs = 24ULL * 3600 * 1000;
  event.max_wait = absl::Milliseconds(static_cast<int64_t>(std::min(request.max_wait_ms(), kDayMs)));
  event.holding = request.holding();
  return event;
}

round::Progress FromProto(const v1::ProgressRequest& request) {
  const std::string phase = v1::Phase_IsValid(request.phase()) ? v1::Phase_Name(request.phase()) : "";
  return {LowerName(phase), request.step(), request.of(), request.loss(), request.tokens_per_second()};
}

v1::Assignment ToProto(const round::Assignment& assignment, const config::JobOptions& job,
                       const AssignmentTerms& terms) {
  v1::Assignment proto = CoreOf(assignment);
  proto.set_data_label(job.data);
  *proto.mutable_training() = config::ToProto(job.training);
  proto.set_start(job.rounds.start == config::Start::kWarm ? v1::WARM : v1::FRESH);
  proto.set_seed(job.training.seed);
  proto.set_holdout(job.evaluation.holdout);
  proto.set_progress_interval_ms(static_cast<uint64_t>(absl::ToInt64Milliseconds(terms.progress_interval)));
  proto.set_max_update_bytes(terms.max_update_bytes);
  return proto;
}

v1::CheckInResponse ToProto(const round::ComeBack& come_back) {
  v1::CheckInResponse response;
  v1::ComeBack* answer = response.mutable_come_back();
  answer->set_after_ms(static_cast<uint64_t>(absl::ToInt64Milliseconds(come_back.after)));
  answer->set_reason(come_back.reason);
  answer->set_no_open_job(come_back.no_open_job);
  return response;
}

v1::CheckInResponse ToProto(const round::NotEligible& not_eligible) {
  v1::CheckInResponse response;
  v1::NotEligible* answer = response.mutable_not_eligible();
  answer->set_after_ms(static_cast<uint64_t>(absl::ToInt64Milliseconds(not_eligible.after)));
  for (const round::Mismatch& mismatch : not_eligible.reasons) {
    v1::NotEligible::Reason* reason = answer->add_reasons();
    reason->set_job(mismatch.job);
    reason->set_what(mismatch.what);
    reason->set_expected(mismatch.expected);
    reason->set_found(mismatch.found);
  }
  return response;
}

v1::Receipt ToProto(const round::Receipt& receipt) {
  v1::Receipt proto;
  proto.set_assignment(receipt.assignment);
  proto.set_tensors_sha256(receipt.tensors_sha256);
  proto.set_accepted(true);
  return proto;
}

v1::JobState ToProto(round::JobState state) {
  switch (state) {
    case round::JobState::kQueued:
      return v1::QUEUED;
    case round::JobState::kRunning:
      return v1::RUNNING;
    case round::JobState::kDone:
      return v1::DONE;
    case round::JobState::kFailed:
      return v1::FAILED;
    case round::JobState::kAborted:
      return v1::ABORTED;
  }
  return v1::JOB_STATE_UNSPECIFIED;
}

v1::JobSummary SummaryOf(const round::JobRecord& job) {
  v1::JobSummary summary;
  summary.set_id(job.id);
  summary.set_name(job.options.name);
  summary.set_state(ToProto(job.state));
  summary.set_round(job.round);
  summary.set_rounds(job.options.rounds.count);
  summary.set_version(job.version);
  summary.set_reason(job.reason);
  summary.set_created_unix_ms(absl::ToUnixMillis(job.created));
  return summary;
}

std::string_view NameOf(round::AssignmentState state, const round::AssignmentRecord& record) {
  switch (state) {
    case round::AssignmentState::kActive:
      return record.progress.phase.empty() ? "assigned" : "training";
    case round::AssignmentState::kAccepted:
      return "accepted";
    case round::AssignmentState::kRefused:
      return "refused";
    default:
      return "released";
  }
}

absl::Status RetryAfter(absl::Status status, absl::Duration delay) {
  status.SetPayload(wire::kRetryAfterPayload, absl::Cord(absl::StrCat(absl::ToInt64Milliseconds(delay))));
  return status;
}

store::JobRow ToRow(const round::JobRecord& job) {
  store::JobRow row;
  row.id = job.id;
  row.sequence = job.sequence;
  row.state = static_cast<int>(job.state);
  row.reason = job.reason;
  row.created = ToMicros(job.created);
  row.round = job.round;
  row.attempt = job.attempt;
  row.stage = static_cast<int>(job.stage);
  row.version = job.version;
  row.opened = ToMicros(job.opened);
  row.config = config::ToProto(job.options).SerializeAsString();
  return row;
}

store::AssignmentRow ToRow(const round::AssignmentRecord& record, uint64_t bytes_down) {
  const round::Assignment& assignment = record.assignment;
  store::AssignmentRow row;
  row.id = assignment.id;
  row.job = assignment.job;
  row.round = assignment.round;
  row.attempt = assignment.attempt;
  row.site = assignment.site;
  row.task = static_cast<int>(assignment.task);
  row.state = static_cast<int>(record.state);
  row.reason = record.reason;
  row.issued = ToMicros(record.issued);
  row.assignment = CoreOf(assignment).SerializeAsString();
  v1::SiteRound report;
  report.set_rank(record.rank);
  report.set_num_examples(record.report.num_examples);
  report.set_bytes_up(record.report.tensors_bytes);
  report.set_bytes_down(bytes_down);
  report.set_update_sha256(record.report.tensors_sha256);
  for (const adapter::Metric& metric : record.report.metrics) {
    v1::Metric* added = report.add_metrics();
    added->set_name(metric.name);
    added->set_value(metric.value);
  }
  row.report = report.SerializeAsString();
  return row;
}

absl::StatusOr<round::JobRecord> FromRow(const store::JobRow& row) {
  v1::JobConfig proto;
  if (!proto.ParseFromString(row.config)) {
    return absl::DataLossError(absl::StrCat("database: job ", row.id, " has a configuration that is no JobConfig"));
  }
  absl::StatusOr<config::JobOptions> options = config::FromProto(proto);
  if (!options.ok()) return Annotate(options.status(), absl::StrCat("database: job ", row.id));
  round::JobRecord job;
  job.id = row.id;
  job.sequence = row.sequence;
  job.options = *std::move(options);
  job.state = static_cast<round::JobState>(row.state);
  job.reason = row.reason;
  job.created = FromMicros(row.created);
  job.round = row.round;
  job.attempt = row.attempt;
  job.stage = static_cast<round::Stage>(row.stage);
  job.version = row.version;
  job.opened = FromMicros(row.opened);
  return job;
}

absl::StatusOr<round::AssignmentRecord> FromRow(const store::AssignmentRow& row) {
  v1::Assignment assignment;
  v1::SiteRound report;
  if (!assignment.ParseFromString(row.assignment) || !report.ParseFromString(row.report)) {
    return absl::DataLossError(absl::StrCat("database: an assignment of job ", row.job, " is unreadable"));
  }
  round::AssignmentRecord record;
  record.assignment = FromCore(assignment);
  record.state = static_cast<round::AssignmentState>(row.state);
  record.reason = row.reason;
  record.issued = FromMicros(row.issued);
  record.rank = report.rank();
  record.report = {report.update_sha256(), report.bytes_up(), report.num_examples(), {}};
  for (const v1::Metric& metric : report.metrics()) record.report.metrics.push_back({metric.name(), metric.value()});
  return record;
}

uint64_t BytesDownOf(const store::AssignmentRow& row) {
  v1::SiteRound report;
  return report.ParseFromString(row.report) ? report.bytes_down() : 0;
}

}  // namespace strata::server
