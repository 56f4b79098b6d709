// The subcommands of stratactl that talk to a server. Each adds itself to the CLI and leaves its exit code in the
// context.
#ifndef STRATA_SERVER_CTL_COMMANDS_H_
#define STRATA_SERVER_CTL_COMMANDS_H_

#include "CLI/CLI.hpp"
#include "server/ctl/admin_client.h"

namespace strata::ctl {

// `context` is borrowed and must live while the CLI runs its callbacks.
void AddJobCommand(CLI::App& app, CtlContext& context);
void AddAdapterCommand(CLI::App& app, CtlContext& context);
void AddSiteCommand(CLI::App& app, CtlContext& context);

}  // namespace strata::ctl

#endif  // STRATA_SERVER_CTL_COMMANDS_H_
