#include "client/train/training_loop.h"

#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>

#include "client/model/torch_guard.h"
#include "client/train/micro_batches.h"
#include "client/train/optimizer.h"
#include "client/train/schedule.h"
#include "common/runtime/random.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::train {
namespace {

struct StepResult {
  double loss = 0;
  uint64_t tokens = 0;
};

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Gradients of one step's rows, micro-batch by micro-batch.
absl::StatusOr<StepResult> Accumulate(const LoopContext& context, const config::TrainOptions& options,
                                      const std::vector<const data::Example*>& rows, uint64_t dropout_key) {
  int64_t targets = 0;
  for (const data::Example* row : rows) targets += row->num_targets();
  StepResult result;
  const double scale = 1 / static_cast<double>(std::max<int64_t>(targets, 1));
  uint64_t part_index = 0;
  for (const auto& [first, last] : MicroBatches(rows, options.pack)) {
    const data::PackedBatch batch = data::Pack(
        {rows.begin() + static_cast<std::ptrdiff_t>(first), rows.begin() + static_cast<std::ptrdiff_t>(last)});
    const model::DropoutKey dropout{.probability = options.adapter.dropout, .key = dropout_key + part_index++};
    STRATA_ASSIGN_OR_RETURN(const double nll, context.model.TrainStep(batch, scale, dropout));
    result.loss += nll * scale;
    result.tokens += batch.ids.size();
  }
  return result;
}

uint64_t DropoutStream(const LoopContext& context) {
  const runtime::Philox philox(
      {.purpose = "lora_dropout", .seed = context.seed, .round = context.round, .site = context.site});
  return (static_cast<uint64_t>(philox.Word(0)) << 32) | philox.Word(1);
}

}  // namespace

uint32_t NumSteps(const config::TrainOptions& options, size_t num_rows) {
  if (options.steps.has_value()) return *options.steps;
  const auto batch = static_cast<size_t>(std::max<uint32_t>(options.batch_size, 1));
  const auto per_epoch = static_cast<double>((num_rows + batch - 1) / batch);
  return static_cast<uint32_t>(std::ceil(options.epochs * per_epoch));
}

absl::StatusOr<LoopSummary> RunTraining(const LoopContext& context, const config::TrainOptions& options,
                                        const data::Rows& rows,
                                        const std::function<bool(const TrainProgress&)>& on_progress) {
  if (rows.empty()) return absl::InvalidArgumentError("no rows with a supervised token to train on");
  c10::InferenceMode inference;
  STRATA_RETURN_IF_ERROR(context.model.SetTrained(context.state.Factors()));
  Optimizer optimizer(options.optimizer);
  const data::BatchOrder order(rows.size(), std::max<uint32_t>(options.batch_size, 1), options.shuffle, context.seed,
                               context.round, context.site);
  const uint32_t steps = NumSteps(options, rows.size());
  const uint64_t dropout = DropoutStream(context);
  LoopSummary summary;
  std::vector<double> rates;
  const absl::Duration begin = context.clock.Monotonic();
  for (uint32_t step = 0; step < steps; ++step) {
    const absl::Duration start = context.clock.Monotonic();
    std::vector<data::Example> part;
    for (const uint32_t row : order.Rows(step)) part.push_back(rows[row]);
    STRATA_ASSIGN_OR_RETURN(const StepResult result,
                            Accumulate(context, options, data::Pointers(part), dropout + (uint64_t{step} << 20)));
    if (!std::isfinite(result.loss)) {
      return absl::OutOfRangeError(Cat("step ", step + 1, ": the loss is no longer finite; use a lower learning_rate"));
    }
    const double rate = options.optimizer.learning_rate *
                        ScheduleFactor(options.optimizer.schedule, step, options.optimizer.warmup_steps, steps);
    double norm = 0;
    STRATA_RETURN_IF_ERROR(model::TorchGuard("optimiser step", [&] {
      norm = optimizer.GradientNorm(context.state);
      optimizer.Step(context.state, rate, norm);
      context.model.RefreshTrained();
      return absl::OkStatus();
    }));
    const double seconds = absl::ToDoubleSeconds(context.clock.Monotonic() - start);
    if (step > 0 || steps == 1) rates.push_back(static_cast<double>(result.tokens) / std::max(seconds, 1e-9));
    summary.steps = step + 1;
    summary.tokens += result.tokens;
    if (step == 0) summary.first_loss = result.loss;
    summary.last_loss = result.loss;
    summary.tokens_per_second = Median(rates);
    summary.seconds = absl::ToDoubleSeconds(context.clock.Monotonic() - begin);
    TrainProgress progress{.step = step + 1,
                           .of = steps,
                           .loss = result.loss,
                           .grad_norm = norm,
                           .learning_rate = rate,
                           .tokens = result.tokens};
    progress.tokens_per_second = static_cast<double>(result.tokens) / std::max(seconds, 1e-9);
    if (on_progress && !on_progress(progress))
      return absl::CancelledError(Cat("training was stopped after step ", step + 1));
  }
  return summary;
}

}  // namespace strata::train
