#include "client/train/training_loop.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <span>
#include <utility>

#include "client/model/non_finite.h"
#include "client/model/torch_guard.h"
#include "client/train/micro_batches.h"
#include "client/train/optimizer.h"
#include "client/train/schedule.h"
#include "common/runtime/random.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::train {
namespace {

// Of gradients in fp16, whose range ends at 65504 above and, with all bits, at 6e-5 below.
constexpr double kMostLossScale = 65536;
constexpr uint64_t kStepsToDouble = 2000;

struct Gradient {
  double loss = 0, norm = 0;
  uint64_t tokens = 0;
  double scale = 1;  // that the gradients, not the norm, still have
};

using Buffers = std::vector<std::pair<std::string, at::Tensor>>;

// What an update changes, under its names in a checkpoint.
Buffers StateBuffers(const peft::AdapterState& state) {
  return {
      {"values", state.values()}, {"first_moments", state.first_moments()}, {"second_moments", state.second_moments()}};
}

// REQUIRES: values not empty.
double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

uint64_t DropoutStream(const LoopContext& context) {
  const runtime::Philox philox(
      {.purpose = "lora_dropout", .seed = context.seed, .round = context.round, .site = context.site});
  return (static_cast<uint64_t>(philox.Word(0)) << 32) | philox.Word(1);
}

uint64_t RowsOfStep(const config::TrainOptions& options) {
  return uint64_t{std::max<uint32_t>(options.batch_size, 1)} *
         std::max<uint32_t>(options.gradient_accumulation_steps, 1);
}

// Copies a checkpoint's tensor of that name into `out`; false: there is none that fits.
bool Restore(const SavedRun& saved, const std::string& name, const at::Tensor& out) {
  const format::TensorView* view = saved.tensors.Find(name);
  if (view == nullptr || view->dtype != format::DType::kF32 || view->num_elements() != out.numel()) return false;
  const at::Tensor host = at::empty({out.numel()}, at::kFloat);
  std::copy(view->data.begin(), view->data.end(), static_cast<std::byte*>(host.data_ptr()));
  out.copy_(host);
  return true;
}

class TrainingRun {
 public:
  TrainingRun(const LoopContext& context, const config::TrainOptions& options, const data::Rows& rows)
      : context_(context),
        options_(options),
        rows_(rows),
        steps_(NumSteps(options, rows.size())),
        order_(rows.size(), static_cast<uint32_t>(RowsOfStep(options)), options.shuffle, context.seed, context.round,
               context.site),
        dropout_(DropoutStream(context)),
        optimizer_(options.optimizer) {}

  absl::Status Begin();
  bool done() const { return position_.steps >= steps_; }
  // One step, counted or not.
  absl::Status Step(const std::function<bool(const TrainProgress&)>& on_progress);
  absl::StatusOr<LoopSummary> End();

 private:
  absl::StatusOr<Gradient> Accumulate();
  absl::Status SumOverReplicas(Gradient& gradient);
  absl::StatusOr<bool> GoOn(bool wanted);
  absl::Status Update(const Gradient& gradient, double rate);
  absl::StatusOr<bool> Rescale(const Gradient& gradient);
  absl::Status Recover(const Gradient& gradient);
  absl::Status TakeBack(const std::string& what);
  std::string NonFinitePart(const Gradient& gradient) const;
  std::string DamageOfStart() const;
  std::string Overflow() const;
  absl::Status Save();
  void Note(TrainNote::Kind kind, uint64_t step, std::string detail) const {
    if (context_.on_note) context_.on_note({.kind = kind, .step = step, .detail = std::move(detail)});
  }
  double seconds() const { return before_ + absl::ToDoubleSeconds(context_.clock.Monotonic() - begin_); }

