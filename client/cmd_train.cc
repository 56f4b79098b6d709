#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/command_runtime.h"
#include "client/commands.h"
#include "client/model/torch_guard.h"
#include "client/peft/adapter_state.h"
#include "client/peft/lora_plan.h"
#include "client/train/checkpoint.h"
#include "client/train/loaded_model.h"
#include "client/train/run_inputs.h"
#include "client/train/training_loop.h"
#include "client/training_processes.h"
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
  std::string model, data, out, config, init_adapter, dtype, base_dtype, device, format = "text";
  std::vector<std::string> base_adapters;
  std::optional<uint64_t> seed;
  int threads = 0, processes = 1;
  int worker = 0;  // of several processes: which this is; the first is the one that was typed
  bool print_config = false, restart = false;
  std::vector<std::string> arguments;  // as typed

  train::ReplicaPlace place() const {
    return {.rank = worker, .size = processes, .folder = runtime::JoinPath(out, ".processes")};
  }
  // For what a process keeps on disk while it runs.
  std::string scratch() const { return worker == 0 ? out : runtime::JoinPath(place().folder, Cat("worker-", worker)); }
  int threads_each() const {
    return threads > 0 || processes == 1 ? threads : std::max(runtime::NumCores() / processes, 1);
  }
};

// A fault of what the user wrote (exit code 2) apart from a failure (1).
struct Outcome {
  absl::Status status;
  bool misuse = false;
};

// A CUDA device for each of them, from the named one on; else they share the CPUs.
std::string DeviceOfWorker(const std::string& device, int worker) {
  if (!device.starts_with("cuda")) return "cpu";
  const size_t colon = device.find(':');
  int first = 0;
  if (device != "cuda" && (colon == std::string::npos || !absl::SimpleAtoi(device.substr(colon + 1), &first)))
    return device;
  return Cat("cuda:", first + worker);
}

// Whether there is one for each: looked at before they are started, whose own errors would be lost.
absl::Status CheckDevices(const TrainFlags& flags, const config::TrainOptions& options) {
  if (flags.processes == 1 || flags.worker > 0 || options.device == "cpu") return absl::OkStatus();
  STRATA_RETURN_IF_ERROR(model::ResolveDevice(DeviceOfWorker(options.device, flags.processes - 1)).status());
  return model::HasCudaKernels() ? absl::OkStatus() : train::NoNccl();
}

absl::StatusOr<config::TrainOptions> ReadOptions(runtime::FileSystem& files, const TrainFlags& flags) {
  STRATA_ASSIGN_OR_RETURN(config::TrainOptions options, ReadTrainOptions(files, flags.config));
  if (!flags.device.empty()) options.device = flags.device;
  STRATA_RETURN_IF_ERROR(SetPrecision(flags.dtype, flags.base_dtype, options));
  if (flags.processes > 1) {
    if (flags.config == "-") return absl::InvalidArgumentError("--processes: name a file with --config, not -");
    options.device = DeviceOfWorker(options.device, flags.worker);
  }
  if (flags.seed.has_value()) options.seed = *flags.seed;
  return options;
}

// One line a step: JSON, a line that overwrites itself on a terminal, plain lines elsewhere.
class Reporter {
 public:
  // `silent`: says nothing.
  Reporter(bool json, bool silent) : json_(json), silent_(silent), terminal_(isatty(STDERR_FILENO) == 1) {}

