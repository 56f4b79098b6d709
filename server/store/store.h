// What the server must not forget: rows in SQLite, blobs beside them.
#ifndef STRATA_SERVER_STORE_STORE_H_
#define STRATA_SERVER_STORE_STORE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/runtime/runtime.h"
#include "server/store/blob_files.h"
#include "server/store/rows.h"

namespace strata::store {

// STATE_DIR/strata.db, STATE_DIR/blobs/<sha256>, STATE_DIR/uploads/<assignment>.
// Order of durability for a blob: data, fdatasync, rename, fsync of the folder (BlobFiles), then Commit of the rows
// that refer to it, then the answer. The database connection belongs to the store's own strand; changes that wait there
// share one transaction. Thread-safe. Callbacks run on the store's strand, exactly once, also after the Store is gone.
class Store {
 public:
  // Opens or creates, migrates the schema forward, removes files that nothing refers to. `runtime`'s parts are
  // borrowed. FAILED_PRECONDITION: a newer schema. DATA_LOSS: a damaged database. RESOURCE_EXHAUSTED: the disk is full.
  static absl::StatusOr<std::unique_ptr<Store>> Open(const runtime::Runtime& runtime, const std::string& state_dir);
  ~Store();

  // What was there when the store was opened. Once.
  Contents TakeContents();
  BlobFiles& blobs();

  // One transaction; rows replace what has their key. When a shared transaction fails, each caller's changes are tried
  // alone. RESOURCE_EXHAUSTED: the disk is full; nothing of it is stored, the same changes may be committed again.
  void Commit(std::vector<Change> changes, absl::AnyInvocable<void(absl::Status) &&> done);
  // The manifest of a blob: a version's, else an accepted update's. NOT_FOUND.
  void ReadManifest(const std::string& sha256, absl::AnyInvocable<void(absl::StatusOr<std::string>) &&> done);
  // The manifests of accepted updates, by assignment, in order. NOT_FOUND names the one that is missing.
  void ReadUpdateManifests(std::vector<std::string> assignments,
                           absl::AnyInvocable<void(absl::StatusOr<std::vector<std::string>>) &&> done);

 private:
  struct Core;
  explicit Store(std::shared_ptr<Core> core);
  std::shared_ptr<Core> core_;
};

}  // namespace strata::store

#endif  // STRATA_SERVER_STORE_STORE_H_
