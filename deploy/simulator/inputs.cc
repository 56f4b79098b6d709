#include "deploy/simulator/inputs.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "client/data/row_source.h"
#include "client/model_offers.h"
#include "client/peft/lora_plan.h"
#include "common/status/status_macros.h"
#include "common/telemetry/log.h"

namespace strata::sim {
namespace {

absl::StatusOr<link::ModelOffer> OpenModel(runtime::FileSystem& files, const config::SimOptions& options,
                                           const std::string& cache_directory) {
  auto offers = OfferModels(files, {{kModelLabel, options.model}}, cache_directory);
  if (!offers.ok()) {
    const std::string message(offers.status().message());
    return absl::InvalidArgumentError(
        absl::StrCat("model: ", absl::StripPrefix(message, absl::StrCat("models: ", kModelLabel, ": "))));
  }
  link::ModelOffer model = std::move(offers->front());
  const std::vector<std::string>& accepted = options.job.model_digests;
  const std::string digest = model.identity.Digest();
  if (!accepted.empty() && std::find(accepted.begin(), accepted.end(), digest) == accepted.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("model: ", options.model, " has the digest ", digest, ", which job.model.digests does not list"));
  }
  const auto plan = peft::PlanLora(options.job.training.adapter, model.modules);
  if (!plan.ok()) return absl::InvalidArgumentError(absl::StrCat("training.adapter: ", plan.status().message()));
  return model;
}

absl::StatusOr<std::vector<SiteShare>> ReadShares(runtime::FileSystem& files, const config::SimOptions& options) {
  const auto rows = data::OpenRows(files, options.sites.data);
  if (!rows.ok()) return absl::InvalidArgumentError(absl::StrCat("sites.data: ", rows.status().message()));
  auto shares = Partition(**rows, options.sites, options.job.training.skip_bad_rows, options.seed);
  if (!shares.ok()) return Annotate(shares.status(), "sites");
  if (shares->bad.count > 0) {
    telemetry::Log(telemetry::Level::kWarning, "bad_rows_left_out",
                   {{"count", shares->bad.count}, {"rows", shares->bad.text}});
  }
  return std::move(shares->sites);
}

}  // namespace

absl::StatusOr<SimInputs> ReadInputs(runtime::FileSystem& files, const config::SimOptions& options,
                                     const std::string& cache_directory) {
  auto model = OpenModel(files, options, cache_directory);
  auto shares = ReadShares(files, options);
  std::vector<std::string> faults;
  for (const absl::Status& status : {model.status(), shares.status()}) {
    if (!status.ok()) faults.emplace_back(status.message());
  }
  if (!faults.empty()) return absl::InvalidArgumentError(absl::StrJoin(faults, "\n"));
  SimInputs inputs{.shares = *std::move(shares), .model = *std::move(model), .job = options.job};
  inputs.job.model_digests = {inputs.model.identity.Digest()};
  inputs.job.modules = inputs.model.modules;
  for (const SiteShare& share : inputs.shares) inputs.job.sites.push_back(share.name);
  return inputs;
}

uint32_t OwnRank(const config::SimOptions& options, size_t index) {
  const std::vector<uint32_t>& ranks = options.sites.ranks;
  return ranks.empty() ? 0 : ranks[index % ranks.size()];
}

}  // namespace strata::sim
