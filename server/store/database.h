// One SQLite connection with absl::Status at its border.
#ifndef STRATA_SERVER_STORE_DATABASE_H_
#define STRATA_SERVER_STORE_DATABASE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/runtime/runtime.h"

struct sqlite3;
struct sqlite3_stmt;

namespace strata::store {

class SqliteVfs;

// A prepared statement. Parameters are bound in order; blobs and text are copied. Columns are read in order of the
// select.
class Statement {
 public:
  Statement(sqlite3* connection, sqlite3_stmt* statement) : connection_(connection), statement_(statement) {}
  ~Statement();
  Statement(Statement&& other) noexcept;
  Statement& operator=(Statement&&) = delete;

  Statement& Int(int64_t value);
  Statement& Text(std::string_view value);
  Statement& Blob(std::string_view value);
  // Runs a statement that returns no rows.
  absl::Status Run();
  // Calls `row` for each row; reads with GetInt/GetString by column.
  absl::Status ForEach(absl::FunctionRef<void(Statement&)> row);
  int64_t GetInt(int column);
  std::string GetString(int column);

 private:
  sqlite3* connection_;
  sqlite3_stmt* statement_;
  int next_parameter_ = 1;
};

// WAL, synchronous=FULL, exclusive. Not thread-safe.
// Errors: RESOURCE_EXHAUSTED: the disk is full. DATA_LOSS: the file is damaged or the device failed. INTERNAL: the
// rest.
class Database {
 public:
  // Creates the file when it is missing. FAILED_PRECONDITION: written by a newer schema than `migrations` knows.
  static absl::StatusOr<std::unique_ptr<Database>> Open(const runtime::Runtime& runtime, const std::string& path);
  ~Database();

  absl::Status Execute(const char* sql);
  // REQUIRES: `sql` is valid for the schema.
  absl::StatusOr<Statement> Prepare(const char* sql);
  // Runs `body` between BEGIN and COMMIT; an error of either rolls back.
  absl::Status Transaction(absl::FunctionRef<absl::Status()> body);

 private:
  Database() = default;
  absl::Status Migrate();
  std::unique_ptr<SqliteVfs> vfs_;
  sqlite3* connection_ = nullptr;
};

// The number that PRAGMA user_version holds in a database of this build.
int SchemaVersion();

}  // namespace strata::store

#endif  // STRATA_SERVER_STORE_DATABASE_H_
