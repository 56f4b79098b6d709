// The content-addressed files blobs/<sha256> and the uploads on their way to them. Only files: who refers to a blob is
// the database's.
#ifndef STRATA_SERVER_STORE_BLOB_FILES_H_
#define STRATA_SERVER_STORE_BLOB_FILES_H_

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/runtime/file_system.h"

namespace strata::store {

// Thread-safe. Digests and assignment ids are raw bytes. RESOURCE_EXHAUSTED: the disk is full.
class BlobFiles {
 public:
  // `files` is borrowed; `state_dir` exists.
  BlobFiles(runtime::FileSystem& files, const std::string& state_dir);
  // Makes the folders.
  absl::Status Prepare();

  // The upload's file with `size` bytes of disk claimed. `fresh`: a new, empty one takes the place of what was there.
  absl::StatusOr<std::unique_ptr<runtime::File>> OpenUpload(const std::string& assignment, uint64_t size, bool fresh);
  absl::StatusOr<std::shared_ptr<const runtime::Mapping>> MapUpload(const std::string& assignment);
  bool HasUpload(const std::string& assignment, uint64_t at_least_bytes);
  void RemoveUpload(const std::string& assignment);
  // REQUIRES: the upload's bytes are synced and have this digest. After OK the blob survives a power loss.
  absl::Status Publish(const std::string& assignment, const std::string& sha256);
  // Writes a blob of the server's own. After OK it survives a power loss. Returns its digest.
  absl::StatusOr<std::string> Put(std::span<const std::byte> bytes);

  // Maps a blob; its digest is checked when it is first opened and whenever the file has changed since.
  // NOT_FOUND; DATA_LOSS: the bytes on disk do not have the digest.
  absl::StatusOr<std::shared_ptr<const runtime::Mapping>> Open(const std::string& sha256);

  // Removes what a crash left behind: blobs outside `referenced`, uploads outside `uploads`. Best effort.
  void Sweep(const std::set<std::string>& referenced, const std::set<std::string>& uploads);

 private:
  struct Verified {
    uint64_t device = 0, inode = 0, size_bytes = 0;
    int64_t modified_ns = 0;
    bool operator==(const Verified&) const = default;
  };
  std::string BlobPath(const std::string& sha256) const;
  std::string UploadPath(const std::string& assignment) const;

  runtime::FileSystem& files_;
  const std::string state_dir_, blobs_, uploads_;
  absl::Mutex mutex_;
  std::map<std::string, Verified> verified_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace strata::store

#endif  // STRATA_SERVER_STORE_BLOB_FILES_H_
