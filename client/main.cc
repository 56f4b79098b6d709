#include <exception>
#include <iostream>

#include "client/commands.h"
#include "client/standard_output.h"

namespace strata {
namespace {

int Main(int argc, char** argv) {
  CLI::App app("Trains LoRA adapters where the data lives: one site of a federation, and the same trainer on its own.",
               "strata-client");
  app.set_version_flag("--version", "strata-client " STRATA_VERSION);
  app.require_subcommand(1);
  CommandContext context{.arguments = {argv + 1, argv + argc}};
  AddRunCommand(app, context);
  AddTrainCommand(app, context);
  AddPlanCommand(app, context);
  AddEvalCommand(app, context);
  AddGenerateCommand(app, context);
  AddTokenizeCommands(app, context);
  AddDigestCommand(app, context);
  AddMergeCommand(app, context);
  AddInspectCommand(app, context);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& asked) {  // --help, --version
    return app.exit(asked);
  } catch (const CLI::ParseError& error) {
    std::cerr << "error: " << error.what() << "\nRun with --help for the usage.\n";
    return 2;
  }
  // A result that could not be written is none.
  const absl::Status written = FinishOut();
  if (context.exit_code == 0 && absl::IsDataLoss(written)) {
    std::cerr << "error: " << written.message() << "\n";
    return 1;
  }
  return context.exit_code;
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  try {
    return strata::Main(argc, argv);
  } catch (const std::exception& error) {  // out of memory, mostly
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
}
