// strata-sim: a whole federation on one machine.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <iterator>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/model/processor.h"
#include "common/config/config.h"
#include "common/runtime/process.h"
#include "common/runtime/runtime.h"
#include "common/telemetry/log.h"
#include "deploy/simulator/display.h"
#include "deploy/simulator/sim_report.h"
#include "deploy/simulator/simulation.h"

namespace strata::sim {
namespace {

constexpr int kFailed = 1;
constexpr int kMisuse = 2;
constexpr int kBySignal = 128;  // plus its number, as shells count
constexpr int kMinThreads = 6;  // one runs the simulation, the others carry calls, files and sums

struct Flags {
  std::string config, out, format = "text", log_level = "warning";
  bool print_config = false;
};

int Fail(const absl::Status& status) {
  for (const auto line : absl::StrSplit(status.message(), '\n')) std::cerr << "error: " << line << "\n";
  return absl::IsInvalidArgument(status) ? kMisuse : kFailed;
}

absl::StatusOr<std::string> ReadText(runtime::FileSystem& files, const std::string& path) {
  if (path != "-") return files.ReadFile(path);
  return std::string(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
}

// What came of it, and the signal that asked for its end, else 0.
struct Ended {
  absl::StatusOr<SimOutcome> outcome;
  int signal = 0;
};

// This thread waits for signals meanwhile. A second one ends the process.
Ended RunUntilEnd(const config::SimOptions& options, runtime::Runtime runtime, bool quiet) {
  Display display(quiet);
  Simulation simulation(
      options, runtime,
      {.on_report = [&](const v1::JobReport& report) { display.Report(report); },
       .on_step = [&](const std::string& site, const train::TrainProgress& step) { display.Step(site, step); }});
  Ended ended;
  std::atomic<bool> finished = false;
  runtime.executor.Run([&] {
    ended.outcome = simulation.Run();
    finished = true;
    runtime::Interrupt();
  });
  while (true) {
    const int signal = runtime::WaitForSignal();
    if (finished) return ended;
    if (ended.signal != 0) std::_Exit(kBySignal + signal);
    ended.signal = signal;
    simulation.Stop();
  }
}

int Finish(const Ended& ended, const std::string& out, bool json) {
  int code = 0;
  if (ended.outcome.ok()) {
    const SimOutcome& outcome = *ended.outcome;
    std::cout << (json ? ReportJson(outcome.job, outcome.alone) : Summary(outcome.job, outcome.alone, out));
    code = outcome.job.summary().state() == v1::DONE ? 0 : kFailed;
  } else {
    code = Fail(ended.outcome.status());
  }
  return ended.signal != 0 ? kBySignal + ended.signal : code;
}

int Run(const Flags& flags) {
  runtime::BlockSignals();
  model::PrepareProcessor();  // while there is one thread
  runtime::SystemRuntime machine(std::max(kMinThreads, runtime::NumCores() + 2));
  const auto text = ReadText(machine.get().files, flags.config);
  if (!text.ok()) return Fail(absl::InvalidArgumentError(absl::StrCat("--config: ", text.status().message())));
  auto options = config::ParseSim(*text, flags.config == "-" ? "standard input" : flags.config);
  if (!options.ok()) {
    std::cerr << options.status().message() << "\n";
    return kMisuse;
  }
  if (!flags.out.empty()) options->out = flags.out;
  if (flags.print_config) {
    std::cout << config::PrintSim(*options);
    return 0;
  }
  telemetry::SetLogLevel(flags.log_level);
  const bool json = flags.format == "json";
  return Finish(RunUntilEnd(*options, machine.get(), json), options->out, json);
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app(
      "Simulates a federation on one machine: the real server, clients and trainer, one base model in memory, sites in "
      "turn.\nWrites report.json, adapter/ (the last version) and rounds/N/SITE/ (what each site sent) to its folder.",
      "strata-sim");
  app.add_option("--config", flags.config,
                 "sim.yaml (deploy/config/sim.yaml explains the keys); - reads standard input")
      ->required();
  app.add_option("--out", flags.out, "Folder of the results, in place of the file's `out`");
  app.add_option("--format", flags.format, "text, or json: the report on standard output")
      ->check(CLI::IsMember({"text", "json"}));
  app.add_option("--log-level", flags.log_level,
                 "debug, info, warning (default) or error, of the log on standard error")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}));
  app.add_flag("--print-config", flags.print_config, "Shows the effective configuration and ends");
  app.set_version_flag("--version", "strata-sim " STRATA_VERSION);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& asked) {  // --help, --version
    return app.exit(asked);
  } catch (const CLI::ParseError& error) {
    std::cerr << "error: " << error.what() << "\nRun with --help for the usage.\n";
    return kMisuse;
  }
  return Run(flags);
}

}  // namespace
}  // namespace strata::sim

int main(int argc, char** argv) {
  try {
    return strata::sim::Main(argc, argv);
  } catch (const std::exception& error) {  // out of memory, mostly
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
}
