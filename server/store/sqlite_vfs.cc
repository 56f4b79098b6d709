#include "server/store/sqlite_vfs.h"

#include <sqlite3.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

namespace strata::store {

struct SqliteVfs::Registration {
  runtime::Runtime runtime;
  std::string name;
  sqlite3_vfs vfs{};
};

namespace {

constexpr int kSectorBytes = 4096;
constexpr int kMaxPath = 4096;
constexpr int64_t kUnixEpochInJulianMs = 210866760000000;

struct OpenFile {
  sqlite3_file base;  // first: SQLite sees this
  runtime::FileSystem* files;
  runtime::File* file;
  std::string* path;
  bool entry_unsynced;  // the folder's entry of a new file is not durable yet
};

OpenFile* Of(sqlite3_file* file) { return reinterpret_cast<OpenFile*>(file); }

const runtime::Runtime& RuntimeOf(sqlite3_vfs* vfs) { return *static_cast<const runtime::Runtime*>(vfs->pAppData); }

int CodeOf(const absl::Status& status, int otherwise) {
  if (status.ok()) return SQLITE_OK;
  return absl::IsResourceExhausted(status) ? SQLITE_FULL : otherwise;
}

int Close(sqlite3_file* file) {
  delete Of(file)->file;
  delete Of(file)->path;
  return SQLITE_OK;
}

int Read(sqlite3_file* file, void* out, int size, sqlite3_int64 offset) {
  const std::span<std::byte> buffer(static_cast<std::byte*>(out), static_cast<size_t>(size));
  const absl::StatusOr<size_t> read = Of(file)->file->ReadAt(static_cast<uint64_t>(offset), buffer);
  if (!read.ok()) return SQLITE_IOERR_READ;
  if (*read == buffer.size()) return SQLITE_OK;
  std::memset(buffer.data() + *read, 0, buffer.size() - *read);
  return SQLITE_IOERR_SHORT_READ;
}

int Write(sqlite3_file* file, const void* data, int size, sqlite3_int64 offset) {
  const std::span<const std::byte> bytes(static_cast<const std::byte*>(data), static_cast<size_t>(size));
  return CodeOf(Of(file)->file->WriteAt(static_cast<uint64_t>(offset), bytes), SQLITE_IOERR_WRITE);
}

int Truncate(sqlite3_file* file, sqlite3_int64 size) {
  return CodeOf(Of(file)->file->Truncate(static_cast<uint64_t>(size)), SQLITE_IOERR_TRUNCATE);
}

int Sync(sqlite3_file* file, int /*flags*/) {
  OpenFile* open = Of(file);
  if (const absl::Status synced = open->file->Sync(); !synced.ok()) return CodeOf(synced, SQLITE_IOERR_FSYNC);
  if (!open->entry_unsynced) return SQLITE_OK;
  const absl::Status synced = open->files->SyncDirectory(runtime::DirName(*open->path));
  if (!synced.ok()) return CodeOf(synced, SQLITE_IOERR_DIR_FSYNC);
  open->entry_unsynced = false;
  return SQLITE_OK;
}

int FileSize(sqlite3_file* file, sqlite3_int64* size) {
  const absl::StatusOr<uint64_t> found = Of(file)->file->Size();
  if (!found.ok()) return SQLITE_IOERR_FSTAT;
  *size = static_cast<sqlite3_int64>(*found);
  return SQLITE_OK;
}

int Lock(sqlite3_file*, int) { return SQLITE_OK; }
int CheckReservedLock(sqlite3_file*, int* reserved) {
  *reserved = 0;
  return SQLITE_OK;
}
int FileControl(sqlite3_file*, int, void*) { return SQLITE_NOTFOUND; }
int SectorSize(sqlite3_file*) { return kSectorBytes; }
int DeviceCharacteristics(sqlite3_file*) { return SQLITE_IOCAP_POWERSAFE_OVERWRITE; }

const sqlite3_io_methods* Methods() {
  static const sqlite3_io_methods kMethods = [] {
    sqlite3_io_methods methods{};
    methods.iVersion = 1;
    methods.xClose = Close;
    methods.xRead = Read;
    methods.xWrite = Write;
    methods.xTruncate = Truncate;
    methods.xSync = Sync;
    methods.xFileSize = FileSize;
    methods.xLock = Lock;
    methods.xUnlock = Lock;
    methods.xCheckReservedLock = CheckReservedLock;
    methods.xFileControl = FileControl;
    methods.xSectorSize = SectorSize;
    methods.xDeviceCharacteristics = DeviceCharacteristics;
    return methods;
  }();
  return &kMethods;
}

int Open(sqlite3_vfs* vfs, const char* name, sqlite3_file* file, int flags, int* out_flags) {
  file->pMethods = nullptr;
  if (name == nullptr) return SQLITE_CANTOPEN;  // temporary files live in memory
  runtime::FileSystem& files = RuntimeOf(vfs).files;
  const bool create = (flags & SQLITE_OPEN_CREATE) != 0;
  const bool is_new = create && !files.Exists(name);
  runtime::OpenMode mode = runtime::OpenMode::kRead;
  if ((flags & SQLITE_OPEN_READWRITE) != 0) mode = create ? runtime::OpenMode::kCreate : runtime::OpenMode::kReadWrite;
  absl::StatusOr<std::unique_ptr<runtime::File>> opened = files.Open(name, mode);
  if (!opened.ok()) return CodeOf(opened.status(), SQLITE_CANTOPEN);
  OpenFile* open = Of(file);
  open->files = &files;
  open->file = opened->release();
  open->path = new std::string(name);
  open->entry_unsynced = is_new;
  file->pMethods = Methods();
  if (out_flags != nullptr) *out_flags = flags;
  return SQLITE_OK;
}

int Delete(sqlite3_vfs* vfs, const char* name, int sync_directory) {
  runtime::FileSystem& files = RuntimeOf(vfs).files;
  const absl::Status removed = files.Remove(name);
  if (absl::IsNotFound(removed)) return SQLITE_IOERR_DELETE_NOENT;
  if (!removed.ok()) return SQLITE_IOERR_DELETE;
  if (sync_directory == 0) return SQLITE_OK;
  return files.SyncDirectory(runtime::DirName(name)).ok() ? SQLITE_OK : SQLITE_IOERR_DIR_FSYNC;
}

int Access(sqlite3_vfs* vfs, const char* name, int flags, int* result) {
  const absl::StatusOr<runtime::FileInfo> info = RuntimeOf(vfs).files.Stat(name);
  // An empty journal counts as absent, as in SQLite's own VFS.
  *result = info.ok() && (flags != SQLITE_ACCESS_EXISTS || info->is_directory || info->size_bytes > 0) ? 1 : 0;
  return SQLITE_OK;
}

int FullPathname(sqlite3_vfs*, const char* name, int size, char* out) {
  const size_t length = std::strlen(name);
  if (length + 1 > static_cast<size_t>(size)) return SQLITE_CANTOPEN;
  std::memcpy(out, name, length + 1);
  return SQLITE_OK;
}

int Randomness(sqlite3_vfs* vfs, int size, char* out) {
  RuntimeOf(vfs).entropy.Fill({reinterpret_cast<std::byte*>(out), static_cast<size_t>(size)});
  return size;
}

int Pause(sqlite3_vfs*, int microseconds) { return microseconds; }

int CurrentTimeInt64(sqlite3_vfs* vfs, sqlite3_int64* now) {
  *now = absl::ToUnixMillis(RuntimeOf(vfs).clock.Now()) + kUnixEpochInJulianMs;
  return SQLITE_OK;
}

int CurrentTime(sqlite3_vfs* vfs, double* now) {
  sqlite3_int64 milliseconds = 0;
  CurrentTimeInt64(vfs, &milliseconds);
  *now = static_cast<double>(milliseconds) / 86400000.0;
  return SQLITE_OK;
}

int LastError(sqlite3_vfs*, int, char*) { return 0; }

}  // namespace

SqliteVfs::SqliteVfs(const runtime::Runtime& runtime) : registration_(new Registration{runtime, {}, {}}) {
  registration_->name = absl::StrCat("strata-", absl::Hex(reinterpret_cast<uintptr_t>(registration_.get())));
  sqlite3_vfs& vfs = registration_->vfs;
  vfs.iVersion = 2;
  vfs.szOsFile = sizeof(OpenFile);
  vfs.mxPathname = kMaxPath;
  vfs.zName = registration_->name.c_str();
  vfs.pAppData = &registration_->runtime;
  vfs.xOpen = Open;
  vfs.xDelete = Delete;
  vfs.xAccess = Access;
  vfs.xFullPathname = FullPathname;
  vfs.xRandomness = Randomness;
  vfs.xSleep = Pause;
  vfs.xCurrentTime = CurrentTime;
  vfs.xCurrentTimeInt64 = CurrentTimeInt64;
  vfs.xGetLastError = LastError;
  sqlite3_vfs_register(&vfs, /*makeDflt=*/0);
}

SqliteVfs::~SqliteVfs() { sqlite3_vfs_unregister(&registration_->vfs); }

const std::string& SqliteVfs::name() const { return registration_->name; }

}  // namespace strata::store
