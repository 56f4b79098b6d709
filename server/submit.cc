// Updates on their way in: announced, received, checked, accepted.
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/secure/digest.h"
#include "common/status/status_macros.h"
#include "server/admission.h"
#include "server/convert.h"
#include "server/server_core.h"

namespace strata::server {
namespace {

constexpr uint64_t kSyncEveryBytes = 8ULL << 20;
constexpr uint64_t kHeardEveryBytes = 1ULL << 20;

// One stream of chunks into an upload's file.
class UploadStream final : public service::UploadSink {
 public:
  struct Where {
    std::string site, assignment;
    uint64_t size = 0, offset = 0, generation = 0;
    std::shared_ptr<const std::atomic<uint64_t>> newest;
  };

  UploadStream(std::weak_ptr<ServerCore> core, Where where, std::unique_ptr<runtime::File> file)
      : core_(std::move(core)), where_(std::move(where)), file_(std::move(file)), synced_(where_.offset) {}

  ~UploadStream() override {
    const std::shared_ptr<ServerCore> core = core_.lock();
    if (file_ == nullptr || core == nullptr || where_.offset == synced_) return;
    core->RunOff([where = where_, file = std::shared_ptr<runtime::File>(std::move(file_))](ServerCore& core) {
      if (!file->Sync().ok()) return;
      core.Post([where](ServerCore& core) { core.RecordDurable(where.assignment, where.generation, where.offset); });
    });
  }

  uint64_t expected_offset() const override { return where_.offset; }

  absl::Status WriteChunk(std::string_view data) override {
    if (where_.newest->load() != where_.generation) {
      return absl::AbortedError("a newer stream of the same update took this one's place");
    }
    if (data.size() > where_.size - where_.offset) {
      return absl::InvalidArgumentError(absl::StrCat("more bytes than the ", where_.size, " that were announced"));
    }
    STRATA_RETURN_IF_ERROR(file_->WriteAt(where_.offset, std::as_bytes(std::span(data.data(), data.size()))));
    where_.offset += data.size();
    const std::shared_ptr<ServerCore> core = core_.lock();
    if (core == nullptr) return absl::UnavailableError("the server is shutting down; try again later");
    if (where_.offset - heard_ >= kHeardEveryBytes) {
      heard_ = where_.offset;
      core->Post([where = where_](ServerCore& core) { core.Handle(round::Heard{where.site, where.assignment}); });
    }
    if (where_.offset - synced_ < kSyncEveryBytes) return absl::OkStatus();
    STRATA_RETURN_IF_ERROR(file_->Sync());
    synced_ = where_.offset;
    core->Post(
        [where = where_](ServerCore& core) { core.RecordDurable(where.assignment, where.generation, where.offset); });
    return absl::OkStatus();
  }

  void Finish(Reply<v1::Receipt> reply) override {
    const std::shared_ptr<ServerCore> core = core_.lock();
    if (core == nullptr)
      return std::move(reply)(absl::UnavailableError("the server is shutting down; try again later"));
    if (where_.offset < where_.size) {
      return std::move(reply)(absl::UnavailableError(
          absl::StrCat("the stream ended after ", where_.offset, " of ", where_.size, " bytes; send the rest")));
    }
    if (const absl::Status synced = file_->Sync(); !synced.ok()) return std::move(reply)(synced);
    file_.reset();
    core->Post([where = where_, reply = std::move(reply)](ServerCore& core) mutable {
      core.FinishUpload(where.assignment, where.generation, std::move(reply));
    });
  }

