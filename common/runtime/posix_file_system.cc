#include "common/runtime/posix_file_system.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status/status_macros.h"

namespace strata::runtime {
namespace {

absl::StatusCode CodeOf(int error) {
  switch (error) {
    case ENOENT:
      return absl::StatusCode::kNotFound;
    case EEXIST:
      return absl::StatusCode::kAlreadyExists;
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::StatusCode::kPermissionDenied;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return absl::StatusCode::kResourceExhausted;
    case EIO:
      return absl::StatusCode::kDataLoss;
    case ENOTDIR:
    case EISDIR:
    case ENOTEMPTY:
    case ETXTBSY:
    case EBUSY:
      return absl::StatusCode::kFailedPrecondition;
    case ENAMETOOLONG:
    case ELOOP:
    case EINVAL:
      return absl::StatusCode::kInvalidArgument;
    default:
      return absl::StatusCode::kInternal;
  }
}

absl::Status Failure(std::string_view action, std::string_view path, int error) {
  return absl::Status(CodeOf(error), absl::StrCat("cannot ", std::string(action), " ", std::string(path), ": ",
                                                  std::generic_category().message(error)));
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

absl::StatusOr<Descriptor> OpenDescriptor(const std::string& path, int flags) {
  int fd = -1;
  do {
    fd = open(path.c_str(), flags | O_CLOEXEC, 0644);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return Failure((flags & O_CREAT) != 0 ? "create" : "open", path, errno);
  return Descriptor(fd);
}

class PosixFile : public File {
 public:
  PosixFile(Descriptor fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

  absl::Status WriteAt(uint64_t offset, std::span<const std::byte> data) override {
    while (!data.empty()) {
      const ssize_t done = pwrite(fd_.get(), data.data(), data.size(), static_cast<off_t>(offset));
      if (done < 0) {
        if (errno == EINTR) continue;
        return Failure("write", path_, errno);
      }
      offset += static_cast<uint64_t>(done);
      data = data.subspan(static_cast<size_t>(done));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<size_t> ReadAt(uint64_t offset, std::span<std::byte> out) override {
    size_t total = 0;
    while (total < out.size()) {
      ssize_t got = seekable_
                        ? pread(fd_.get(), out.data() + total, out.size() - total, static_cast<off_t>(offset + total))
                        : read(fd_.get(), out.data() + total, out.size() - total);
      if (got == 0) break;
      if (got > 0) {
        total += static_cast<size_t>(got);
      } else if (errno == ESPIPE) {
        seekable_ = false;
      } else if (errno != EINTR) {
        return Failure("read", path_, errno);
      }
    }
    return total;
  }

  absl::Status Reserve(uint64_t size) override {
    if (size == 0) return absl::OkStatus();
    while (fallocate(fd_.get(), FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(size)) != 0) {
      if (errno == EINTR) continue;
      if (errno == EOPNOTSUPP) return CheckFreeSpace(size);
      return Failure(absl::StrCat("reserve ", size, " bytes for"), path_, errno);
    }
    return absl::OkStatus();
  }

  absl::Status Truncate(uint64_t size) override {
    while (ftruncate(fd_.get(), static_cast<off_t>(size)) != 0) {
      if (errno != EINTR) return Failure("truncate", path_, errno);
    }
    return absl::OkStatus();
  }

  absl::Status Sync() override {
    // Not repeated after a failure: the kernel drops the dirty pages, and a second call would claim success.
    if (fdatasync(fd_.get()) != 0) return Failure("sync", path_, errno);
    return absl::OkStatus();
  }

  absl::StatusOr<uint64_t> Size() override {
    struct stat info {};
    if (fstat(fd_.get(), &info) != 0) return Failure("read the size of", path_, errno);
    return static_cast<uint64_t>(info.st_size);
  }

 private:
  // For file systems without allocation: as good as it gets, but others may take the space meanwhile.
  absl::Status CheckFreeSpace(uint64_t size) {
    struct stat info {};
    struct statvfs disk {};
    if (fstat(fd_.get(), &info) != 0 || fstatvfs(fd_.get(), &disk) != 0)
      return Failure("reserve space for", path_, errno);
    const uint64_t have = static_cast<uint64_t>(info.st_blocks) * 512;
    const uint64_t available = static_cast<uint64_t>(disk.f_bavail) * disk.f_frsize;
    if (size > have && size - have > available)
      return Failure(absl::StrCat("reserve ", size, " bytes for"), path_, ENOSPC);
    return absl::OkStatus();
  }

  Descriptor fd_;
  std::string path_;
  bool seekable_ = true;
};

class PosixMapping : public Mapping {
 public:
  PosixMapping(void* address, size_t size) : address_(address), size_(size) {}
  ~PosixMapping() override { munmap(address_, size_); }
  PosixMapping(const PosixMapping&) = delete;
  PosixMapping& operator=(const PosixMapping&) = delete;

  std::span<const std::byte> bytes() const override { return {static_cast<const std::byte*>(address_), size_}; }

  void Release(size_t offset, size_t length) const override {
    if (offset >= size_ || length == 0) return;
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t end = std::min(size_, offset + std::min(length, size_));
    // Both ends round down, so that releasing neighbours in order covers every page once and never one that is ahead.
    const size_t begin = offset / page * page;
    const size_t stop = end == size_ ? size_ : end / page * page;
    if (stop > begin) madvise(static_cast<std::byte*>(address_) + begin, stop - begin, MADV_DONTNEED);
  }

 private:
  void* address_;
  size_t size_;
};

class CopiedMapping : public Mapping {
 public:
  explicit CopiedMapping(std::string content) : content_(std::move(content)) {}
  std::span<const std::byte> bytes() const override { return std::as_bytes(std::span(content_)); }
  void Release(size_t /*offset*/, size_t /*length*/) const override {}

 private:
  std::string content_;
};

FileInfo ToFileInfo(const struct stat& info) {
  return {.size_bytes = static_cast<uint64_t>(info.st_size),
          .is_directory = S_ISDIR(info.st_mode),
          .device = info.st_dev,
          .inode = info.st_ino,
          .modified = absl::TimeFromTimespec(info.st_mtim)};
}

}  // namespace

absl::StatusOr<std::unique_ptr<File>> PosixFileSystem::Open(const std::string& path, OpenMode mode) {
  int flags = O_RDONLY;
  if (mode != OpenMode::kRead) flags = O_RDWR;
  if (mode == OpenMode::kCreate) flags |= O_CREAT;
  if (mode == OpenMode::kCreateNew) flags |= O_CREAT | O_EXCL;
  STRATA_ASSIGN_OR_RETURN(Descriptor fd, OpenDescriptor(path, flags));
  return std::make_unique<PosixFile>(std::move(fd), path);
}

absl::StatusOr<std::shared_ptr<const Mapping>> PosixFileSystem::Map(const std::string& path) {
  STRATA_ASSIGN_OR_RETURN(const Descriptor fd, OpenDescriptor(path, O_RDONLY));
  struct stat info {};
  if (fstat(fd.get(), &info) != 0) return Failure("map", path, errno);
  if (S_ISDIR(info.st_mode)) return Failure("map", path, EISDIR);
  if (!S_ISREG(info.st_mode)) {
    STRATA_ASSIGN_OR_RETURN(std::string content, ReadFile(path));
    return std::make_shared<CopiedMapping>(std::move(content));
  }
  const auto size = static_cast<size_t>(info.st_size);
  if (size == 0) return std::make_shared<CopiedMapping>("");
  void* address = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (address == MAP_FAILED) return Failure("map", path, errno);
  return std::make_shared<PosixMapping>(address, size);
}

absl::StatusOr<FileInfo> PosixFileSystem::Stat(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return Failure("find", path, errno);
  return ToFileInfo(info);
}

absl::StatusOr<std::vector<std::string>> PosixFileSystem::List(const std::string& directory) {
  DIR* dir = opendir(directory.c_str());
  if (dir == nullptr) return Failure("list", directory, errno);
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = readdir(dir)) {  // NOLINT(concurrency-mt-unsafe): each call has its own stream
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
    errno = 0;
  }
  const int error = errno;
  closedir(dir);
  if (error != 0) return Failure("list", directory, error);
  std::sort(names.begin(), names.end());
  return names;
}

absl::Status PosixFileSystem::MakeDirectories(const std::string& path) {
  std::error_code error;
  // A trailing slash makes libstdc++ report an error for folders that are there.
  std::filesystem::create_directories(JoinPath(DirName(path), BaseName(path)), error);
  if (error) return Failure("make the folder", path, error.value());
  return absl::OkStatus();
}

absl::Status PosixFileSystem::Rename(const std::string& from, const std::string& to) {
  if (rename(from.c_str(), to.c_str()) != 0) return Failure(absl::StrCat("rename ", from, " to"), to, errno);
  return absl::OkStatus();
}

absl::Status PosixFileSystem::Remove(const std::string& path) {
  if (remove(path.c_str()) != 0) return Failure("remove", path, errno);
  return absl::OkStatus();
}

absl::Status PosixFileSystem::RemoveAll(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  if (error) return Failure("remove", path, error.value());
  return absl::OkStatus();
}

absl::Status PosixFileSystem::SyncDirectory(const std::string& directory) {
  STRATA_ASSIGN_OR_RETURN(const Descriptor fd, OpenDescriptor(directory, O_RDONLY | O_DIRECTORY));
  // EINVAL: file systems on which folders cannot be synced have nothing to lose by it.
  if (fsync(fd.get()) != 0 && errno != EINVAL) return Failure("sync the folder", directory, errno);
  return absl::OkStatus();
}

}  // namespace strata::runtime
