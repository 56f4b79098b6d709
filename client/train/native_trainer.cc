#include "client/train/native_trainer.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "client/model/torch_guard.h"
#include "client/peft/adapter_state.h"
#include "client/peft/lora_plan.h"
#include "client/peft/warm_start.h"
#include "client/train/checkpoint.h"
#include "client/train/evaluation.h"
#include "client/train/run_inputs.h"
#include "client/train/training_loop.h"
#include "common/runtime/system_clock.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"
#include "common/telemetry/log.h"

namespace strata::train {
namespace {

void Put(TrainResult& result, const char* name, double value) {
  result.metrics.push_back({.name = name, .value = value});
}

// C_t as the model applies it, and the factors that are trained on top.
struct Prepared {
  std::unique_ptr<peft::AdapterState> state;
  std::vector<model::NamedFactors> frozen;
  peft::WarmOrigin origin;
};

absl::StatusOr<std::vector<model::NamedFactors>> WholeBase(const TrainRequest& request, at::Device device) {
  std::vector<model::NamedFactors> all;
  for (const auto& blob : request.base) {
    STRATA_ASSIGN_OR_RETURN(std::vector<model::NamedFactors> part, peft::FrozenFactors(*blob, device));
    for (model::NamedFactors& f : part) all.push_back(std::move(f));
  }
  return all;
}

absl::StatusOr<Prepared> Prepare(const TrainRequest& request, at::Device device) {
  return model::TorchGuard("setting up the adapter", [&]() -> absl::StatusOr<Prepared> {
    Prepared out;
    out.state = std::make_unique<peft::AdapterState>(request.targets, device);
    if (request.start == config::Start::kWarm) {
      STRATA_ASSIGN_OR_RETURN(out.frozen,
                              peft::SplitWarm(request.base, *out.state, request.seed, request.round, request.site));
    } else {
      out.state->InitFresh(request.seed, request.round, request.site);
      STRATA_ASSIGN_OR_RETURN(out.frozen, WholeBase(request, device));
    }
    out.origin = peft::RememberOrigin(*out.state);
    return out;
  });
}

absl::Status PutEvaluation(model::Transformer& model, const data::Rows& rows, const char* name, TrainResult& result) {
  STRATA_ASSIGN_OR_RETURN(const EvaluationResult evaluation, EvaluateRows(model, rows, nullptr));
  Put(result, name, evaluation.loss);
  return absl::OkStatus();
}

void PutSummary(const LoopSummary& summary, TrainResult& result) {
  Put(result, "train_loss_first", summary.position.first_loss);
  Put(result, "train_loss_last", summary.position.last_loss);
  Put(result, "tokens_per_second", summary.tokens_per_second);
  Put(result, "tokens", static_cast<double>(summary.position.tokens));
  Put(result, "seconds", summary.position.seconds);
}

void LogNote(const std::string& site, const TrainNote& note) {
  const bool good = note.kind == TrainNote::Kind::kResumed || note.kind == TrainNote::Kind::kFitted;
  telemetry::Log(good ? telemetry::Level::kInfo : telemetry::Level::kWarning, Cat("training_", NoteWord(note.kind)),
                 {{"site", site}, {"step", note.step}, {"detail", note.detail}});
}

// What stays frozen of C_t: all of it, or what SplitWarm leaves.
absl::StatusOr<std::vector<Target>> FrozenOf(const TrainRequest& request,
                                             const std::vector<config::ModuleShape>& modules) {
  std::vector<Target> frozen;
  for (const auto& blob : request.base) {
    STRATA_ASSIGN_OR_RETURN(const std::vector<Target> part, peft::PlanFromAdapter(*blob, modules));
    frozen.insert(frozen.end(), part.begin(), part.end());
  }
  if (request.start != config::Start::kWarm) return frozen;
  std::map<std::string, int64_t> room;
  for (const Target& t : request.targets) room[t.module] = t.rank;
  for (Target& t : frozen) {
    int64_t& left = room[t.module];
    const int64_t taken = std::min(left, t.rank);
    left -= taken;
    t.rank -= taken;
  }
  return frozen;
}

// Before the model is loaded: the choice may be what it is held in.
absl::StatusOr<StepShape> Fit(runtime::FileSystem& files, const TrainRequest& request, PlannedRun& run) {
  if (run.options.max_memory == 0) return AskedShape(run.options);
  STRATA_ASSIGN_OR_RETURN(const auto model, model::ModelFiles::Open(files, request.model_path));
  STRATA_ASSIGN_OR_RETURN(run.frozen, FrozenOf(request, model->LinearModules()));
  return ChooseShape(*model, run);
}

// The checkpoints of a named run, and where it stands.
struct Checkpoints {
  std::unique_ptr<CheckpointStore> store;  // null: none are kept
  std::optional<SavedRun> latest;
};

absl::StatusOr<Checkpoints> OpenCheckpoints(runtime::FileSystem& files, const runtime::Clock& clock,
                                            const TrainRequest& request, const model::ModelFiles& model) {
  Checkpoints opened;
  if (request.run.empty() || request.options.checkpoint_steps == 0) return opened;
  RunInputs inputs = {{"run", request.run}};
  STRATA_ASSIGN_OR_RETURN(inputs["data"], DataDigest(files, request.data_path));
  STRATA_ASSIGN_OR_RETURN(inputs["model"], ModelFingerprint(files, model));
  opened.store = std::make_unique<CheckpointStore>(
      files, clock,
      CheckpointStore::Options{.directory = runtime::JoinPath(request.work_directory, "checkpoint"),
                               .every_steps = request.options.checkpoint_steps},
      std::move(inputs));
  STRATA_ASSIGN_OR_RETURN(FoundRun found, opened.store->Latest());
  for (const std::string& path : found.damaged)
    LogNote(request.site, {.kind = TrainNote::Kind::kCheckpointDamaged, .step = 0, .detail = path});
  if (found.run.has_value() && found.run->inputs == opened.store->inputs()) {
    opened.latest = *std::move(found.run);
  } else {
    STRATA_RETURN_IF_ERROR(opened.store->Clear());
  }
  return opened;
}

}  // namespace

absl::StatusOr<TrainResult> NativeTrainer::Run(const TrainRequest& request,
                                               const std::function<bool(const TrainProgress&)>& on_progress) {
  absl::StatusOr<TrainResult> result = RunOnModel(request, on_progress);
  if (!result.ok() && !request.site.empty()) return Annotate(result.status(), "site " + request.site);
  return result;
}

absl::StatusOr<TrainResult> NativeTrainer::RunOnModel(const TrainRequest& request,
                                                      const std::function<bool(const TrainProgress&)>& on_progress) {
  const std::string& device =
      options_.device.empty() || options_.device == "auto" ? request.options.device : options_.device;
  PlannedRun planned{.options = request.options, .targets = request.targets};
  planned.options.device = DeviceOf(device);
  if (planned.options.device == "cpu") planned.options.host_layers = 0;  // a job's wish where there is a device
  STRATA_ASSIGN_OR_RETURN(const StepShape shape, Fit(files_, request, planned));
  STRATA_ASSIGN_OR_RETURN(LoadedModel* const loaded, models_.Get(request.model_path, planned.options.precision(),
                                                                 {.device = device, .host_layers = shape.host_layers}));
  model::Transformer& model = *loaded->transformer;
  STRATA_ASSIGN_OR_RETURN(
      const data::Dataset dataset,
      models_.ReadRows(*loaded, request.data_path, RowPolicyOf(request.options, request.work_directory)));
  for (const std::string& note : data::NotesOn(dataset))
    telemetry::Log(telemetry::Level::kInfo, "training_data", {{"site", request.site}, {"detail", note}});
  const auto [train_rows, held_out] = dataset.rows.Split(request.holdout, request.seed);

  TrainResult result;
  result.num_examples = train_rows.size();
  int64_t held_out_tokens = 0;
  for (size_t i = 0; i < held_out.size(); ++i) held_out_tokens += held_out[i].num_targets();
  Put(result, "heldout_tokens", static_cast<double>(held_out_tokens));
  const bool evaluate = held_out_tokens > 0;

  STRATA_RETURN_IF_ERROR(model.SetTrained({}));
  if (!request.train) {
    STRATA_ASSIGN_OR_RETURN(const std::vector<model::NamedFactors> base, WholeBase(request, model.device()));
    STRATA_RETURN_IF_ERROR(model.SetBase(base, model::BaseRoute::kByDtype));
    if (evaluate) STRATA_RETURN_IF_ERROR(PutEvaluation(model, held_out, "loss_before", result));
    return result;
  }
  STRATA_ASSIGN_OR_RETURN(Prepared prepared, Prepare(request, model.device()));
  STRATA_RETURN_IF_ERROR(model.SetBase(prepared.frozen, model::BaseRoute::kByDtype));
  prepared.frozen.clear();  // the model holds what it goes on reading
  // With the trained factors attached the model computes W0 + C_t from the start: fresh ones add nothing, warm ones are
  // C_t's own part.
  STRATA_RETURN_IF_ERROR(model.SetTrained(prepared.state->Factors()));
  if (evaluate && request.evaluate_before)
    STRATA_RETURN_IF_ERROR(PutEvaluation(model, held_out, "loss_before", result));
  if (request.options.max_memory > 0) LogNote(request.site, FittedNote(shape, planned.options.precision()));
  STRATA_ASSIGN_OR_RETURN(const Checkpoints checkpoints, OpenCheckpoints(files_, clock_, request, model.files()));
  const LoopContext context{.model = model,
                            .state = *prepared.state,
                            .clock = clock_,
                            .seed = request.seed,
                            .round = request.round,
                            .site = request.site,
                            .checkpoints = checkpoints.store.get(),
                            .resume = checkpoints.latest.has_value() ? &*checkpoints.latest : nullptr,
                            .shape = shape,
                            .on_note = [&](const TrainNote& note) { LogNote(request.site, note); }};
  const absl::StatusOr<LoopSummary> summary = RunTraining(context, request.options, train_rows, on_progress);
  if (summary.ok() && evaluate && request.evaluate_after)
    STRATA_RETURN_IF_ERROR(PutEvaluation(model, held_out, "loss_after", result));
  // The state ends with this call; the model must not look into it any more.
  STRATA_RETURN_IF_ERROR(model.SetTrained({}));
  STRATA_RETURN_IF_ERROR(summary.status());
  PutSummary(*summary, result);
  return model::TorchGuard("collecting the update", [&]() -> absl::StatusOr<TrainResult> {
    const bool warm = request.start == config::Start::kWarm;
    result.update = std::make_unique<adapter::Adapter>(warm ? peft::Increment(*prepared.state, prepared.origin)
                                                            : std::move(*prepared.state).ToAdapter());
    return std::move(result);
  });
}

std::unique_ptr<LocalTrainer> MakeNativeTrainer(runtime::FileSystem& files, const config::ClientOptions& options) {
  static const runtime::SystemClock clock;
  return std::make_unique<NativeTrainer>(
      files, clock, NativeTrainer::Options{.device = options.device, .threads = static_cast<int>(options.threads)});
}

}  // namespace strata::train
