#include "server/store/database.h"

#include <sqlite3.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status/status_macros.h"
#include "server/store/schema.h"
#include "server/store/sqlite_vfs.h"

namespace strata::store {
namespace {

absl::Status ErrorOf(sqlite3* connection, std::string_view what) {
  const int code = sqlite3_errcode(connection) & 0xff;
  const std::string message = absl::StrCat("database: ", std::string(what), ": ", sqlite3_errmsg(connection));
  switch (code) {
    case SQLITE_FULL:
      return absl::ResourceExhaustedError(absl::StrCat(message, "; make room on the state folder's disk"));
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_IOERR:
      return absl::DataLossError(message);
    default:
      return absl::InternalError(message);
  }
}

}  // namespace

Statement::~Statement() { sqlite3_finalize(statement_); }

Statement::Statement(Statement&& other) noexcept
    : connection_(other.connection_),
      statement_(std::exchange(other.statement_, nullptr)),
      next_parameter_(other.next_parameter_) {}

Statement& Statement::Int(int64_t value) {
  sqlite3_bind_int64(statement_, next_parameter_++, value);
  return *this;
}

Statement& Statement::Text(std::string_view value) {
  sqlite3_bind_text64(statement_, next_parameter_++, value.data() == nullptr ? "" : value.data(), value.size(),
                      SQLITE_TRANSIENT, SQLITE_UTF8);
  return *this;
}

Statement& Statement::Blob(std::string_view value) {
  sqlite3_bind_blob64(statement_, next_parameter_++, value.data() == nullptr ? "" : value.data(), value.size(),
                      SQLITE_TRANSIENT);
  return *this;
}

absl::Status Statement::Run() {
  return ForEach([](Statement&) {});
}

absl::Status Statement::ForEach(absl::FunctionRef<void(Statement&)> row) {
  int code = SQLITE_ROW;
  while ((code = sqlite3_step(statement_)) == SQLITE_ROW) row(*this);
  absl::Status status = code == SQLITE_DONE ? absl::OkStatus() : ErrorOf(connection_, sqlite3_sql(statement_));
  sqlite3_reset(statement_);
  next_parameter_ = 1;
  return status;
}

int64_t Statement::GetInt(int column) { return sqlite3_column_int64(statement_, column); }

std::string Statement::GetString(int column) {
  const void* data = sqlite3_column_blob(statement_, column);
  const int size = sqlite3_column_bytes(statement_, column);
  return data == nullptr ? std::string() : std::string(static_cast<const char*>(data), static_cast<size_t>(size));
}

absl::StatusOr<std::unique_ptr<Database>> Database::Open(const runtime::Runtime& runtime, const std::string& path) {
  std::unique_ptr<Database> database(new Database());
  database->vfs_ = std::make_unique<SqliteVfs>(runtime);
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
  if (sqlite3_open_v2(path.c_str(), &database->connection_, flags, database->vfs_->name().c_str()) != SQLITE_OK) {
    return Annotate(ErrorOf(database->connection_, "open"), path);
  }
  // Exclusive first: without shared memory WAL is refused otherwise.
  for (const char* pragma : {"PRAGMA locking_mode=EXCLUSIVE", "PRAGMA temp_store=MEMORY", "PRAGMA journal_mode=WAL",
                             "PRAGMA synchronous=FULL"}) {
    STRATA_RETURN_IF_ERROR(Annotate(database->Execute(pragma), path));
  }
  std::string mode;
  STRATA_ASSIGN_OR_RETURN(Statement query, database->Prepare("PRAGMA journal_mode"));
  STRATA_RETURN_IF_ERROR(query.ForEach([&](Statement& row) { mode = row.GetString(0); }));
  if (mode != "wal") return absl::InternalError(absl::StrCat(path, ": journal_mode is ", mode, ", expected wal"));
  STRATA_RETURN_IF_ERROR(Annotate(database->Migrate(), path));
  return database;
}

Database::~Database() { sqlite3_close(connection_); }

absl::Status Database::Execute(const char* sql) {
  if (sqlite3_exec(connection_, sql, nullptr, nullptr, nullptr) == SQLITE_OK) return absl::OkStatus();
  return ErrorOf(connection_, sql);
}

absl::StatusOr<Statement> Database::Prepare(const char* sql) {
  sqlite3_stmt* statement = nullptr;
  if (sqlite3_prepare_v2(connection_, sql, -1, &statement, nullptr) != SQLITE_OK) return ErrorOf(connection_, sql);
  return Statement(connection_, statement);
}

absl::Status Database::Transaction(absl::FunctionRef<absl::Status()> body) {
  STRATA_RETURN_IF_ERROR(Execute("BEGIN IMMEDIATE"));
  absl::Status status = body();
  if (status.ok()) status = Execute("COMMIT");
  // A full disk may have rolled back by itself already.
  if (!status.ok() && sqlite3_get_autocommit(connection_) == 0) Execute("ROLLBACK").IgnoreError();
  return status;
}

absl::Status Database::Migrate() {
  int64_t version = 0;
  STRATA_ASSIGN_OR_RETURN(Statement query, Prepare("PRAGMA user_version"));
  STRATA_RETURN_IF_ERROR(query.ForEach([&](Statement& row) { version = row.GetInt(0); }));
  if (version > SchemaVersion()) {
    return absl::FailedPreconditionError(absl::StrCat("the database has schema ", version, ", this build knows up to ",
                                                      SchemaVersion(), "; start the newer strata-server"));
  }
  for (int64_t next = version; next < SchemaVersion(); ++next) {
    STRATA_RETURN_IF_ERROR(Transaction([&]() -> absl::Status {
      STRATA_RETURN_IF_ERROR(Execute(kMigrations[static_cast<size_t>(next)]));
      return Execute(absl::StrCat("PRAGMA user_version=", next + 1).c_str());
    }));
  }
  return absl::OkStatus();
}

int SchemaVersion() { return static_cast<int>(std::size(kMigrations)); }

}  // namespace strata::store
