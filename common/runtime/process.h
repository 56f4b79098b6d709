// Child programs, signals and what the kernel knows of this process.
#ifndef STRATA_COMMON_RUNTIME_PROCESS_H_
#define STRATA_COMMON_RUNTIME_PROCESS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace strata::runtime {

struct Command {
  std::vector<std::string> argv;  // argv[0] is looked up in PATH
  // Each line of standard output, without its newline; false ends the program: SIGTERM to its process group, SIGKILL
  // after 10 s. May be empty.
  std::function<bool(std::string_view)> on_line;
  std::function<bool()> keep_going;  // asked several times a second; false ends the program likewise. May be empty.
};

// Runs a program to its end and returns its exit code; standard error passes through, standard input is empty.
// NOT_FOUND: no such program. CANCELLED: on_line or keep_going asked for the end, and it had not ended yet. ABORTED: a
// signal ended it. Blocks the calling thread; the callbacks run on it.
absl::StatusOr<int> RunCommand(const Command& command);

// Blocks until SIGINT or SIGTERM came (or `Interrupt` was called) and returns the signal. Call BlockSignals first, from
// main, before any thread starts; it also makes writing to a closed pipe an error instead of a signal.
void BlockSignals();
int WaitForSignal();
void Interrupt();

// Runs `work` in a forked copy of this process and tells whether it came to its end, rather than being killed by a
// signal (an instruction that traps, say). Call it while there is but one thread.
bool SurvivesInChild(const std::function<void()>& work);

uint64_t PeakResidentBytes();
uint64_t ResidentBytes();
// Since the kernel started this process.
absl::Duration SinceProcessStart();
int NumCores();
std::string EnvironmentVariable(const char* name);  // empty when not set

}  // namespace strata::runtime

#endif  // STRATA_COMMON_RUNTIME_PROCESS_H_
