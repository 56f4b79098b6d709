// strata-server: the federation's server as a daemon.
#include <iostream>
#include <iterator>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/notification.h"
#include "common/config/config.h"
#include "common/runtime/process.h"
#include "common/runtime/process_lock.h"
#include "common/runtime/runtime.h"
#include "common/status/status_macros.h"
#include "common/telemetry/log.h"
#include "server/server.h"
#include "server/service/listener.h"

namespace strata::server {
namespace {

constexpr int kFailed = 1;
constexpr int kMisuse = 2;
constexpr int kMinThreads = 4;
constexpr absl::Duration kGrace = absl::Seconds(5);

struct Arguments {
  std::string config;
  bool print_config = false;
};

absl::StatusOr<config::ServerOptions> ReadOptions(runtime::FileSystem& files, const std::string& path) {
  if (path == "-") {
    const std::string text((std::istreambuf_iterator<char>(std::cin)), std::istreambuf_iterator<char>());
    return config::ParseServer(text, "standard input");
  }
  absl::StatusOr<std::string> text = files.ReadFile(path);
  if (!text.ok()) return absl::InvalidArgumentError(absl::StrCat("--config: ", text.status().message()));
  return config::ParseServer(*text, path);
}

ServerOptions ToServerOptions(const config::ServerOptions& config) {
  ServerOptions options;
  options.state_dir = config.state_dir;
  options.max_update_bytes = config.max_update_bytes;
  options.progress_interval = config.progress_interval;
  options.controller.liveness_timeout = config.liveness_timeout;
  options.num_threads = runtime::NumCores();
  return options;
}

absl::Status Serve(const config::ServerOptions& config, const runtime::Runtime& runtime) {
  STRATA_RETURN_IF_ERROR(runtime.files.MakeDirectories(config.state_dir));
  STRATA_ASSIGN_OR_RETURN(const auto lock, runtime::ProcessLock::Acquire(runtime::JoinPath(config.state_dir, "lock")));
  FederationServer server(runtime, ToServerOptions(config));
  STRATA_RETURN_IF_ERROR(Annotate(server.Start(), config.state_dir));
  service::ListenOptions listen;
  listen.address = config.listen;
  listen.tls = config.tls;
  listen.admin_socket =
      config.admin_socket.empty() ? runtime::JoinPath(config.state_dir, "admin.sock") : config.admin_socket;
  STRATA_ASSIGN_OR_RETURN(const auto listener, service::Listener::Start(listen, server, runtime));
  telemetry::Log(telemetry::Level::kInfo, "listening",
                 {{"sites", listener->address()}, {"admin", listen.admin_socket}, {"tls", config.tls.enabled()}});
  const int signal = runtime::WaitForSignal();
  telemetry::Log(telemetry::Level::kInfo, "draining", {{"signal", signal}});
  absl::Notification drained;
  server.Stop([&drained] { drained.Notify(); });
  drained.WaitForNotification();
  listener->Shutdown(kGrace);
  telemetry::Log(telemetry::Level::kInfo, "stopped", {});
  return absl::OkStatus();
}

int Run(const Arguments& arguments) {
  runtime::BlockSignals();
  runtime::SystemRuntime machine(std::max(kMinThreads, runtime::NumCores()));
  const runtime::Runtime runtime = machine.get();
  const absl::StatusOr<config::ServerOptions> config = ReadOptions(runtime.files, arguments.config);
  if (!config.ok()) {
    std::cerr << config.status().message() << "\n";
    return kMisuse;
  }
  if (arguments.print_config) {
    std::cout << config::PrintServer(*config);
    return 0;
  }
  telemetry::SetLogLevel(config->log_level);
  const absl::Status served = Serve(*config, runtime);
  if (served.ok()) return 0;
  std::cerr << "strata-server: " << served.message() << "\n";
  // A certificate or an address that cannot be used is the file's fault.
  return absl::IsInvalidArgument(served) ? kMisuse : kFailed;
}

}  // namespace
}  // namespace strata::server

int main(int argc, char** argv) {
  strata::server::Arguments arguments;
  CLI::App app(
      "The server of a Strata federation: adds up the sites' LoRA updates exactly, round after round.\n"
      "Stops on SIGINT or SIGTERM; a restart goes on with what was acknowledged.");
  app.add_option("--config", arguments.config,
                 "server.yaml (deploy/config/server.yaml explains the keys); - reads standard input")
      ->required();
  app.add_flag("--print-config", arguments.print_config, "show the effective configuration and end");
  app.set_version_flag("--version", "strata-server " STRATA_VERSION);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : strata::server::kMisuse;
  }
  return strata::server::Run(arguments);
}
