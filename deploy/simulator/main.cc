// strata-sim: a whole federation on one machine.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <iostream>
#include <iterator>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/config/config.h"
#include "common/runtime/process.h"
#include "common/runtime/runtime.h"
#include "common/telemetry/log.h"
#include "deploy/simulator/sim_report.h"
#include "deploy/simulator/simulation.h"

namespace strata::sim {
namespace {

constexpr int kFailed = 1;
constexpr int kMisuse = 2;
constexpr int kNumThreads = 6;  // one trains, the others carry calls and files

struct Flags {
  std::string config, out, format = "text", log_level = "warning";
  bool print_config = false;
};

// One line that is rewritten on a terminal; a line a round wherever it goes.
class Display {
 public:
  explicit Display(bool quiet) : terminal_(isatty(STDERR_FILENO) != 0), quiet_(quiet) {}

  void Show(const v1::JobReport& report) {
    if (quiet_) return;
    for (const v1::RoundReport& round : report.rounds()) {
      if (round.state() != "committed" || round.round() <= told_) continue;
      told_ = round.round();
      Line(RoundLine(round));
    }
    if (terminal_) std::fprintf(stderr, "\r\033[K%s", ProgressLine(report).c_str());
  }
  void End() const {
    if (terminal_ && !quiet_) std::fputs("\r\033[K", stderr);
  }

 private:
  void Line(const std::string& text) const {
    std::fprintf(stderr, "%s%s\n", terminal_ ? "\r\033[K" : "", text.c_str());
  }
  const bool terminal_, quiet_;
  uint32_t told_ = 0;
};

int Fail(const absl::Status& status) {
  std::cerr << "error: " << status.message() << "\n";
  return absl::IsInvalidArgument(status) ? kMisuse : kFailed;
}

absl::StatusOr<std::string> ReadText(runtime::FileSystem& files, const std::string& path) {
  if (path != "-") return files.ReadFile(path);
  return std::string(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
}

int Run(const Flags& flags) {
  runtime::SystemRuntime machine(kNumThreads);
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
  Display display(json);
  const auto report = RunSimulation(*options, machine.get(), [&](const v1::JobReport& next) { display.Show(next); });
  display.End();
  if (!report.ok()) return Fail(report.status());
  if (json) {
    std::cout << ReportJson(*report);
  } else {
    std::cout << "job " << report->summary().name() << ": " << v1::JobState_Name(report->summary().state()) << " "
              << report->summary().reason() << "\nreport: " << options->out << "/report.json\nadapter: " << options->out
              << "/adapter\n";
  }
  return report->summary().state() == v1::DONE ? 0 : kFailed;
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app(
      "Simulates a federation on one machine: the real server, clients and trainer, one base model in memory, sites in "
      "turn.",
      "strata-sim");
  app.add_option("--config", flags.config,
                 "sim.yaml (deploy/config/sim.yaml explains the keys); - reads standard input")
      ->required();
  app.add_option("--out", flags.out, "Folder of the results, in place of the file's `out`");
  app.add_option("--format", flags.format, "text, or json: the report on standard output")
      ->check(CLI::IsMember({"text", "json"}));
  app.add_option("--log-level", flags.log_level, "debug, info, warning or error")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}));
  app.add_flag("--print-config", flags.print_config, "Shows the effective configuration and ends");
  app.set_version_flag("--version", "strata-sim " STRATA_VERSION);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kMisuse;
  }
  return Run(flags);
}

}  // namespace
}  // namespace strata::sim

int main(int argc, char** argv) {
  try {
    return strata::sim::Main(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
}
