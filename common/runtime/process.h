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
  std::vector<std::string> argv;                      // argv[0] is looked up in PATH
  std::function<bool(std::string_view)> on_line;      // each line of standard output; false ends the program (SIGTERM)
};

// Runs a program to its end and returns its exit code; standard error passes through. NOT_FOUND: no such program.
// ABORTED: on_line asked for the end, or a signal ended it. Blocks the calling thread.
absl::StatusOr<int> RunCommand(const Command& command);

// Blocks until SIGINT or SIGTERM came (or `Interrupt` was called) and returns the signal. Call BlockSignals first, from main, before any thread starts.
void BlockSignals();
int WaitForSignal();
void Interrupt();

uint64_t PeakResidentBytes();
uint64_t ResidentBytes();
// Since the kernel started this process.
absl::Duration SinceProcessStart();
int NumCores();
std::string EnvironmentVariable(const char* name);  // empty when not set

}  // namespace strata::runtime

#endif  // STRATA_COMMON_RUNTIME_PROCESS_H_
