// What a client keeps on disk: fetched blobs, updates that are not handed in yet, a trainer's scratch, the digest
// cache.
//   STATE/blobs/<sha256 in hex>            tensor files of versions
//   STATE/updates/<assignment in hex>/     tensors.safetensors, and manifest (written last: with it the update exists)
//   STATE/cache/
//   STATE/work/                            of the training under way: a command's files, checkpoints
#ifndef STRATA_CLIENT_STATE_DIRECTORY_H_
#define STRATA_CLIENT_STATE_DIRECTORY_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/link/federation_link.h"
#include "common/adapter/adapter.h"
#include "common/adapter/manifest.h"
#include "common/runtime/file_system.h"

namespace strata {

// Holds no state of its own: calls about different blobs and updates may run at once. Errors of the file system pass
// through.
class StateDirectory {
 public:
  // `files` is borrowed. Makes the folders.
  static absl::StatusOr<StateDirectory> Open(runtime::FileSystem& files, const std::string& root);

  std::string cache() const { return runtime::JoinPath(root_, "cache"); }
  std::string work() const { return runtime::JoinPath(root_, "work"); }
  // Removes what trainers left in work().
  absl::Status ClearWork();
  std::string BlobPath(const link::BlobRef& blob) const;

  // OK: the blob lies there with its size and digest. NOT_FOUND: it does not. DATA_LOSS: it had other bytes and was
  // removed.
  absl::Status VerifyBlob(const link::BlobRef& blob);
  // The blob as an adapter; a version's factors carry their scaling in themselves.
  absl::StatusOr<std::shared_ptr<const adapter::Adapter>> OpenBlob(const link::BlobRef& blob);
  // Removes every blob that is not in the list, and what is left of interrupted fetches of others.
  absl::Status KeepBlobs(const std::vector<link::BlobRef>& blobs);

  // Durable after OK. The manifest's assignment, digest and size are filled in here.
  absl::Status SaveUpdate(adapter::Manifest manifest, const std::string& assignment, const std::string& tensors);
  // NOT_FOUND: none. DATA_LOSS: its bytes do not match its manifest.
  absl::StatusOr<link::Update> LoadUpdate(const std::string& assignment);
  absl::Status DropUpdate(const std::string& assignment);
  // Assignments whose update lies complete on disk; what is incomplete is removed.
  absl::StatusOr<std::vector<std::string>> Updates();

 private:
  StateDirectory(runtime::FileSystem& files, std::string root) : files_(&files), root_(std::move(root)) {}
  std::string UpdatePath(const std::string& assignment) const;

  runtime::FileSystem* files_;
  std::string root_;
};

}  // namespace strata

#endif  // STRATA_CLIENT_STATE_DIRECTORY_H_
