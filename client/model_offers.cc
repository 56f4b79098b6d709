#include "client/model_offers.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/model/model_files.h"
#include "common/status/status_macros.h"

namespace strata {
namespace {

absl::StatusOr<link::ModelOffer> OfferModel(runtime::FileSystem& files, const std::string& label,
                                            const std::string& path, const std::string& cache_directory) {
  STRATA_ASSIGN_OR_RETURN(const auto opened, model::ModelFiles::Open(files, path));
  link::ModelOffer offer{.label = label, .identity = {}, .modules = opened->LinearModules()};
  STRATA_ASSIGN_OR_RETURN(offer.identity, model::IdentifyBase(files, *opened, cache_directory));
  return offer;
}

}  // namespace

absl::StatusOr<std::vector<link::ModelOffer>> OfferModels(runtime::FileSystem& files,
                                                          const std::map<std::string, std::string>& models,
                                                          const std::string& cache_directory) {
  std::vector<link::ModelOffer> offers;
  std::vector<std::string> faults;
  for (const auto& [label, path] : models) {
    auto offer = OfferModel(files, label, path, cache_directory);
    if (offer.ok()) {
      offers.push_back(*std::move(offer));
    } else {
      faults.push_back(absl::StrCat("models: ", label, ": ", offer.status().message()));
    }
  }
  if (!faults.empty()) return absl::InvalidArgumentError(absl::StrJoin(faults, "\n"));
  return offers;
}

}  // namespace strata
