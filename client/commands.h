// The subcommands of strata-client. Each file client/cmd_*.cc adds its own to the CLI and leaves its exit code in
// `exit_code`.
#ifndef STRATA_CLIENT_COMMANDS_H_
#define STRATA_CLIENT_COMMANDS_H_

#include <limits>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"

namespace strata {

// 0 done, 1 failed, 2 misuse (bad flags, faults of a file that the user wrote).
struct CommandContext {
  std::vector<std::string> arguments;  // as typed, without the program's name
  int exit_code = 0;
};

// For numbers of things.
inline CLI::Range AtLeastOne() { return {1, std::numeric_limits<int>::max()}; }

// Prints "error: MESSAGE" lines to standard error and returns the exit code of the status: 2 for INVALID_ARGUMENT of
// configuration, else 1.
int ReportError(const absl::Status& status, bool misuse);

void AddTokenizeCommands(CLI::App& app, CommandContext& context);  // tokenize, detokenize, render
void AddDigestCommand(CLI::App& app, CommandContext& context);
void AddInspectCommand(CLI::App& app, CommandContext& context);
void AddMergeCommand(CLI::App& app, CommandContext& context);
void AddTrainCommand(CLI::App& app, CommandContext& context);
void AddPlanCommand(CLI::App& app, CommandContext& context);
void AddEvalCommand(CLI::App& app, CommandContext& context);
void AddGenerateCommand(CLI::App& app, CommandContext& context);
void AddRunCommand(CLI::App& app, CommandContext& context);  // the daemon

}  // namespace strata

#endif  // STRATA_CLIENT_COMMANDS_H_
