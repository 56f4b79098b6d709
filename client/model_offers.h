// What a site offers at check-in: the identity and modules of each base model that its configuration names.
#ifndef STRATA_CLIENT_MODEL_OFFERS_H_
#define STRATA_CLIENT_MODEL_OFFERS_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/link/federation_link.h"
#include "common/runtime/file_system.h"

namespace strata {

// Opens each model of label -> path and identifies it, with a digest cache in `cache_directory`. INVALID_ARGUMENT: one
// line per model that cannot be used.
absl::StatusOr<std::vector<link::ModelOffer>> OfferModels(runtime::FileSystem& files,
                                                          const std::map<std::string, std::string>& models,
                                                          const std::string& cache_directory);

}  // namespace strata

#endif  // STRATA_CLIENT_MODEL_OFFERS_H_