  void Step(const train::TrainProgress& p) {
    if (silent_) return;
    if (first_step_seconds_ == 0) first_step_seconds_ = absl::ToDoubleSeconds(runtime::SinceProcessStart());
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

  void Note(const train::TrainNote& note) const {
    if (silent_) return;
    const std::string word(train::NoteWord(note.kind));
    if (json_) return Print({{"note", word}, {"at_step", note.step}, {"detail", note.detail}});
    std::cerr << (terminal_ ? "\r\033[K" : "") << "note: " << (note.step > 0 ? Cat("step ", note.step, ": ") : "")
              << note.detail << "\n";
  }

  void AlreadyFinished(const train::RunPosition& p, const std::string& out) const {
    if (json_) return Print({{"done", true}, {"already_finished", true}, {"steps", p.steps}, {"seconds", p.seconds}});
    std::cout << "already finished: " << out << " holds the adapter of this run, after " << p.steps
              << " steps; --restart trains anew\n";
  }

  void Done(const train::LoopSummary& s, const std::string& out) {
    if (silent_) return;
    const train::RunPosition& p = s.position;
    if (json_) {
      Print({{"done", true},
             {"tokens_per_second", s.tokens_per_second},
             {"seconds", p.seconds},
             {"first_step_seconds", first_step_seconds_},
             {"peak_rss_bytes", runtime::PeakResidentBytes()},
             {"num_examples", num_examples_},
             {"truncated", truncated_},
             {"split", split_},
             {"bad_rows", bad_rows_}});
      return;
    }
    std::cout << absl::StrFormat(
        "%u steps, %u tokens in %.1f s (%.0f tokens/s); loss %.4f -> %.4f; the adapter is in %s\n", p.steps, p.tokens,
        p.seconds, s.tokens_per_second, p.first_loss, p.last_loss, out);
  }

  void Data(const data::Dataset& rows) {
    if (silent_) return;
    num_examples_ = rows.rows.size();
    truncated_ = rows.num_truncated;
    split_ = rows.num_split;
    bad_rows_ = rows.num_bad;
    for (const std::string& note : data::NotesOn(rows)) std::cerr << "note: " << note << "\n";
  }

 private:
  static void Print(const Json& line) { std::cout << line.dump() << std::endl; }
  bool json_, silent_, terminal_;
  double first_step_seconds_ = 0;
  uint64_t num_examples_ = 0, truncated_ = 0, split_ = 0, bad_rows_ = 0;
};

// What is trained, and where it starts.
struct Plan {
  std::vector<train::Target> targets;
  std::optional<adapter::Adapter> initial;
  bool use_rslora = false;
  train::StepShape shape;
};

Outcome PlanTargets(const TrainFlags& flags, const config::TrainOptions& options,
                    const std::vector<config::ModuleShape>& modules, runtime::FileSystem& files, Plan& plan) {
  if (flags.init_adapter.empty() || options.adapter.specified) {
    auto planned = peft::PlanLora(options.adapter, modules);
    if (!planned.ok()) return {planned.status(), true};
    plan.targets = *std::move(planned);
    if (flags.worker == 0) NoteIdleTargets(options.adapter, modules);
  }
  plan.use_rslora = options.adapter.use_rslora;
  if (flags.init_adapter.empty()) return {};
  auto read = adapter::ReadPeftFor(modules, files, flags.init_adapter);
  if (!read.ok()) return {Annotate(read.status(), "--init-adapter"), false};
  auto planned = peft::PlanFromAdapter(read->first, modules);
  if (!planned.ok()) return {Annotate(planned.status(), "--init-adapter " + flags.init_adapter), true};
  if (options.adapter.specified) {
    if (absl::Status same = peft::CheckSamePlan(plan.targets, *planned); !same.ok()) return {same, true};
  }
  plan.targets = *std::move(planned);
  plan.use_rslora = read->second.options.use_rslora;
  plan.initial.emplace(std::move(read->first));
  return {};
}

absl::StatusOr<std::string> AdapterDigest(runtime::FileSystem& files, const std::string& folder) {
  STRATA_ASSIGN_OR_RETURN(const std::string config,
                          train::FileDigest(files, runtime::JoinPath(folder, "adapter_config.json")));
  STRATA_ASSIGN_OR_RETURN(const std::string tensors,
                          train::FileDigest(files, runtime::JoinPath(folder, "adapter_model.safetensors")));
  return config.substr(0, tensors.size() / 2) + tensors.substr(0, tensors.size() / 2);
}

// All that the run's numbers depend on, by the names of the file and the flags.
absl::StatusOr<train::RunInputs> InputsOf(const TrainFlags& flags, const config::TrainOptions& options,
                                          const model::ModelFiles& model, runtime::FileSystem& files) {
  train::RunInputs inputs = config::SettingsOf(options);
  for (const char* key : {"checkpoint_steps", "gradient_checkpointing", "on_non_finite"}) inputs.erase(key);
  STRATA_ASSIGN_OR_RETURN(inputs["--model"], train::ModelFingerprint(files, model));
  STRATA_ASSIGN_OR_RETURN(inputs["--data"], train::DataDigest(files, flags.data));
  if (!flags.init_adapter.empty()) {
    STRATA_ASSIGN_OR_RETURN(inputs["--init-adapter"], AdapterDigest(files, flags.init_adapter));
  }
  if (flags.processes > 1) inputs["--processes"] = Cat(flags.processes);  // they add up in another order
  for (size_t i = 0; i < flags.base_adapters.size(); ++i) {
    STRATA_ASSIGN_OR_RETURN(inputs[Cat("--base-adapter ", i + 1)], AdapterDigest(files, flags.base_adapters[i]));
  }
  return inputs;
}

// The run that --out holds the beginning of, or the end.
struct Standing {
  Reporter* reporter = nullptr;  // borrowed
  std::unique_ptr<train::CheckpointStore> store;
  std::optional<train::SavedRun> run;
};

// What the first process found, which has looked at it and started this one.
absl::StatusOr<Standing> FindRunOfFirst(const TrainFlags& flags, runtime::Runtime& runtime, Reporter& reporter) {
  const std::string folder = runtime::JoinPath(flags.out, "checkpoint");
  train::CheckpointStore store(runtime.files, runtime.clock, {.directory = folder}, {});
  STRATA_ASSIGN_OR_RETURN(train::FoundRun found, store.Latest());
  if (found.run.has_value() && found.run->finished) found.run.reset();
  return Standing{.reporter = &reporter, .store = nullptr, .run = std::move(found.run)};
}

absl::StatusOr<Standing> FindRun(const TrainFlags& flags, const config::TrainOptions& options, train::RunInputs inputs,
                                 runtime::Runtime& runtime, Reporter& reporter) {
  Standing standing{.reporter = &reporter, .store = nullptr, .run = std::nullopt};
  standing.store = std::make_unique<train::CheckpointStore>(
      runtime.files, runtime.clock,
      train::CheckpointStore::Options{.directory = runtime::JoinPath(flags.out, "checkpoint"),
                                      .every_steps = options.checkpoint_steps,
                                      .when_stopped = options.checkpoint_steps > 0},
      std::move(inputs));
  if (flags.restart) STRATA_RETURN_IF_ERROR(standing.store->Clear());
  STRATA_ASSIGN_OR_RETURN(train::FoundRun found, standing.store->Latest());
  for (const std::string& path : found.damaged) {
    reporter.Note({.kind = train::TrainNote::Kind::kCheckpointDamaged,
                   .step = 0,
                   .detail = path + " is damaged and does not count"});
  }
  if (!found.run.has_value()) return standing;
  if (found.run->finished && !runtime.files.Exists(runtime::JoinPath(flags.out, "adapter_model.safetensors")))
    return standing;
  const auto changed = train::Differences(found.run->inputs, standing.store->inputs());
  if (!changed.empty()) {
    return absl::FailedPreconditionError(Cat(
        flags.out, " holds another run, ", found.run->finished ? "finished" : "begun", " (", found.run->position.steps,
        " steps):\n", absl::StrJoin(changed, "\n"), "\nname another --out, or begin anew with --restart"));
  }
  standing.run = *std::move(found.run);
  return standing;
}

// The model with C_t, and the factors as they start.
absl::StatusOr<std::unique_ptr<peft::AdapterState>> SetUp(const TrainFlags& flags, const config::TrainOptions& options,
                                                          Plan& plan, runtime::FileSystem& files,
                                                          model::Transformer& model) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<model::NamedFactors> base, ReadFrozen(files, flags.base_adapters, model));
  STRATA_RETURN_IF_ERROR(model.SetBase(base, model::BaseRoute::kByDtype));
  std::unique_ptr<peft::AdapterState> state;
  STRATA_RETURN_IF_ERROR(model::TorchGuard("setting up the adapter", [&]() -> absl::Status {
    state = std::make_unique<peft::AdapterState>(std::move(plan.targets), model.device());
    if (plan.initial.has_value()) return state->Assign(*plan.initial);
    state->InitFresh(options.seed, 0, "");
    STRATA_RETURN_IF_ERROR(model.SetTrained(state->Factors()));
    return model.ResetMagnitudes();
  }));
  return state;
}

