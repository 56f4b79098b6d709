// stratactl aggregate: the aggregator offline, over PEFT adapter directories.
#ifndef STRATA_SERVER_CTL_AGGREGATE_COMMAND_H_
#define STRATA_SERVER_CTL_AGGREGATE_COMMAND_H_

#include "CLI/CLI.hpp"

namespace strata {

// Adds the subcommand `aggregate` to `app`. When it ran, `exit_code` is 0 (done), 1 (failed) or 2 (misuse); results go
// to standard output, notes and errors to standard error. `exit_code` must outlive `app`.
void AddAggregateCommand(CLI::App& app, int& exit_code);

}  // namespace strata

#endif  // STRATA_SERVER_CTL_AGGREGATE_COMMAND_H_
