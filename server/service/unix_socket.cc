#include "server/service/unix_socket.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace strata::service {
namespace {

constexpr mode_t kAllButOwner = 0177;

bool Answers(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  const bool connected = connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  close(fd);
  return connected;
}

}  // namespace

absl::Status PrepareUnixSocket(const std::string& path) {
  constexpr size_t kLimit = sizeof(sockaddr_un::sun_path);
  if (path.empty() || path.size() >= kLimit) {
    return absl::InvalidArgumentError(absl::StrCat("admin_socket: `", path, "` has ", path.size(),
                                                   " characters; a socket's path has 1 to ", kLimit - 1));
  }
  struct stat info {};
  if (lstat(path.c_str(), &info) != 0) return absl::OkStatus();
  if (!S_ISSOCK(info.st_mode)) {
    return absl::AlreadyExistsError(
        absl::StrCat("admin_socket: ", path, " exists and is no socket; give another path"));
  }
  if (Answers(path)) {
    return absl::AlreadyExistsError(
        absl::StrCat("admin_socket: another server answers at ", path, "; stop it or give another path"));
  }
  if (unlink(path.c_str()) != 0 && errno != ENOENT) {
    return absl::PermissionDeniedError(
        absl::StrCat("admin_socket: the stale socket ", path, " could not be removed: ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

OwnerOnlyFiles::OwnerOnlyFiles() : before_(umask(kAllButOwner)) {}
OwnerOnlyFiles::~OwnerOnlyFiles() { umask(before_); }

}  // namespace strata::service
