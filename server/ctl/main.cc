// stratactl: operates a federation through the server's admin socket; `aggregate` works offline.
#include "CLI/CLI.hpp"
#include "common/runtime/process.h"
#include "server/ctl/aggregate_command.h"
#include "server/ctl/commands.h"

namespace {

constexpr int kMisuse = 2;
constexpr char kDefaultSocket[] = "state/admin.sock";

}  // namespace

int main(int argc, char** argv) {
  strata::ctl::CtlContext context;
  context.socket = strata::runtime::EnvironmentVariable("STRATA_ADMIN");
  if (context.socket.empty()) context.socket = kDefaultSocket;

  CLI::App app("stratactl operates a federation: jobs, versions, sites, and the aggregator offline.", "stratactl");
  app.set_version_flag("--version", "stratactl " STRATA_VERSION);
  app.add_option("--socket", context.socket,
                 "The server's admin socket (default: $STRATA_ADMIN, else state/admin.sock)");
  app.add_option("--format", context.format, "How results print")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  app.require_subcommand(1);
  app.footer("Exit codes: 0 done, 1 failed, 2 misuse.");
  strata::ctl::AddJobCommand(app, context);
  strata::ctl::AddAdapterCommand(app, context);
  strata::ctl::AddSiteCommand(app, context);
  strata::AddAggregateCommand(app, context.exit_code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kMisuse;
  }
  return context.exit_code;
}
