#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "client/command_runtime.h"
#include "client/commands.h"
#include "client/model/model_files.h"
#include "client/peft/lora_plan.h"
#include "client/train/memory_plan.h"
#include "common/config/units.h"
#include "common/runtime/posix_file_system.h"
#include "common/status/status_macros.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

using Json = nlohmann::json;

struct PlanFlags {
  std::string model, config, max_memory, format = "text";
  std::vector<std::string> base_adapters;
};

absl::Status Plan(const PlanFlags& flags, const config::TrainOptions& options, runtime::FileSystem& files) {
  STRATA_ASSIGN_OR_RETURN(const auto model, model::ModelFiles::Open(files, flags.model));
  train::PlannedRun run{.options = options, .targets = {}};
  run.options.device = train::DeviceOf(options.device);
  STRATA_ASSIGN_OR_RETURN(run.targets, peft::PlanLora(options.adapter, model->LinearModules()));
  NoteIdleTargets(options.adapter, model->LinearModules());
  STRATA_ASSIGN_OR_RETURN(run.frozen, PlanFrozen(files, flags.base_adapters, model->LinearModules()));
  STRATA_ASSIGN_OR_RETURN(const train::StepShape shape, train::ChooseShape(*model, run));
  const train::MemoryNeeds needs = train::NeedsOf(*model, run, shape);
  const uint64_t parameters = train::NumParameters(run.targets);
  const uint64_t tokens = uint64_t{options.batch_size} * options.gradient_accumulation_steps * options.max_length;
  if (flags.format == "json") {
    std::cout << Json{{"peak_memory_bytes", needs.peak()},
                      {"adapter_bytes", parameters * sizeof(float)},
                      {"trainable_parameters", parameters},
                      {"tokens_per_step", tokens},
                      {"micro_batch_tokens", shape.micro_batch_tokens},
                      {"gradient_checkpointing", shape.recompute},
                      {"host_layers", shape.host_layers},
                      {"base_dtype", config::BaseDTypeWord(run.options.precision().base)}}
                     .dump()
              << "\n";
    return absl::OkStatus();
  }
  const auto mib = [](uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
  std::cout << absl::StrFormat(
      "peak memory       %.0f MiB: weights %.0f, adapter %.0f, %sactivations %.0f, program %.0f\n"
      "adapter           %.1f MiB, %u parameters in %u modules\n"
      "tokens a step     %u at most\n"
      "micro-batches     %u tokens, gradient_checkpointing %s\n"
      "base_dtype        %s\n%s",
      mib(needs.peak()), mib(needs.weights), mib(needs.adapter),
      needs.frozen == 0 ? "" : absl::StrFormat("frozen %.0f, ", mib(needs.frozen)), mib(needs.activations),
      mib(needs.fixed), mib(parameters * sizeof(float)), parameters, run.targets.size(), tokens,
      shape.micro_batch_tokens, shape.recompute ? "on" : "off", config::BaseDTypeWord(run.options.precision().base),
      shape.host_layers == 0 ? ""
                             : absl::StrFormat("host_layers       %d, %.0f MiB of the host's memory\n",
                                               shape.host_layers, mib(needs.host)));
  return absl::OkStatus();
}

int Run(const PlanFlags& flags) {
  runtime::PosixFileSystem files;
  auto options = ReadTrainOptions(files, flags.config);
  if (!options.ok()) return ReportError(options.status(), true);
  if (!flags.max_memory.empty()) options->max_memory = *config::ParseSize(flags.max_memory);
  const absl::Status status = Plan(flags, *options, files);
  return status.ok() ? 0 : ReportError(status, false);
}

}  // namespace

void AddPlanCommand(CLI::App& app, CommandContext& context) {
  auto flags = std::make_shared<PlanFlags>();
  CLI::App* command = app.add_subcommand("plan", "Predict what a training takes of memory, without loading the model");
  command->add_option("--model", flags->model, "Model folder, GGUF file, or org/name in the HF cache")->required();
  command->add_option("--config", flags->config, "train.yaml; - reads standard input");
  command->add_option("--base-adapter", flags->base_adapters, "Frozen beneath the adapter, as train takes them");
  command->add_option("--max-memory", flags->max_memory, "Cut the step to fit, as max_memory does; before its value")
      ->check([](const std::string& text) {
        return config::ParseSize(text).value_or(0) > 0 ? "" : "expected a size such as 8GiB";
      });
  command->add_option("--format", flags->format, "text or json")->check(CLI::IsMember({"text", "json"}));
  command->callback([flags, &context] { context.exit_code = Run(*flags); });
}

}  // namespace strata
