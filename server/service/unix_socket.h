// The admin socket's file: never taken from a live server, removed when it is a dead one's.
#ifndef STRATA_SERVER_SERVICE_UNIX_SOCKET_H_
#define STRATA_SERVER_SERVICE_UNIX_SOCKET_H_

#include <sys/types.h>

#include <string>

#include "absl/status/status.h"

namespace strata::service {

// ALREADY_EXISTS: a server answers at `path`, or something that is no socket lies there. INVALID_ARGUMENT: a path that
// is too long for a socket.
absl::Status PrepareUnixSocket(const std::string& path);

// Files made while this lives are for their owner only (umask 0177). Process-wide: use it while starting.
class OwnerOnlyFiles {
 public:
  OwnerOnlyFiles();
  ~OwnerOnlyFiles();
  OwnerOnlyFiles(const OwnerOnlyFiles&) = delete;
  OwnerOnlyFiles& operator=(const OwnerOnlyFiles&) = delete;

 private:
  mode_t before_;
};

}  // namespace strata::service

#endif  // STRATA_SERVER_SERVICE_UNIX_SOCKET_H_