  const LoopContext& context_;
  const config::TrainOptions& options_;
  const data::Rows& rows_;
  const uint32_t steps_;
  const data::BatchOrder order_;
  const uint64_t dropout_;
  Optimizer optimizer_;
  RunPosition position_;
  // halve_scale: what the last update found. Empty before the first.
  Buffers undo_;
  std::vector<double> speeds_;  // tokens/s of this process's steps
  absl::Duration begin_;
  double before_ = 0;      // seconds of earlier processes
  double good_scale_ = 1;  // of the last gradient that was finite, or the run's first
};

absl::Status TrainingRun::Begin() {
  begin_ = context_.clock.Monotonic();
  if (options_.dtype == config::ComputeDType::kFp16) good_scale_ = position_.loss_scale = kMostLossScale;
  if (context_.resume == nullptr) return context_.model.SetTrained(context_.state.Factors());
  const SavedRun& saved = *context_.resume;
  STRATA_RETURN_IF_ERROR(model::TorchGuard("reading the checkpoint", [&]() -> absl::Status {
    for (const auto& [name, buffer] : StateBuffers(context_.state)) {
      if (!Restore(saved, name, buffer)) {
        return absl::DataLossError(Cat("the checkpoint holds no `", name, "` of ", buffer.numel(), " elements"));
      }
      if (options_.on_non_finite != config::NonFinitePolicy::kHalveScale) continue;
      at::Tensor undo = at::empty_like(buffer);
      if (Restore(saved, "undo_" + name, undo)) undo_.emplace_back(name, std::move(undo));
    }
    saved.mapping->Release(0, saved.mapping->bytes().size());
    return absl::OkStatus();
  }));
  position_ = saved.position;
  before_ = position_.seconds;
  good_scale_ = position_.loss_scale;
  optimizer_.set_updates(position_.updates);
  Note(TrainNote::Kind::kResumed, position_.steps, "goes on from its checkpoint");
  return context_.model.SetTrained(context_.state.Factors());
}

// Gradients of the next step's rows, micro-batch by micro-batch.
absl::StatusOr<Gradient> TrainingRun::Accumulate() {
  std::vector<data::Example> examples;
  int64_t targets = 0;
  for (const uint32_t row : order_.Rows(position_.steps)) {
    examples.push_back(rows_[row]);
    targets += examples.back().num_targets();
  }
  std::vector<const data::Example*> rows = data::Pointers(examples);
  uint64_t part = dropout_ + (position_.steps << 20);
  if (context_.replicas != nullptr) {
    rows = RowsOfReplica(rows, context_.replicas->rank(), context_.replicas->size());
    part += static_cast<uint64_t>(context_.replicas->rank()) << 14;
  }
  Gradient result{.scale = position_.loss_scale};
  const double scale = 1 / static_cast<double>(std::max<int64_t>(targets, 1));
  const MicroBatchRule rule{.pack = options_.pack,
                            .tokens = context_.shape.micro_batch_tokens,
                            .rows = std::max<uint32_t>(options_.batch_size, 1)};
  for (const auto& [first, last] : MicroBatches(rows, rule)) {
    const data::PackedBatch batch = data::Pack(
        {rows.begin() + static_cast<std::ptrdiff_t>(first), rows.begin() + static_cast<std::ptrdiff_t>(last)});
    const model::DropoutKey dropout{.probability = options_.adapter.dropout, .key = part++};
    STRATA_ASSIGN_OR_RETURN(const double nll,
                            context_.model.TrainStep(batch, scale * result.scale, dropout, context_.shape.recompute));
    result.loss += nll * scale;
    result.tokens += batch.ids.size();
  }
  if (context_.replicas != nullptr) STRATA_RETURN_IF_ERROR(SumOverReplicas(result));
  STRATA_RETURN_IF_ERROR(model::TorchGuard("gradient norm", [&] {
    result.norm = GradientNorm(context_.state) / result.scale;
    return absl::OkStatus();
  }));
  return result;
}

absl::Status TrainingRun::SumOverReplicas(Gradient& gradient) {
  // First what tells whether all are still there: a device would wait for ever for one that is not.
  std::array<double, 2> sums = {gradient.loss, static_cast<double>(gradient.tokens)};
  STRATA_RETURN_IF_ERROR(context_.replicas->Sum(sums));
  STRATA_RETURN_IF_ERROR(context_.replicas->Sum(context_.state.gradients()));
  gradient.loss = sums[0];
  gradient.tokens = static_cast<uint64_t>(sums[1]);
  return absl::OkStatus();
}

// Whether all want to.
absl::StatusOr<bool> TrainingRun::GoOn(bool wanted) {
  if (context_.replicas == nullptr) return wanted;
  std::array<double, 1> against = {wanted ? 0.0 : 1.0};
  STRATA_RETURN_IF_ERROR(context_.replicas->Sum(against));
  return against[0] == 0;
}

absl::Status TrainingRun::Update(const Gradient& gradient, double rate) {
  return model::TorchGuard("optimiser step", [&] {
    if (options_.on_non_finite == config::NonFinitePolicy::kHalveScale) {
      const Buffers buffers = StateBuffers(context_.state);
      if (undo_.size() != buffers.size()) {
        undo_.clear();
        for (const auto& [name, buffer] : buffers) undo_.emplace_back(name, at::empty_like(buffer));
      }
      for (size_t i = 0; i < undo_.size(); ++i) undo_[i].second.copy_(buffers[i].second);
    }
    optimizer_.Step(context_.state, rate, gradient.norm, gradient.scale);
    context_.model.RefreshTrained();
    return absl::OkStatus();
  });
}

// Whether a gradient overflowed under its scale, which is halved then: the step is to be done again. After many steps
// that did not, the scale is doubled.
absl::StatusOr<bool> TrainingRun::Rescale(const Gradient& gradient) {
  if (options_.dtype != config::ComputeDType::kFp16 || !std::isfinite(gradient.loss)) return false;
  if (std::isfinite(gradient.norm)) {
    good_scale_ = gradient.scale;
    if (++position_.scaled_steps < kStepsToDouble) return false;
    position_.scaled_steps = 0;
    position_.loss_scale = std::min(2 * position_.loss_scale, kMostLossScale);
    return false;
  }
  if (position_.loss_scale <= 1) {  // not the scale's fault
    position_.loss_scale = good_scale_;
    return false;
  }
  position_.loss_scale /= 2;
  position_.scaled_steps = 0;
  STRATA_RETURN_IF_ERROR(model::TorchGuard("dropping a gradient that overflowed", [&] {
    context_.state.gradients().zero_();
    return absl::OkStatus();
  }));
  return true;
}

std::string TrainingRun::NonFinitePart(const Gradient& gradient) const {
  if (!std::isfinite(gradient.loss)) return "the loss is";
  for (const peft::StateEntry& entry : context_.state.entries()) {
    for (const peft::Part part : peft::kParts) {
      const at::Tensor gradient = context_.state.Gradient(entry, part);
      if (gradient.defined() && !at::isfinite(gradient).all().item<bool>()) {
        const char* word = part == peft::Part::kA ? "A" : part == peft::Part::kB ? "B" : "magnitude";
        return Cat("the gradient of ", entry.target.module, " (", word, ") is");
      }
    }
  }
  return "the norm of the gradients is";
}

// Where no update has been made, what of the start is not finite itself. Empty: nothing.
std::string TrainingRun::DamageOfStart() const {
  if (position_.updates > 0) return "";
  std::string weight = model::NonFiniteWeight(context_.model.files());
  if (!weight.empty() || at::isfinite(context_.state.values()).all().item<bool>()) return weight;
  return "the adapter that it starts from holds elements that are not finite";
}

// Of a start whose numbers are finite.
std::string TrainingRun::Overflow() const {
  return Cat("; weights and adapter are finite, what is computed with them overflows: ",
             options_.dtype == config::ComputeDType::kFp32 ? "look at the adapters that it starts from"
                                                           : "use dtype fp32 (or bf16, where it is fp16)");
}

// What follows a step that is not finite. Its gradients are dropped.
absl::Status TrainingRun::Recover(const Gradient& gradient) {
  std::string what, damage;
  STRATA_RETURN_IF_ERROR(model::TorchGuard("looking for what is not finite", [&] {
    what = NonFinitePart(gradient) + " not finite";
    if (options_.on_non_finite != config::NonFinitePolicy::kSkip) damage = DamageOfStart();
    context_.state.gradients().zero_();
    return absl::OkStatus();
  }));
  const uint64_t step = position_.steps + 1;
  if (!damage.empty()) return absl::OutOfRangeError(Cat("step ", step, ": ", what, ": ", damage));
  switch (options_.on_non_finite) {
    case config::NonFinitePolicy::kStop:
      break;
    case config::NonFinitePolicy::kSkip:
      Note(TrainNote::Kind::kNonFinite, step, what + "; its rows are passed over");
      ++position_.steps;
      return absl::OkStatus();
    case config::NonFinitePolicy::kHalveScale:
      return TakeBack(what);
  }
  if (position_.updates == 0) return absl::OutOfRangeError(Cat("step ", step, ": ", what, Overflow()));
  return absl::OutOfRangeError(
      Cat("step ", step, ": ", what, "; use a lower learning_rate",
          options_.dtype == config::ComputeDType::kFp16 ? ", dtype bf16 (fp16 ends at 65504)" : "",
          ", or on_non_finite: skip or halve_scale"));
}

absl::Status TrainingRun::TakeBack(const std::string& what) {
  const uint64_t step = position_.steps + 1;
  if (undo_.empty()) {
    return absl::OutOfRangeError(Cat("step ", step, ": ", what, ", and there is no update to take back", Overflow()));
  }
  if (position_.rate_scale < std::ldexp(1.5, -kMostHalvings)) {
    return absl::OutOfRangeError(Cat("step ", step, ": ", what, " although the learning rate was halved ",
                                     kMostHalvings, " times; use a lower learning_rate"));
  }
  position_.rate_scale /= 2;
  --position_.steps;
  --position_.updates;
  optimizer_.set_updates(position_.updates);
  Note(TrainNote::Kind::kNonFinite, step,
       Cat(what, "; step ", position_.steps + 1, " is done again, learning rates times ", position_.rate_scale));
  return model::TorchGuard("taking the update back", [&] {
    const Buffers buffers = StateBuffers(context_.state);
    for (size_t i = 0; i < undo_.size(); ++i) buffers[i].second.copy_(undo_[i].second);
    context_.model.RefreshTrained();
    return absl::OkStatus();
  });
}

absl::Status TrainingRun::Step(const std::function<bool(const TrainProgress&)>& on_progress) {
  const absl::Duration start = context_.clock.Monotonic();
  STRATA_ASSIGN_OR_RETURN(const Gradient gradient, Accumulate());
  STRATA_ASSIGN_OR_RETURN(const bool again, Rescale(gradient));
  if (again) return absl::OkStatus();
  if (!std::isfinite(gradient.loss) || !std::isfinite(gradient.norm)) return Recover(gradient);
  const double rate =
      options_.optimizer.learning_rate * position_.rate_scale *
      ScheduleFactor(options_.optimizer.schedule, position_.steps, options_.optimizer.warmup_steps, steps_);
  STRATA_RETURN_IF_ERROR(Update(gradient, rate));
  const double took = std::max(absl::ToDoubleSeconds(context_.clock.Monotonic() - start), 1e-9);
  speeds_.push_back(static_cast<double>(gradient.tokens) / took);
  if (position_.updates == 0) position_.first_loss = gradient.loss;
  position_.last_loss = gradient.loss;
  ++position_.steps;
  position_.updates = optimizer_.updates();
  position_.tokens += gradient.tokens;
  const bool wanted = !on_progress || on_progress({.step = static_cast<uint32_t>(position_.steps),
                                                   .of = steps_,
                                                   .loss = gradient.loss,
                                                   .grad_norm = gradient.norm,
                                                   .learning_rate = rate,
                                                   .tokens = gradient.tokens,
                                                   .tokens_per_second = speeds_.back()});
  STRATA_ASSIGN_OR_RETURN(const bool go_on, GoOn(wanted));
  const bool due = context_.checkpoints != nullptr &&
                   (go_on ? context_.checkpoints->Due(position_.steps) : context_.checkpoints->options().when_stopped);
  if (due) STRATA_RETURN_IF_ERROR(Save());
  return go_on ? absl::OkStatus() : absl::CancelledError(Cat("training was stopped after step ", position_.steps));
}

// A checkpoint that cannot be written costs nothing but itself.
absl::Status TrainingRun::Save() {
  position_.seconds = seconds();
  return model::TorchGuard("writing a checkpoint", [&] {
    std::vector<at::Tensor> host;
    std::vector<format::TensorView> views;
    const auto add = [&](const std::string& name, const at::Tensor& buffer) {
      host.push_back(buffer.cpu());
      views.push_back(
          {.name = name,
           .dtype = format::DType::kF32,
           .shape = {buffer.numel()},
           .data = std::as_bytes(std::span(host.back().const_data_ptr<float>(), static_cast<size_t>(buffer.numel())))});
    };
    for (const auto& [name, buffer] : StateBuffers(context_.state)) add(name, buffer);
    for (const auto& [name, buffer] : undo_) add("undo_" + name, buffer);
    const absl::Status saved = context_.checkpoints->Save(position_, std::move(views));
    if (!saved.ok()) Note(TrainNote::Kind::kCheckpointFailed, position_.steps, std::string(saved.message()));
    return absl::OkStatus();
  });
}

absl::StatusOr<LoopSummary> TrainingRun::End() {
  if (position_.updates == 0) {
    std::string damage;
    STRATA_RETURN_IF_ERROR(model::TorchGuard("looking for what is not finite", [&] {
      damage = DamageOfStart();
      return absl::OkStatus();
    }));
    return absl::OutOfRangeError(Cat("every step was passed over, none had a finite loss and gradient: ",
                                     damage.empty() ? "" : damage + ": ", "nothing was trained"));
  }
  bool finite = false;
  STRATA_RETURN_IF_ERROR(model::TorchGuard("looking at the adapter", [&] {
    finite = std::isfinite(ValueNorm(context_.state));
    return absl::OkStatus();
  }));
  if (!finite) return absl::OutOfRangeError("the adapter is not finite after the last step; use a lower learning_rate");
  LoopSummary summary{.position = position_, .tokens_per_second = 0};
  summary.position.seconds = seconds();
  // The first step of a process also warms up.
  if (speeds_.size() > 1) speeds_.erase(speeds_.begin());
  summary.tokens_per_second = speeds_.empty()
                                  ? static_cast<double>(position_.tokens) / std::max(summary.position.seconds, 1e-9)
                                  : Median(std::move(speeds_));
  return summary;
}

}  // namespace

