#include "client/standard_output.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <iostream>
#include <string>

namespace strata {
namespace {

absl::Status Outcome(bool done) {
  if (done) return absl::OkStatus();
  return errno == EPIPE ? absl::CancelledError("standard output was closed")
                        : absl::DataLossError("cannot write to standard output");
}

}  // namespace

absl::Status WriteOut(std::string_view text) {
  errno = 0;
  return Outcome(std::fwrite(text.data(), 1, text.size(), stdout) == text.size());
}

absl::Status WriteLine(const nlohmann::ordered_json& row) {
  // In ASCII: many readers take U+2028 or U+0085 for the end of a line.
  return WriteOut(row.dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

absl::Status FlushOut() {
  errno = 0;
  return Outcome(std::fflush(stdout) == 0);
}

absl::Status FinishOut() {
  if (std::cout.flush().good() && std::ferror(stdout) == 0 && std::fflush(stdout) == 0) return absl::OkStatus();
  // What went wrong may have been long ago.
  pollfd out = {.fd = STDOUT_FILENO, .events = POLLOUT, .revents = 0};
  const bool closed = poll(&out, 1, 0) == 1 && (out.revents & (POLLERR | POLLHUP)) != 0;
  errno = closed ? EPIPE : 0;
  return Outcome(false);
}

}  // namespace strata
