#include <atomic>
#include <cstdlib>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/client.h"
#include "client/commands.h"
#include "client/data/row_files.h"
#include "client/link/grpc_federation_link.h"
#include "client/model_offers.h"
#include "client/train/command_trainer.h"
#include "client/train/native_trainer.h"
#include "common/config/config.h"
#include "common/runtime/process.h"
#include "common/runtime/process_lock.h"
#include "common/runtime/runtime.h"
#include "common/status/status_macros.h"
#include "common/telemetry/log.h"

namespace strata {
namespace {

// A training blocks one, files and answers need the others.
constexpr int kNumThreads = 4;

struct RunFlags {
  std::string config;
  bool print_config = false;
};

absl::StatusOr<std::string> ReadText(runtime::FileSystem& files, const std::string& path) {
  if (path != "-") return files.ReadFile(path);
  return std::string(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
}

// Everything that a look at the machine can find wrong with the file, at once.
absl::Status CheckPaths(runtime::FileSystem& files, const config::ClientOptions& options) {
  std::vector<std::string> faults;
  for (const auto& [label, path] : options.data) {
    const absl::Status found = data::RowFiles(files, path).status();
    if (!found.ok()) faults.push_back(absl::StrCat("data: ", label, ": ", found.message()));
  }
  if (faults.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrJoin(faults, "\n"));
}

std::unique_ptr<train::LocalTrainer> MakeTrainer(runtime::FileSystem& files, const config::ClientOptions& options) {
  if (!options.trainer_command.empty()) {
    return std::make_unique<train::CommandTrainer>(files, options.trainer_command, options.threads);
  }
  return train::MakeNativeTrainer(files, options);
}

// Runs until the session ends: of itself (max_rounds) or after SIGINT or SIGTERM. A second signal ends the process.
absl::Status RunUntilEnd(Client& client) {
  std::atomic<bool> finished = false;
  absl::Status result;
  client.Start([&](const absl::Status& status) {
    result = status;
    finished = true;
    runtime::Interrupt();
  });
  bool stopping = false;
  while (true) {
    const int signal = runtime::WaitForSignal();
    if (finished) return result;
    if (stopping) std::_Exit(1);
    stopping = true;
    telemetry::Log(telemetry::Level::kInfo, "stopping", {{"signal", signal}});
    client.Stop();
  }
}

absl::Status Serve(const config::ClientOptions& options, runtime::SystemRuntime& system) {
  runtime::Runtime runtime = system.get();
  STRATA_RETURN_IF_ERROR(Annotate(runtime.files.MakeDirectories(options.state_dir), "state_dir"));
  STRATA_ASSIGN_OR_RETURN(const auto lock, runtime::ProcessLock::Acquire(runtime::JoinPath(options.state_dir, "lock")));
  ClientSetup setup{.options = options, .offers = {}, .session = {}};
  STRATA_RETURN_IF_ERROR(CheckPaths(runtime.files, options));
  const std::string cache = runtime::JoinPath(options.state_dir, "cache");
  STRATA_RETURN_IF_ERROR(runtime.files.MakeDirectories(cache));
  STRATA_ASSIGN_OR_RETURN(setup.offers, OfferModels(runtime.files, options.models, cache));
  const auto trainer = MakeTrainer(runtime.files, options);
  link::LinkOptions link_options;
  link_options.address = options.server;
  link_options.tls = options.tls;
  link_options.site = options.name;
  link_options.software = "strata-client " STRATA_VERSION;
  STRATA_ASSIGN_OR_RETURN(const auto link, link::GrpcFederationLink::Create(link_options, runtime));
  STRATA_ASSIGN_OR_RETURN(
      auto client, Client::Open({.runtime = runtime, .training = runtime.executor, .link = *link, .trainer = *trainer},
                                std::move(setup)));
  telemetry::Log(telemetry::Level::kInfo, "client_started",
                 {{"server", options.server}, {"models", options.models.size()}, {"data", options.data.size()}});
  absl::Status ended = RunUntilEnd(*client);
  link->Shutdown();
  client.reset();
  telemetry::Log(telemetry::Level::kInfo, "client_ended", {{"status", ended.ToString()}});
  return ended;
}

int Run(const RunFlags& flags) {
  runtime::BlockSignals();
  runtime::SystemRuntime system(kNumThreads);
  const auto text = ReadText(system.get().files, flags.config);
  if (!text.ok()) return ReportError(text.status(), true);
  const auto options = config::ParseClient(*text, flags.config == "-" ? "standard input" : flags.config);
  if (!options.ok()) return ReportError(options.status(), true);
  if (flags.print_config) {
    std::cout << config::PrintClient(*options);
    return 0;
  }
  telemetry::SetLogLevel(options->log_level);
  const absl::Status status = Serve(*options, system);
  if (status.ok()) return 0;
  return ReportError(status, absl::IsInvalidArgument(status));
}

}  // namespace

void AddRunCommand(CLI::App& app, CommandContext& context) {
  auto flags = std::make_shared<RunFlags>();
  CLI::App* run = app.add_subcommand("run", "Takes part in a server's jobs until told to stop (the daemon)");
  run->add_option("--config", flags->config, "client.yaml; - reads standard input")->required();
  run->add_flag("--print-config", flags->print_config, "Shows the effective configuration and exits");
  run->callback([flags, &context] { context.exit_code = Run(*flags); });
}

}  // namespace strata
