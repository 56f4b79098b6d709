#include "client/link/convert.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/config/convert.h"
#include "common/status/status_macros.h"
#include "common/wire/version.h"

namespace strata::link {
namespace {

constexpr uint64_t kMaxDelayMs = 24ULL * 3600 * 1000;
constexpr uint32_t kMaxDimension = 1U << 30;
constexpr uint32_t kMaxRank = 1U << 16;

absl::Status Broken(const std::string& what) {
  return absl::InternalError(absl::StrCat("the server's answer breaks the protocol: ", what));
}

absl::Status CheckBytes(const char* what, const std::string& value, size_t expected) {
  if (value.size() == expected) return absl::OkStatus();
  return Broken(absl::StrCat("`", what, "` has ", value.size(), " bytes, expected ", expected));
}

absl::Duration Delay(uint64_t ms) { return absl::Milliseconds(std::min(ms, kMaxDelayMs)); }

absl::StatusOr<adapter::BaseIdentity> Identity(const v1::BaseIdentity& proto) {
  STRATA_RETURN_IF_ERROR(CheckBytes("base.weights", proto.weights(), wire::kDigestBytes));
  STRATA_RETURN_IF_ERROR(CheckBytes("base.semantics", proto.semantics(), wire::kDigestBytes));
  return adapter::BaseIdentity{
      .weights = proto.weights(), .semantics = proto.semantics(), .encoding = proto.encoding()};
}

absl::StatusOr<std::vector<BlobRef>> Blobs(const v1::Assignment& proto) {
  std::vector<BlobRef> blobs;
  for (const v1::BlobRef& blob : proto.blobs()) {
    STRATA_RETURN_IF_ERROR(CheckBytes("blobs.sha256", blob.sha256(), wire::kDigestBytes));
    if (blob.size() == 0) return Broken("a blob without bytes");
    blobs.push_back({.sha256 = blob.sha256(), .size = blob.size()});
  }
  if (proto.version() > 0 && blobs.empty()) return Broken(absl::StrCat("version ", proto.version(), " without blobs"));
  return blobs;
}

absl::StatusOr<std::vector<train::Target>> Targets(const v1::Assignment& proto) {
  std::vector<train::Target> targets;
  std::set<std::string> names;
  for (const v1::Target& target : proto.targets()) {
    const std::string at = absl::StrCat("target `", target.module(), "`");
    if (target.module().empty() || !names.insert(target.module()).second) {
      return Broken(absl::StrCat(at, " has no name or comes twice"));
    }
    const auto dimension = [](uint32_t n) { return n > 0 && n <= kMaxDimension; };
    if (!dimension(target.out()) || !dimension(target.in())) {
      return Broken(absl::StrCat(at, " has shape [", target.out(), ", ", target.in(), "]"));
    }
    if (target.rank() == 0 || target.rank() > kMaxRank) return Broken(absl::StrCat(at, " has rank ", target.rank()));
    if (!std::isfinite(target.alpha()) || !std::isfinite(target.scaling())) {
      return Broken(absl::StrCat(at, " has a scaling that is no number"));
    }
    targets.push_back({.module = target.module(),
                       .out = target.out(),
                       .in = target.in(),
                       .rank = target.rank(),
                       .alpha = target.alpha(),
                       .scaling = target.scaling()});
  }
  if (proto.task() == v1::TRAIN && targets.empty()) return Broken("nothing to train: no targets");
  return targets;
}

absl::Status CheckScalars(const v1::Assignment& proto) {
  STRATA_RETURN_IF_ERROR(CheckBytes("id", proto.id(), wire::kAssignmentIdBytes));
  if (proto.task() != v1::TRAIN && proto.task() != v1::EVALUATE) {
    return Broken(
        absl::StrCat("task ", static_cast<int>(proto.task()), " is unknown; is the server newer than this client?"));
  }
  if (proto.job().empty() || proto.site().empty()) return Broken("an assignment without job or site");
  if (proto.round() == 0) return Broken("rounds count from 1, this one is 0");
  if (!(proto.holdout() >= 0 && proto.holdout() < 1)) return Broken("`holdout` is not in [0, 1)");
  if (proto.progress_interval_ms() == 0) return Broken("`progress_interval_ms` is 0");
  return absl::OkStatus();
}

absl::StatusOr<Assignment> FromProto(const v1::Assignment& proto) {
  STRATA_RETURN_IF_ERROR(CheckScalars(proto));
  Assignment assignment;
  STRATA_ASSIGN_OR_RETURN(assignment.blobs, Blobs(proto));
  STRATA_ASSIGN_OR_RETURN(assignment.targets, Targets(proto));
  STRATA_ASSIGN_OR_RETURN(assignment.base, Identity(proto.base()));
  absl::StatusOr<config::TrainOptions> training = config::FromProto(proto.training());
  if (!training.ok()) return Broken(absl::StrCat("`training`: ", training.status().message()));
  assignment.training = *std::move(training);
  assignment.id = proto.id();
  assignment.job = proto.job();
  assignment.site = proto.site();
  assignment.model_label = proto.model_label();
  assignment.data_label = proto.data_label();
  assignment.round = proto.round();
  assignment.attempt = proto.attempt();
  assignment.version = proto.version();
  assignment.train = proto.task() == v1::TRAIN;
  assignment.start = proto.start() == v1::WARM ? config::Start::kWarm : config::Start::kFresh;
  assignment.seed = proto.seed();
  assignment.holdout = proto.holdout();
  assignment.evaluate_before = proto.evaluate_before();
  assignment.evaluate_after = proto.evaluate_after();
  assignment.progress_interval = Delay(proto.progress_interval_ms());
  assignment.max_update_bytes = proto.max_update_bytes();
  return assignment;
}

ComeBack FromProto(const v1::NotEligible& proto) {
  ComeBack answer{
      .after = Delay(proto.after_ms()), .reason = "not eligible", .not_eligible = true, .no_open_job = false};
  std::string separator = ": ";
  for (const auto& reason : proto.reasons()) {
    absl::StrAppend(&answer.reason, separator, "job ", reason.job(), " expects ", reason.what(), " ", reason.expected(),
                    ", found ", reason.found());
    separator = "; ";
  }
  return answer;
}

}  // namespace

v1::CheckInRequest ToProto(const struct CheckIn& request, const std::string& software) {
  v1::CheckInRequest proto;
  proto.mutable_protocol()->set_major(wire::kProtocolMajor);
  proto.mutable_protocol()->set_minor(wire::kProtocolMinor);
  proto.set_software(software);
  for (const ModelOffer& offer : request.models) {
    v1::ModelOffer* model = proto.add_models();
    model->set_label(offer.label);
    model->mutable_identity()->set_weights(offer.identity.weights);
    model->mutable_identity()->set_semantics(offer.identity.semantics);
    model->mutable_identity()->set_encoding(offer.identity.encoding);
    for (const config::ModuleShape& shape : offer.modules) {
      v1::ModuleShape* module = model->add_modules();
      module->set_name(shape.name);
      module->set_out(static_cast<uint32_t>(shape.out));
      module->set_in(static_cast<uint32_t>(shape.in));
    }
  }
  for (const std::string& label : request.data_labels) proto.add_data_labels(label);
  proto.set_rank(request.rank);
  proto.set_alpha(request.alpha);
  proto.set_max_rank(request.max_rank);
  proto.set_max_wait_ms(static_cast<uint64_t>(std::max<int64_t>(0, absl::ToInt64Milliseconds(request.max_wait))));
  proto.set_loopback_name(request.loopback_name);
  proto.set_holding(request.holding);
  return proto;
}

absl::StatusOr<CheckInAnswer> FromProto(const v1::CheckInResponse& response) {
  switch (response.answer_case()) {
    case v1::CheckInResponse::kAssignment: {
      STRATA_ASSIGN_OR_RETURN(Assignment assignment, FromProto(response.assignment()));
      return CheckInAnswer(std::move(assignment));
    }
    case v1::CheckInResponse::kComeBack: {
      const v1::ComeBack& proto = response.come_back();
      return CheckInAnswer(ComeBack{.after = Delay(proto.after_ms()),
                                    .reason = proto.reason(),
                                    .not_eligible = false,
                                    .no_open_job = proto.no_open_job()});
    }
    case v1::CheckInResponse::kNotEligible:
      return CheckInAnswer(FromProto(response.not_eligible()));
    default:
      return Broken("a check-in was answered with nothing known; is the server newer than this client?");
  }
}

absl::StatusOr<Receipt> FromProto(const v1::Receipt& receipt, const std::string& assignment) {
  if (receipt.assignment() != assignment) return Broken("the receipt is for another assignment");
  if (!receipt.accepted()) return absl::InvalidArgumentError(absl::StrCat("the server refused: ", receipt.note()));
  return Receipt{
      .assignment = receipt.assignment(), .tensors_sha256 = receipt.tensors_sha256(), .note = receipt.note()};
}

v1::ProgressRequest ToProto(const Progress& progress) {
  v1::ProgressRequest proto;
  proto.set_assignment(progress.assignment);
  proto.set_phase(v1::Phase_IsValid(progress.phase) ? static_cast<v1::Phase>(progress.phase) : v1::PHASE_UNSPECIFIED);
  proto.set_step(progress.training.step);
  proto.set_of(progress.training.of);
  proto.set_loss(progress.training.loss);
  proto.set_tokens_per_second(progress.training.tokens_per_second);
  return proto;
}

absl::StatusOr<ProgressAnswer> FromProto(const v1::ProgressResponse& response) {
  switch (response.answer_case()) {
    case v1::ProgressResponse::kCarryOn:
      return ProgressAnswer{.stop = false, .reason = ""};
    case v1::ProgressResponse::kStop:
      return ProgressAnswer{.stop = true, .reason = response.stop()};
    default:
      return Broken("progress was answered with nothing known");
  }
}

}  // namespace strata::link