 private:
  const std::weak_ptr<ServerCore> core_;
  Where where_;
  std::unique_ptr<runtime::File> file_;
  uint64_t synced_;
  uint64_t heard_ = 0;
};

absl::Status Busy() {
  return RetryAfter(absl::UnavailableError("this update is being written or checked; ask again in a moment"),
                    absl::Seconds(1));
}

}  // namespace

void ServerCore::BeginSubmit(const Caller& caller, const v1::BeginSubmitRequest& request,
                             const absl::StatusOr<adapter::Manifest>& manifest, Reply<v1::BeginSubmitResponse> reply) {
  const std::string& id = request.assignment();
  auto verdict = controller_->JudgeSubmit(caller.site, id, manifest.ok() ? manifest->tensors_sha256 : "");
  if (!verdict.ok()) return std::move(reply)(verdict.status());
  if (verdict->has_value()) {
    // The receipt may only now become durable.
    Hold([receipt = **verdict, reply = std::move(reply)](const absl::Status& stored) mutable {
      if (!stored.ok()) return std::move(reply)(stored);
      v1::BeginSubmitResponse response;
      *response.mutable_receipt() = ToProto(receipt);
      std::move(reply)(std::move(response));
    });
    return Flush();
  }
  Handle(round::Heard{caller.site, id});
  const round::AssignmentRecord& record = *controller_->FindAssignment(id);
  if (record.assignment.task != round::Task::kTrain) {
    return std::move(reply)(absl::FailedPreconditionError("this assignment asks for an evaluation, not for an update"));
  }
  const absl::Status fits = manifest.ok()
                                ? CheckManifest(*manifest, record, controller_->FindJob(record.assignment.job)->options,
                                                options_.max_update_bytes)
                                : manifest.status();
  if (absl::IsFailedPrecondition(fits)) return std::move(reply)(fits);
  if (!fits.ok()) {
    Hold([fits, reply = std::move(reply)](const absl::Status&) mutable { std::move(reply)(fits); });
    return RefuseUpdate(caller, id, fits);
  }
  const auto known = uploads_.find(id);
  if (known != uploads_.end() && known->second.busy) return std::move(reply)(Busy());
  Upload upload;
  upload.row = {id,
                manifest->tensors_sha256,
                manifest->tensors_bytes,
                0,
                request.manifest().manifest(),
                request.manifest().signature(),
                request.manifest().key_id()};
  upload.manifest = *manifest;
  if (known == uploads_.end() || known->second.row.sha256 != upload.row.sha256 ||
      known->second.row.size != upload.row.size) {
    return AnnounceUpload(id, std::move(upload), std::move(reply));
  }
  upload.row.durable = known->second.row.durable;
  known->second.row = upload.row;
  known->second.manifest = upload.manifest;
  Save(absl::StrCat("upload/", id), upload.row);
  Hold([offset = upload.row.durable, reply = std::move(reply)](const absl::Status& stored) mutable {
    if (!stored.ok()) return std::move(reply)(stored);
    v1::BeginSubmitResponse response;
    response.set_offset(offset);
    std::move(reply)(std::move(response));
  });
  Flush();
}

void ServerCore::AnnounceUpload(const std::string& assignment, Upload upload, Reply<v1::BeginSubmitResponse> reply) {
  Upload& kept = uploads_[assignment];
  upload.generation = kept.generation;
  upload.generation->fetch_add(1);
  upload.busy = true;
  kept = std::move(upload);
  RunOff([assignment, size = kept.row.size, reply = std::move(reply)](ServerCore& core) mutable {
    const absl::Status made = core.blobs().OpenUpload(assignment, size, /*fresh=*/true).status();
    core.Post([assignment, made, reply = std::move(reply)](ServerCore& core) mutable {
      const auto found = core.uploads_.find(assignment);
      if (found == core.uploads_.end())
        return std::move(reply)(absl::AbortedError("the round went on; check in again"));
      found->second.busy = false;
      if (!made.ok()) {
        core.ForgetUpload(assignment, false);
        std::move(reply)(made);
        return core.Flush();
      }
      core.Save(absl::StrCat("upload/", assignment), found->second.row);
      core.Hold([reply = std::move(reply)](const absl::Status& stored) mutable {
        if (!stored.ok()) return std::move(reply)(stored);
        v1::BeginSubmitResponse response;
        response.set_offset(0);
        std::move(reply)(std::move(response));
      });
      core.Flush();
    });
  });
}

void ServerCore::RefuseUpdate(const Caller& caller, const std::string& assignment, const absl::Status& why) {
  Handle(round::UpdateRefused{caller.site, assignment, std::string(why.message())});
}

void ServerCore::ForgetUpload(const std::string& assignment, bool remove_file) {
  const auto found = uploads_.find(assignment);
  if (found == uploads_.end()) return;
  found->second.generation->fetch_add(1);
  uploads_.erase(found);
  Save(absl::StrCat("upload/", assignment), store::UploadGone{assignment});
  if (remove_file) RunOff([assignment](ServerCore& core) { core.blobs().RemoveUpload(assignment); });
}

void ServerCore::OpenUpload(const Caller& caller, const std::string& assignment,
                            Reply<std::unique_ptr<service::UploadSink>> reply) {
  const auto found = uploads_.find(assignment);
  const std::string sha256 = found == uploads_.end() ? "" : found->second.row.sha256;
  const auto verdict = controller_->JudgeSubmit(caller.site, assignment, sha256);
  if (!verdict.ok()) return std::move(reply)(verdict.status());
  if (verdict->has_value() || found == uploads_.end()) {
    return std::move(reply)(
        absl::FailedPreconditionError("no update is announced under this assignment; call BeginSubmit first"));
  }
  if (found->second.busy) return std::move(reply)(Busy());
  UploadStream::Where where{
      caller.site, assignment, found->second.row.size, found->second.row.durable, 0, found->second.generation};
  where.generation = found->second.generation->fetch_add(1) + 1;
  RunOff([where = std::move(where), reply = std::move(reply)](ServerCore& core) mutable {
    absl::StatusOr<std::unique_ptr<runtime::File>> file =
        core.blobs().OpenUpload(where.assignment, where.size, /*fresh=*/false);
    if (!file.ok()) return std::move(reply)(file.status());
    std::move(reply)(std::make_unique<UploadStream>(core.weak_from_this(), std::move(where), *std::move(file)));
  });
}

void ServerCore::RecordDurable(const std::string& assignment, uint64_t generation, uint64_t durable) {
  const auto found = uploads_.find(assignment);
  if (found == uploads_.end() || found->second.generation->load() != generation) return;
  found->second.row.durable = durable;
  Save(absl::StrCat("upload/", assignment), found->second.row);
  Flush();
}

void ServerCore::FinishUpload(const std::string& assignment, uint64_t generation, Reply<v1::Receipt> reply) {
  const auto found = uploads_.find(assignment);
  const round::AssignmentRecord* record = controller_->FindAssignment(assignment);
  if (found == uploads_.end() || record == nullptr || found->second.generation->load() != generation) {
    const auto verdict = record == nullptr ? absl::StatusOr<std::optional<round::Receipt>>(std::nullopt)
                                           : controller_->JudgeSubmit(record->assignment.site, assignment, "");
    return std::move(reply)(verdict.ok() ? absl::AbortedError("another stream of this update took this one's place")
                                         : verdict.status());
  }
  Upload& upload = found->second;
  upload.busy = true;
  upload.row.durable = upload.row.size;
  Save(absl::StrCat("upload/", assignment), upload.row);
  RunOff([assignment, manifest = upload.manifest, record = *record,
          job = controller_->FindJob(record->assignment.job)->options,
          reply = std::move(reply)](ServerCore& core) mutable {
    const absl::Status checked = [&]() -> absl::Status {
      STRATA_ASSIGN_OR_RETURN(const std::shared_ptr<const runtime::Mapping> mapping,
                              core.blobs().MapUpload(assignment));
      if (mapping->bytes().size() != manifest.tensors_bytes) {
        return absl::DataLossError(absl::StrCat("the upload's file has ", mapping->bytes().size(), " bytes, expected ",
                                                manifest.tensors_bytes, "; announce and send again"));
      }
      STRATA_RETURN_IF_ERROR(CheckUpdate(mapping->bytes(), manifest, record, job));
      return core.blobs().Publish(assignment, manifest.tensors_sha256);
    }();
    const Caller caller{record.assignment.site, false};
    core.Post([caller, assignment, checked, reply = std::move(reply)](ServerCore& core) mutable {
      core.Admitted(caller, assignment, checked, std::move(reply));
    });
  });
  Flush();
}

void ServerCore::Admitted(const Caller& caller, const std::string& assignment, const absl::Status& status,
                          Reply<v1::Receipt> reply) {
  const auto found = uploads_.find(assignment);
  if (found == uploads_.end()) return std::move(reply)(absl::AbortedError("the round went on; check in again"));
  found->second.busy = false;
  if (absl::IsInvalidArgument(status)) {
    Hold([status, reply = std::move(reply)](const absl::Status&) mutable { std::move(reply)(status); });
    RefuseUpdate(caller, assignment, status);
    ForgetUpload(assignment, true);
    return Flush();
  }
  if (absl::IsDataLoss(status) || absl::IsNotFound(status)) {
    ForgetUpload(assignment, false);
    std::move(reply)(absl::DataLossError(status.message()));
    return Flush();
  }
  if (!status.ok()) return std::move(reply)(status);
  const store::UploadRow row = found->second.row;
  const auto verdict = controller_->JudgeSubmit(caller.site, assignment, row.sha256);
  ForgetUpload(assignment, false);
  if (!verdict.ok()) {
    std::move(reply)(verdict.status());
    return Flush();
  }
  const round::AssignmentRecord& record = *controller_->FindAssignment(assignment);
  update_blobs_.insert(row.sha256);
  Save(absl::StrCat("update/", assignment), store::UpdateRow{assignment, record.assignment.job, row.sha256, row.size,
                                                             row.manifest, row.signature, row.key_id});
  absl::StatusOr<adapter::Manifest> manifest = adapter::ParseManifest(row.manifest);
  round::Report report{row.sha256, row.size, 0, {}};
  if (manifest.ok()) {
    report.num_examples = manifest->num_examples;
    report.metrics = std::move(manifest->metrics);
  }
  const uint64_t token = NewToken();
  Handle(round::UpdateStored{token, caller.site, assignment, std::move(report)}, token,
         [reply = std::move(reply)](const round::Answer& answer) mutable {
           if (!answer.status.ok()) return std::move(reply)(answer.status);
           std::move(reply)(ToProto(std::get<round::Receipt>(answer.value)));
         });
}

}  // namespace strata::server