// Loads the model and runs the plan to its end, from where `standing` says.
absl::Status Execute(const TrainFlags& flags, const config::TrainOptions& options, Interruptible& session, Plan plan,
                     const Standing& standing) {
  runtime::Runtime runtime = session.runtime();
  Reporter& reporter = *standing.reporter;
  STRATA_RETURN_IF_ERROR(CheckDevices(flags, options));
  // Where the adapter cannot be left no step is worth its time.
  STRATA_RETURN_IF_ERROR(Annotate(runtime.files.MakeDirectories(flags.out), "--out"));
  std::unique_ptr<TrainingProcesses> processes;
  if (flags.processes > 1) {
    STRATA_ASSIGN_OR_RETURN(processes, TrainingProcesses::Gather(runtime.files, flags.place(), flags.arguments));
  }
  train::ModelCache models(runtime.files, flags.threads_each());
  STRATA_ASSIGN_OR_RETURN(
      train::LoadedModel* const loaded,
      models.Get(flags.model, options.precision(), {.device = options.device, .host_layers = plan.shape.host_layers}));
  model::Transformer& model = *loaded->transformer;
  if (processes != nullptr) STRATA_RETURN_IF_ERROR(processes->MoveTo(model.device()));
  STRATA_ASSIGN_OR_RETURN(const data::Dataset rows,
                          models.ReadRows(*loaded, flags.data, train::RowPolicyOf(options, flags.scratch())));
  reporter.Data(rows);
  STRATA_ASSIGN_OR_RETURN(const auto state, SetUp(flags, options, plan, runtime.files, model));
  const train::LoopContext context{.model = model,
                                   .state = *state,
                                   .clock = runtime.clock,
                                   .seed = options.seed,
                                   .round = 0,
                                   .site = {},
                                   .checkpoints = standing.store.get(),
                                   .resume = standing.run.has_value() ? &*standing.run : nullptr,
                                   .shape = plan.shape,
                                   .on_note = [&](const train::TrainNote& note) { reporter.Note(note); },
                                   .replicas = processes == nullptr ? nullptr : &processes->replicas()};
  const absl::StatusOr<train::LoopSummary> summary =
      train::RunTraining(context, options, rows.rows, [&](const train::TrainProgress& progress) {
        reporter.Step(progress);
        return !session.stopped();
      });
  if (!summary.ok()) return processes == nullptr ? summary.status() : processes->Explain(summary.status());
  if (flags.worker > 0) return absl::OkStatus();
  const adapter::PeftWriteOptions write{
      .base_model = flags.model, .use_rslora = plan.use_rslora, .dropout = options.adapter.dropout};
  model.SetTrained({}).IgnoreError();  // it looks into the state, whose memory is wanted back
  STRATA_ASSIGN_OR_RETURN(const adapter::Adapter trained,
                          model::TorchGuard("collecting the adapter", [&]() -> absl::StatusOr<adapter::Adapter> {
                            return std::move(*state).ToAdapter();
                          }));
  STRATA_RETURN_IF_ERROR(adapter::WritePeft(runtime.files, flags.out, trained, write));
  // Without checkpoints the next start begins anew, whatever an earlier one left.
  STRATA_RETURN_IF_ERROR(options.checkpoint_steps > 0 ? standing.store->Finish(summary->position)
                                                      : standing.store->Clear());
  reporter.Done(*summary, flags.out);
  return absl::OkStatus();
}

