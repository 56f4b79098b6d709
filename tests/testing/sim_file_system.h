// A disk in memory that forgets what was not synced.
#ifndef STRATA_TESTS_TESTING_SIM_FILE_SYSTEM_H_
#define STRATA_TESTS_TESTING_SIM_FILE_SYSTEM_H_

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "common/runtime/clock.h"
#include "common/runtime/file_system.h"

namespace strata::testing {

// Strict: a file's bytes survive Crash() only as of the last File::Sync, an entry (made, renamed, removed; folders too)
// only as of the last SyncDirectory of the folder that holds it. Paths are absolute (a relative one starts at the
// root); the root exists. Thread-safe.
class SimFileSystem : public runtime::FileSystem {
 public:
  explicit SimFileSystem(const runtime::Clock& clock);
  ~SimFileSystem() override;

  // Loses what was not synced. Files that are open fail with ABORTED from then on; mappings keep their bytes. Also ends
  // a halt.
  void Crash();
  // As kill -9: nothing is lost, but files that are open fail with ABORTED from then on. Also ends a halt.
  void Kill();
  // Makes everything durable: for setting a scene.
  void SyncAll();
  // The disk holds this many bytes of files; a write that needs more fills the rest and then fails with
  // RESOURCE_EXHAUSTED. Default: no limit.
  void SetCapacity(uint64_t bytes);
  uint64_t used_bytes() const;
  // After that many more changing calls (WriteAt, Reserve, Truncate, Sync, SyncDirectory, MakeDirectories, Rename,
  // Remove, RemoveAll, and an Open that creates) every call fails with ABORTED until Crash() or Kill(): a crash at any
  // chosen stop.
  void HaltAfter(uint64_t num_changes);
  bool halted() const;
  uint64_t num_changes() const;

  absl::StatusOr<std::unique_ptr<runtime::File>> Open(const std::string& path, runtime::OpenMode mode) override;
  absl::StatusOr<std::shared_ptr<const runtime::Mapping>> Map(const std::string& path) override;
  absl::StatusOr<runtime::FileInfo> Stat(const std::string& path) override;
  absl::StatusOr<std::vector<std::string>> List(const std::string& directory) override;
  absl::Status MakeDirectories(const std::string& path) override;
  absl::Status Rename(const std::string& from, const std::string& to) override;
  absl::Status Remove(const std::string& path) override;
  absl::Status RemoveAll(const std::string& path) override;
  absl::Status SyncDirectory(const std::string& directory) override;

 private:
  struct State;
  struct Node;
  class OpenFile;

  std::shared_ptr<State> state_;  // shared with the files that are open
};

}  // namespace strata::testing

#endif  // STRATA_TESTS_TESTING_SIM_FILE_SYSTEM_H_
