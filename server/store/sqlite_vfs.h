// SQLite over runtime::FileSystem, so that a simulated crash drops the database's unsynced bytes together with
// everybody else's.
#ifndef STRATA_SERVER_STORE_SQLITE_VFS_H_
#define STRATA_SERVER_STORE_SQLITE_VFS_H_

#include <memory>
#include <string>

#include "common/runtime/runtime.h"

namespace strata::store {

// A registered sqlite3_vfs; name() is what sqlite3_open_v2 takes. It has no shared memory: a database on it needs
// locking_mode=EXCLUSIVE before WAL. It takes no locks: one connection a database.
// Must outlive the connections opened through it. The runtime's parts are borrowed.
class SqliteVfs {
 public:
  explicit SqliteVfs(const runtime::Runtime& runtime);
  ~SqliteVfs();
  SqliteVfs(const SqliteVfs&) = delete;
  SqliteVfs& operator=(const SqliteVfs&) = delete;

  const std::string& name() const;

 private:
  struct Registration;
  std::unique_ptr<Registration> registration_;
};

}  // namespace strata::store

#endif  // STRATA_SERVER_STORE_SQLITE_VFS_H_
