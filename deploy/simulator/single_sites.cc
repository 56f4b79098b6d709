#include "deploy/simulator/single_sites.h"

#include <memory>
#include <utility>

#include "client/peft/lora_plan.h"
#include "common/status/status_macros.h"

namespace strata::sim {
namespace {

// What a site's assignment says, for the rounds as one.
absl::StatusOr<train::TrainRequest> RequestOf(const config::SimOptions& options, const SimInputs& inputs, size_t index,
                                              const std::string& rows) {
  const config::JobOptions& job = inputs.job;
  train::TrainRequest request;
  request.model_path = options.model;
  request.data_path = rows;
  request.options = job.training;
  if (request.options.steps.has_value()) *request.options.steps *= job.rounds.count;
  request.options.epochs *= job.rounds.count;
  request.seed = job.training.seed;
  request.site = inputs.shares[index].name;
  request.holdout = job.evaluation.holdout;
  config::AdapterOptions adapter = job.training.adapter;
  if (const uint32_t rank = OwnRank(options, index); rank > 0) {
    adapter.rank = rank;
    adapter.rank_pattern.clear();
  }
  STRATA_ASSIGN_OR_RETURN(request.targets, peft::PlanLora(adapter, job.modules));
  return request;
}

}  // namespace

absl::StatusOr<SingleLosses> TrainAlone(const config::SimOptions& options, const SimInputs& inputs,
                                        const std::vector<std::string>& rows, train::LocalTrainer& trainer,
                                        const std::function<bool()>& keep_going) {
  SingleLosses losses;
  for (size_t i = 0; i < inputs.shares.size(); ++i) {
    STRATA_ASSIGN_OR_RETURN(train::TrainRequest request, RequestOf(options, inputs, i, rows[i]));
    STRATA_ASSIGN_OR_RETURN(train::TrainResult result,
                            trainer.Run(request, [&](const train::TrainProgress&) { return keep_going(); }));
    request.base = {std::shared_ptr<const adapter::Adapter>(std::move(result.update))};
    request.train = false;
    for (size_t j = 0; j < inputs.shares.size(); ++j) {
      if (!keep_going()) return absl::CancelledError("interrupted");
      request.data_path = rows[j];
      STRATA_ASSIGN_OR_RETURN(const train::TrainResult scored, trainer.Run(request, nullptr));
      for (const adapter::Metric& metric : scored.metrics) {
        if (metric.name == "loss_before") losses[inputs.shares[i].name][inputs.shares[j].name] = metric.value;
      }
    }
  }
  return losses;
}

}  // namespace strata::sim
