// Linked into every program and test (cmake/strata.cmake). OpenMP's waiting threads spin for milliseconds before they
// sleep. Where the cores are shared, with a second client or a busy neighbour, they take the time of the very thread
// that they wait for: on two cores with four busy neighbours training took five times as long as with a short
// spin. Without any, waking a thread costs 3 % of a step. libgomp takes the length from the environment before main and
// has no other way in, so the program starts itself again, before any library's constructor has run (some 30 ms),
// unless the user has said something.
#include <unistd.h>

#include <climits>
#include <cstddef>
#include <cstring>

namespace {

constexpr std::size_t kMostVariables = 4096;
constexpr const char kShortSpin[] = "GOMP_SPINCOUNT=5000";

bool IsSet(const char* entry, const char* name) { return std::strncmp(entry, name, std::strlen(name)) == 0; }

// No memory, no environment, no library may be asked for anything yet.
void StartWithShortSpin(int /*argc*/, char** argv, char** environment) {
  static const char* wanted[kMostVariables + 2];
  static char path[PATH_MAX];
  std::size_t count = 0;
  for (; environment[count] != nullptr; ++count) {
    const char* entry = environment[count];
    if (count == kMostVariables || IsSet(entry, "GOMP_SPINCOUNT=") || IsSet(entry, "OMP_WAIT_POLICY=")) return;
    wanted[count] = entry;
  }
  wanted[count] = kShortSpin;
  if (readlink("/proc/self/exe", path, sizeof(path) - 1) > 0) execve(path, argv, const_cast<char**>(wanted));
}

__attribute__((section(".preinit_array"), used)) void (*start)(int, char**, char**) = StartWithShortSpin;

}  // namespace
