#include <sys/ioctl.h>
#include <unistd.h>

#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/config/config.h"
#include "common/config/convert.h"
#include "common/runtime/runtime.h"
#include "common/status/status_macros.h"
#include "server/ctl/commands.h"
#include "server/ctl/job_text.h"
#include "server/ctl/job_watch.h"
#include "server/ctl/message_json.h"
#include "server/ctl/module_table.h"

namespace strata::ctl {
namespace {

constexpr int kDefaultColumns = 80;
constexpr absl::Duration kPatience = absl::Minutes(2);  // with a server that restarts

struct SubmitFlags {
  std::string file;
  std::string model;
  bool print_config = false;
};

absl::StatusOr<std::string> ReadText(runtime::FileSystem& files, const std::string& file) {
  if (file != "-") return files.ReadFile(file);
  return std::string(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
}

absl::Status Submit(const SubmitFlags& flags, const CtlContext& context) {
  runtime::SystemRuntime system(1);
  runtime::FileSystem& files = system.get().files;
  absl::StatusOr<std::string> text = ReadText(files, flags.file);
  if (!text.ok()) return absl::InvalidArgumentError(text.status().message());
  const std::string place = flags.file == "-" ? "standard input" : flags.file;
  STRATA_ASSIGN_OR_RETURN(config::JobOptions job, config::ParseJob(*text, place));
  if (!flags.model.empty()) {
    STRATA_ASSIGN_OR_RETURN(job.modules, ReadModuleTable(files, flags.model));
  }
  if (flags.print_config) {
    std::cout << config::PrintJob(job);
    return absl::OkStatus();
  }
  STRATA_ASSIGN_OR_RETURN(AdminClient client, AdminClient::Connect(context.socket));
  STRATA_ASSIGN_OR_RETURN(const std::string id, client.SubmitJob(config::ToProto(job)));
  v1::SubmitJobResponse response;
  response.set_id(id);
  std::cout << (context.json() ? MessageJson(response) : id) << "\n";
  return absl::OkStatus();
}

absl::Status List(const CtlContext& context) {
  STRATA_ASSIGN_OR_RETURN(AdminClient client, AdminClient::Connect(context.socket));
  STRATA_ASSIGN_OR_RETURN(const v1::ListJobsResponse jobs, client.ListJobs());
  std::cout << (context.json() ? MessageJson(jobs) + "\n" : JobTable(jobs));
  return absl::OkStatus();
}

absl::Status Show(const std::string& id, const CtlContext& context) {
  STRATA_ASSIGN_OR_RETURN(AdminClient client, AdminClient::Connect(context.socket));
  STRATA_ASSIGN_OR_RETURN(const v1::JobReport report, client.ShowJob(id));
  std::cout << (context.json() ? MessageJson(report) + "\n" : JobText(report));
  return absl::OkStatus();
}

int TerminalColumns() {
  if (isatty(STDOUT_FILENO) == 0) return 0;
  winsize size{};
  const bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : kDefaultColumns;
}

absl::Status Watch(const std::string& id, CtlContext& context) {
  STRATA_ASSIGN_OR_RETURN(AdminClient client, AdminClient::Connect(context.socket));
  JobDisplay display(std::cout, context.json() ? 0 : TerminalColumns());
  v1::JobSummary last;
  const auto show = [&](const v1::JobReport& report) {
    last = report.summary();
    if (context.json()) {
      std::cout << MessageJson(report) << std::endl;
    } else {
      display.Show(report);
    }
  };
  absl::Status status = client.WatchJob(id, show);
  while (status.code() == absl::StatusCode::kUnavailable && !HasEnded(last.state())) {
    std::cerr << "note: the server went away; waiting for it\n";
    if (!client.AwaitServer(kPatience)) return status;
    status = client.WatchJob(id, show);
  }
  STRATA_RETURN_IF_ERROR(status);
  if (last.state() != v1::DONE) context.exit_code = 1;
  return absl::OkStatus();
}

absl::Status Abort(const std::string& id, const std::string& reason, const CtlContext& context) {
  STRATA_ASSIGN_OR_RETURN(AdminClient client, AdminClient::Connect(context.socket));
  STRATA_ASSIGN_OR_RETURN(const v1::JobSummary job, client.AbortJob(id, reason));
  std::cout << (context.json() ? MessageJson(job) : absl::StrCat("job ", job.id(), "  ", StateName(job.state())))
            << "\n";
  return absl::OkStatus();
}

void Run(const absl::Status& status, CtlContext& context) {
  if (!status.ok()) Report(status, context);
}

}  // namespace

void AddJobCommand(CLI::App& app, CtlContext& context) {
  CLI::App* job = app.add_subcommand("job", "Submit, follow and end jobs");
  job->require_subcommand(1)->fallthrough();

  const auto flags = std::make_shared<SubmitFlags>();
  CLI::App* submit = job->add_subcommand("submit", "Submit a job; prints its id")->fallthrough();
  submit->add_option("FILE", flags->file, "job.yaml, or - for standard input")->required();
  submit->add_option(
      "--model", flags->model,
      "HF directory of the base model: check the job's targets against its modules at once (default: when "
      "the first site checks in)");
  submit->add_flag("--print-config", flags->print_config,
                   "Show the effective file, defaults filled in, and submit nothing");
  submit->callback([flags, &context] { Run(Submit(*flags, context), context); });

  job->add_subcommand("list", "All jobs, oldest first")->fallthrough()->callback([&context] {
    Run(List(context), context);
  });

  const auto id = std::make_shared<std::string>();
  CLI::App* show = job->add_subcommand("show", "A job's rounds, sites and figures")->fallthrough();
  show->add_option("ID", *id, "The job, as `job list` shows it")->required();
  show->callback([id, &context] { Run(Show(*id, context), context); });

  CLI::App* watch =
      job->add_subcommand("watch", "Follow a job to its end; exit code 0 when it is done, 1 when it failed");
  watch->fallthrough()->add_option("ID", *id, "The job, as `job list` shows it")->required();
  watch->callback([id, &context] { Run(Watch(*id, context), context); });

  const auto reason = std::make_shared<std::string>("aborted by the operator");
  CLI::App* abort = job->add_subcommand("abort", "End a job; versions that it made stay")->fallthrough();
  abort->add_option("ID", *id, "The job, as `job list` shows it")->required();
  abort->add_option("--reason", *reason, "Shown to the sites and in `job show`")->capture_default_str();
  abort->callback([id, reason, &context] { Run(Abort(*id, *reason, context), context); });
}

}  // namespace strata::ctl