std::string_view NoteWord(TrainNote::Kind kind) {
  switch (kind) {
    case TrainNote::Kind::kResumed:
      return "resumed";
    case TrainNote::Kind::kNonFinite:
      return "non_finite";
    case TrainNote::Kind::kCheckpointDamaged:
      return "checkpoint_damaged";
    case TrainNote::Kind::kCheckpointFailed:
      return "checkpoint_failed";
    case TrainNote::Kind::kFitted:
      return "fitted";
  }
  return "";
}

TrainNote FittedNote(const StepShape& shape, const config::Precision& precision) {
  return {
      .kind = TrainNote::Kind::kFitted,
      .step = 0,
      .detail = Cat("for max_memory: micro-batches of ", shape.micro_batch_tokens, " tokens, gradient_checkpointing ",
                    shape.recompute ? "on" : "off", ", base_dtype ", config::BaseDTypeWord(precision.base),
                    shape.host_layers > 0 ? Cat(", host_layers ", shape.host_layers) : "")};
}

uint32_t NumSteps(const config::TrainOptions& options, size_t num_rows) {
  if (options.steps.has_value()) return *options.steps;
  const uint64_t batch = RowsOfStep(options);
  const uint64_t per_epoch = (num_rows + batch - 1) / batch;
  return static_cast<uint32_t>(std::ceil(options.epochs * static_cast<double>(per_epoch)));
}

absl::StatusOr<LoopSummary> RunTraining(const LoopContext& context, const config::TrainOptions& options,
                                        const data::Rows& rows,
                                        const std::function<bool(const TrainProgress&)>& on_progress) {
  if (rows.empty()) return absl::InvalidArgumentError("no rows with a supervised token to train on");
  c10::InferenceMode inference;
  TrainingRun run(context, options, rows);
  STRATA_RETURN_IF_ERROR(run.Begin());
  while (!run.done()) STRATA_RETURN_IF_ERROR(run.Step(on_progress));
  return run.End();
}

}  // namespace strata::train