// Everything that can be wrong is found before the model is loaded.
absl::Status Train(const TrainFlags& flags, config::TrainOptions options, Interruptible& session, Outcome& misuse) {
  runtime::Runtime runtime = session.runtime();
  Reporter reporter(flags.format == "json", /*silent=*/flags.worker > 0);
  STRATA_ASSIGN_OR_RETURN(const auto model, model::ModelFiles::Open(runtime.files, flags.model));
  Plan plan;
  misuse = PlanTargets(flags, options, model->LinearModules(), runtime.files, plan);
  STRATA_RETURN_IF_ERROR(misuse.status);
  train::PlannedRun planned{.options = options, .targets = plan.targets};
  STRATA_ASSIGN_OR_RETURN(planned.frozen, PlanFrozen(runtime.files, flags.base_adapters, model->LinearModules()));
  planned.options.device = train::DeviceOf(options.device);
  if (planned.options.device == "cpu") planned.options.max_memory /= static_cast<uint64_t>(flags.processes);
  STRATA_ASSIGN_OR_RETURN(plan.shape, train::ChooseShape(*model, planned));
  options.base_dtype = planned.options.base_dtype;
  options.host_layers = static_cast<uint32_t>(plan.shape.host_layers);
  if (flags.worker > 0) {
    STRATA_ASSIGN_OR_RETURN(const Standing standing, FindRunOfFirst(flags, runtime, reporter));
    return Execute(flags, options, session, std::move(plan), standing);
  }
  STRATA_ASSIGN_OR_RETURN(train::RunInputs inputs, InputsOf(flags, options, *model, runtime.files));
  STRATA_ASSIGN_OR_RETURN(const Standing standing, FindRun(flags, options, std::move(inputs), runtime, reporter));
  if (standing.run.has_value() && standing.run->finished) {
    reporter.AlreadyFinished(standing.run->position, flags.out);
    return absl::OkStatus();
  }
  if (options.max_memory > 0) reporter.Note(train::FittedNote(plan.shape, options.precision()));
  return Execute(flags, options, session, std::move(plan), standing);
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
  const absl::Status status = Train(flags, *options, session, misuse);
  if (status.ok()) return 0;
  // What goes wrong in all of them is said by the first.
  if (flags.worker > 0 && !absl::IsResourceExhausted(status) && !absl::IsInternal(status)) return 1;
  const char* left = options->checkpoint_steps > 0 ? "interrupted; the same command goes on from here"
                                                   : "interrupted; nothing was written";
  if (!absl::IsCancelled(status)) return ReportError(status, misuse.misuse);
  ReportError(Annotate(status, left), false);
  return session.exit_code();
}

}  // namespace

