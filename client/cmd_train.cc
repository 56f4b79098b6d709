#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "client/command_runtime.h"
#include "client/commands.h"
#include "client/model/torch_guard.h"
#include "client/peft/adapter_state.h"
#include "client/peft/lora_plan.h"
#include "client/train/loaded_model.h"
#include "client/train/training_loop.h"
#include "common/adapter/adapter.h"
#include "common/config/config.h"
#include "common/runtime/process.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

using Json = nlohmann::json;

struct TrainFlags {
  std::string model, data, out, config, init_adapter, dtype, device, format = "text";
  std::vector<std::string> base_adapters;
  std::optional<uint64_t> seed;
  int threads = 0;
  bool print_config = false;
};

// A fault of what the user wrote (exit code 2) apart from a failure (1).
struct Outcome {
  absl::Status status;
  bool misuse = false;
};

absl::StatusOr<config::TrainOptions> ReadOptions(runtime::FileSystem& files, const TrainFlags& flags) {
  config::TrainOptions options;
  if (!flags.config.empty()) {
    std::string text;
    if (flags.config == "-") {
      text.assign(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
    } else {
      STRATA_ASSIGN_OR_RETURN(text, files.ReadFile(flags.config));
    }
    STRATA_ASSIGN_OR_RETURN(options, config::ParseTrain(text, flags.config == "-" ? "standard input" : flags.config));
  }
  if (!flags.dtype.empty()) options.dtype = ParseDType(flags.dtype);
  if (!flags.device.empty()) options.device = flags.device;
  if (flags.seed.has_value()) options.seed = *flags.seed;
  return options;
}

// One line a step: JSON, a line that overwrites itself on a terminal, plain lines elsewhere.
class Reporter {
 public:
  explicit Reporter(bool json) : json_(json), terminal_(isatty(STDERR_FILENO) == 1) {}

  void Step(const train::TrainProgress& p) {
    if (p.step == 1) first_step_seconds_ = absl::ToDoubleSeconds(runtime::SinceProcessStart());
    if (json_) {
      Print({{"step", p.step},
             {"loss", p.loss},
             {"grad_norm", p.grad_norm},
             {"learning_rate", p.learning_rate},
             {"tokens", p.tokens}});
      return;
    }
    const std::string line = absl::StrFormat("step %u/%u  loss %.4f  grad norm %.3f  rate %.2e  %.0f tokens/s", p.step,
                                             p.of, p.loss, p.grad_norm, p.learning_rate, p.tokens_per_second);
    std::cerr << (terminal_ ? "\r" : "") << line << (terminal_ && p.step < p.of ? "\033[K" : "\n") << std::flush;
  }

  void Done(const train::LoopSummary& s, const std::string& out) {
    if (json_) {
      Print({{"done", true},
             {"tokens_per_second", s.tokens_per_second},
             {"seconds", s.seconds},
             {"first_step_seconds", first_step_seconds_},
             {"peak_rss_bytes", runtime::PeakResidentBytes()},
             {"num_examples", num_examples_},
             {"truncated", truncated_},
             {"bad_rows", bad_rows_}});
      return;
    }
    std::cout << absl::StrFormat(
        "%u steps, %u tokens in %.1f s (%.0f tokens/s); loss %.4f -> %.4f; the adapter is in %s\n", s.steps, s.tokens,
        s.seconds, s.tokens_per_second, s.first_loss, s.last_loss, out);
  }

  void Data(const data::Dataset& rows) {
    num_examples_ = rows.rows.size();
    truncated_ = rows.num_truncated;
    bad_rows_ = rows.num_bad;
    if (rows.num_truncated > 0)
      std::cerr << "note: " << rows.num_truncated << " rows are longer than max_length and were cut\n";
    if (rows.num_empty > 0)
      std::cerr << "note: " << rows.num_empty << " rows have nothing to learn and were left out\n";
    if (rows.num_bad > 0) std::cerr << "note: " << rows.num_bad << " bad rows were skipped:\n" << rows.bad_rows << "\n";
  }

 private:
  static void Print(const Json& line) { std::cout << line.dump() << std::endl; }
  bool json_, terminal_;
  double first_step_seconds_ = 0;
  uint64_t num_examples_ = 0, truncated_ = 0, bad_rows_ = 0;
};

struct Initial {
  std::optional<adapter::Adapter> adapter;
  bool use_rslora = false;
};

Outcome PlanTargets(const TrainFlags& flags, const config::TrainOptions& options,
                    const std::vector<config::ModuleShape>& modules, runtime::FileSystem& files, Initial& initial,
                    std::vector<train::Target>& targets) {
  if (flags.init_adapter.empty() || options.adapter.specified) {
    auto planned = peft::PlanLora(options.adapter, modules);
    if (!planned.ok()) return {planned.status(), true};
    targets = *std::move(planned);
  }
  initial.use_rslora = options.adapter.use_rslora;
  if (flags.init_adapter.empty()) return {};
  auto read = adapter::ReadPeft(files, flags.init_adapter);
  if (!read.ok()) return {Annotate(read.status(), "--init-adapter"), false};
  auto planned = peft::PlanFromAdapter(read->first, modules);
  if (!planned.ok()) return {Annotate(planned.status(), "--init-adapter " + flags.init_adapter), true};
  if (options.adapter.specified) {
    if (absl::Status same = peft::CheckSamePlan(targets, *planned); !same.ok()) return {same, true};
  }
  targets = *std::move(planned);
  initial.use_rslora = read->second.options.use_rslora;
  initial.adapter.emplace(std::move(read->first));
  return {};
}

absl::StatusOr<train::LoopSummary> Train(const TrainFlags& flags, const config::TrainOptions& options,
                                         Interruptible& session, train::ModelCache& models, Outcome& misuse) {
  runtime::Runtime runtime = session.runtime();
  Reporter reporter(flags.format == "json");
  STRATA_ASSIGN_OR_RETURN(train::LoadedModel* const loaded, models.Get(flags.model, options.dtype, options.device));
  model::Transformer& model = *loaded->transformer;
  STRATA_ASSIGN_OR_RETURN(
      const data::Dataset rows,
      models.ReadRows(*loaded, flags.data, train::RowPolicyOf(options, runtime::JoinPath(flags.out, "scratch"))));
  reporter.Data(rows);
  Initial initial;
  std::vector<train::Target> targets;
  misuse = PlanTargets(flags, options, model.files().LinearModules(), runtime.files, initial, targets);
  STRATA_RETURN_IF_ERROR(misuse.status);
  STRATA_ASSIGN_OR_RETURN(const std::vector<model::NamedFactors> base,
                          ReadFrozen(runtime.files, flags.base_adapters, model.device()));
  STRATA_RETURN_IF_ERROR(model.SetBase(base, model::BaseRoute::kByDtype));
  std::unique_ptr<peft::AdapterState> state;
  STRATA_RETURN_IF_ERROR(model::TorchGuard("setting up the adapter", [&]() -> absl::Status {
    state = std::make_unique<peft::AdapterState>(std::move(targets), model.device());
    if (initial.adapter.has_value()) return state->Assign(*initial.adapter);
    state->InitFresh(options.seed, 0, "");
    return absl::OkStatus();
  }));
  const train::LoopContext context{
      .model = model, .state = *state, .clock = runtime.clock, .seed = options.seed, .round = 0, .site = {}};
  STRATA_ASSIGN_OR_RETURN(const train::LoopSummary summary,
                          train::RunTraining(context, options, rows.rows, [&](const train::TrainProgress& progress) {
                            reporter.Step(progress);
                            return !session.stopped();
                          }));
  const adapter::PeftWriteOptions write{
      .base_model = flags.model, .use_rslora = initial.use_rslora, .dropout = options.adapter.dropout};
  STRATA_RETURN_IF_ERROR(adapter::WritePeft(runtime.files, flags.out, state->ToAdapter(), write));
  reporter.Done(summary, flags.out);
  return summary;
}

int Run(const TrainFlags& flags) {
  Interruptible session;
  const auto options = ReadOptions(session.runtime().files, flags);
  if (!options.ok()) return ReportError(options.status(), true);
  if (flags.print_config) {
    std::cout << config::PrintTrain(*options);
    return 0;
  }
  Outcome misuse;
  train::ModelCache models(session.runtime().files, flags.threads);
  const auto summary = Train(flags, *options, session, models, misuse);
  if (summary.ok()) return 0;
  const bool stopped = absl::IsCancelled(summary.status());
  return ReportError(stopped ? Annotate(summary.status(), "interrupted; nothing was written") : summary.status(),
                     misuse.misuse);
}

}  // namespace

