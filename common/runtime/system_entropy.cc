#include "common/runtime/system_entropy.h"

#include <sys/random.h>

#include <cerrno>
#include <cstdlib>

namespace strata::runtime {

void SystemEntropy::Fill(std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t got = getrandom(bytes.data(), bytes.size(), 0);
    if (got < 0) {
      // Without entropy no identity may be handed out; getrandom fails only on kernels that lack it.
      if (errno != EINTR) std::abort();
      continue;
    }
    bytes = bytes.subspan(static_cast<size_t>(got));
  }
}

}  // namespace strata::runtime
