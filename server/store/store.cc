#include "server/store/store.h"

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/secure/digest.h"
#include "common/status/status_macros.h"
#include "server/store/database.h"
#include "server/store/row_codec.h"

namespace strata::store {

struct Store::Core {
  struct Pending {
    std::vector<Change> changes;
    absl::AnyInvocable<void(absl::Status) &&> done;
  };

  Core(const runtime::Runtime& runtime, const std::string& state_dir)
      : blobs(runtime.files, state_dir), strand(runtime.executor) {}

  absl::Status Write(const std::vector<Pending*>& group) {
    return database->Transaction([&]() -> absl::Status {
      for (const Pending* pending : group) {
        for (const Change& change : pending->changes) STRATA_RETURN_IF_ERROR(WriteChange(*database, change));
      }
      return absl::OkStatus();
    });
  }

  void CommitPending() {
    std::vector<Pending> taken;
    {
      absl::MutexLock lock(&mutex);
      taken.swap(pending);
      scheduled = false;
    }
    std::vector<Pending*> group;
    group.reserve(taken.size());
    for (Pending& one : taken) group.push_back(&one);
    const absl::Status together = Write(group);
    for (Pending& one : taken) {
      const bool alone = !together.ok() && taken.size() > 1;
      std::move(one.done)(alone ? Write({&one}) : together);
    }
  }

  BlobFiles blobs;
  std::unique_ptr<Database> database;  // used on the strand only
  Contents contents;
  absl::Mutex mutex;
  std::vector<Pending> pending ABSL_GUARDED_BY(mutex);
  bool scheduled ABSL_GUARDED_BY(mutex) = false;
  runtime::Strand strand;
};

namespace {

absl::StatusOr<std::string> FindOne(Database& database, const char* sql, const std::string& key) {
  std::string found;
  bool any = false;
  STRATA_ASSIGN_OR_RETURN(Statement query, database.Prepare(sql));
  STRATA_RETURN_IF_ERROR(query.Blob(key).ForEach([&](Statement& row) {
    if (!any) found = row.GetString(0);
    any = true;
  }));
  if (!any) return absl::NotFoundError(absl::StrCat("nothing is stored under ", secure::ToHex(key)));
  return found;
}

constexpr char kManifestOfBlob[] = "SELECT manifest FROM blobs WHERE sha256=?";
constexpr char kManifestByDigest[] = "SELECT manifest FROM updates WHERE sha256=? ORDER BY assignment LIMIT 1";
constexpr char kManifestOfUpdate[] = "SELECT manifest FROM updates WHERE assignment=?";

// Updates and versions are what counts as a reference; a blob row alone keeps nothing.
std::set<std::string> Referenced(const Contents& contents) {
  std::set<std::string> referenced;
  for (const UpdateRow& update : contents.updates) referenced.insert(update.sha256);
  for (const VersionRow& version : contents.versions) referenced.insert(version.blobs.begin(), version.blobs.end());
  return referenced;
}

}  // namespace

Store::Store(std::shared_ptr<Core> core) : core_(std::move(core)) {}
Store::~Store() = default;

absl::StatusOr<std::unique_ptr<Store>> Store::Open(const runtime::Runtime& runtime, const std::string& state_dir) {
  STRATA_RETURN_IF_ERROR(runtime.files.MakeDirectories(state_dir));
  // The folders above may be new as well; those that are not ours to sync were there before.
  for (std::string at = state_dir; runtime::DirName(at) != at; at = runtime::DirName(at)) {
    runtime.files.SyncDirectory(runtime::DirName(at)).IgnoreError();
  }
  auto core = std::make_shared<Core>(runtime, state_dir);
  STRATA_RETURN_IF_ERROR(core->blobs.Prepare());
  STRATA_ASSIGN_OR_RETURN(core->database, Database::Open(runtime, runtime::JoinPath(state_dir, "strata.db")));
  STRATA_ASSIGN_OR_RETURN(core->contents, ReadAll(*core->database));
  std::set<std::string> uploads;
  for (const UploadRow& upload : core->contents.uploads) uploads.insert(upload.assignment);
  core->blobs.Sweep(Referenced(core->contents), uploads);
  return std::unique_ptr<Store>(new Store(std::move(core)));
}

Contents Store::TakeContents() { return std::exchange(core_->contents, {}); }
BlobFiles& Store::blobs() { return core_->blobs; }

void Store::Commit(std::vector<Change> changes, absl::AnyInvocable<void(absl::Status) &&> done) {
  {
    absl::MutexLock lock(&core_->mutex);
    core_->pending.push_back({std::move(changes), std::move(done)});
    if (std::exchange(core_->scheduled, true)) return;
  }
  // Weak: work that an executor never runs must not keep the database open.
  core_->strand.Post([weak = std::weak_ptr<Core>(core_)] {
    if (const std::shared_ptr<Core> core = weak.lock()) core->CommitPending();
  });
}

void Store::ReadManifest(const std::string& sha256, absl::AnyInvocable<void(absl::StatusOr<std::string>) &&> done) {
  core_->strand.Post([weak = std::weak_ptr<Core>(core_), sha256, done = std::move(done)]() mutable {
    const std::shared_ptr<Core> core = weak.lock();
    if (core == nullptr) return;
    absl::StatusOr<std::string> manifest = FindOne(*core->database, kManifestOfBlob, sha256);
    if (absl::IsNotFound(manifest.status())) manifest = FindOne(*core->database, kManifestByDigest, sha256);
    std::move(done)(std::move(manifest));
  });
}

void Store::ReadUpdateManifests(std::vector<std::string> assignments,
                                absl::AnyInvocable<void(absl::StatusOr<std::vector<std::string>>) &&> done) {
  core_->strand.Post(
      [weak = std::weak_ptr<Core>(core_), assignments = std::move(assignments), done = std::move(done)]() mutable {
        const std::shared_ptr<Core> core = weak.lock();
        if (core == nullptr) return;
        std::vector<std::string> manifests;
        for (const std::string& assignment : assignments) {
          absl::StatusOr<std::string> manifest = FindOne(*core->database, kManifestOfUpdate, assignment);
          if (!manifest.ok()) return std::move(done)(manifest.status());
          manifests.push_back(*std::move(manifest));
        }
        std::move(done)(std::move(manifests));
      });
}

}  // namespace strata::store