void AddTrainCommand(CLI::App& app, CommandContext& context) {
  auto flags = std::make_shared<TrainFlags>();
  CLI::App* command = app.add_subcommand("train", "Train a LoRA adapter on local rows, without a server");
  command->add_option("--model", flags->model, "Model folder, GGUF file, or org/name in the HF cache")->required();
  command
      ->add_option("--data", flags->data,
                   "JSONL (also .zst) or Parquet of {\"text\"}, {\"messages\"}, {\"prompt\",\"completion\"} or "
                   "{\"input_ids\",\"labels\"}: a file, a folder of shards, or a 'pattern' as the shell's")
      ->required();
  command->add_option("--out", flags->out, "Folder for the adapter, which HF PEFT loads")->required();
  command->add_option("--config", flags->config, "train.yaml (see deploy/config); - reads standard input");
  command->add_flag("--print-config", flags->print_config, "Show the effective configuration and exit");
  command->add_flag("--restart", flags->restart, "Forget the run that --out holds; without it that run goes on");
  command->add_option("--init-adapter", flags->init_adapter,
                      "Start from this PEFT folder, with its ranks and scalings");
  command->add_option("--base-adapter", flags->base_adapters, "Frozen beneath the adapter; several add up");
  command->add_option("--dtype", flags->dtype, "fp32, bf16, or fp16 on CUDA; before the configuration's")
      ->check(CLI::IsMember(config::kComputeDTypeWords));
  command->add_option("--base-dtype", flags->base_dtype, "fp32, bf16, fp16, int8 or nf4; before the configuration's")
      ->check(CLI::IsMember(config::kBaseDTypeWords));
  command->add_option("--device", flags->device, "auto, cpu or cuda:N; before the configuration's");
  command->add_option("--threads", flags->threads, "Threads that compute (default: all cores)")->check(AtLeastOne());
  command
      ->add_option("--processes", flags->processes,
                   "Processes that share each step's rows, with a copy of the model each (default 1): with device cuda "
                   "or cuda:N one on each CUDA device from there on, else on the CPUs; --threads is for each of them")
      ->check(CLI::Range(1, 64));
  command->add_option("--worker", flags->worker)->group("");  // what --processes starts
  command->add_option("--seed", flags->seed, "Before the configuration's");
  command->add_option("--format", flags->format, "text or json")->check(CLI::IsMember({"text", "json"}));
  command->callback([flags, &context] {
    flags->arguments = context.arguments;
    context.exit_code = Run(*flags);
  });
}

}  // namespace strata