void AddTrainCommand(CLI::App& app, CommandContext& context) {
  auto flags = std::make_shared<TrainFlags>();
  CLI::App* command = app.add_subcommand("train", "Train a LoRA adapter on one file, without a server");
  command->add_option("--model", flags->model, "Model folder, GGUF file, or org/name in the HF cache")->required();
  command
      ->add_option(
          "--data", flags->data,
          "JSONL (also .zst) of {\"text\"}, {\"messages\"}, {\"prompt\",\"completion\"} or {\"input_ids\",\"labels\"}")
      ->required();
  command->add_option("--out", flags->out, "Folder for the adapter, which HF PEFT loads")->required();
  command->add_option("--config", flags->config, "train.yaml (see deploy/config); - reads standard input");
  command->add_flag("--print-config", flags->print_config, "Show the effective configuration and exit");
  command->add_option("--init-adapter", flags->init_adapter,
                      "Start from this PEFT folder, with its ranks and scalings");
  command->add_option("--base-adapter", flags->base_adapters, "Frozen beneath the adapter; several add up");
  command->add_option("--dtype", flags->dtype, "fp32 or bf16; before the configuration's")
      ->check(CLI::IsMember({"fp32", "bf16"}));
  command->add_option("--device", flags->device, "auto, cpu or cuda:N; before the configuration's");
  command->add_option("--threads", flags->threads, "Threads that compute (default: all cores)")
      ->check(CLI::PositiveNumber);
  command->add_option("--seed", flags->seed, "Before the configuration's");
  command->add_option("--format", flags->format, "text or json")->check(CLI::IsMember({"text", "json"}));
  command->callback([flags, &context] { context.exit_code = Run(*flags); });
}

}  // namespace strata
