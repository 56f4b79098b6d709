// What a simulation leaves behind: the final adapter and every site's, as PEFT directories.
#ifndef STRATA_DEPLOY_SIMULATOR_OUTPUTS_H_
#define STRATA_DEPLOY_SIMULATOR_OUTPUTS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/runtime/file_system.h"
#include "proto/admin.pb.h"

namespace strata::sim {

// OUT/adapter: the blobs of a version (paths, oldest first) as one adapter.
absl::Status WriteVersion(runtime::FileSystem& files, const std::vector<std::string>& blobs, const std::string& model,
                          const std::string& directory);

// OUT/rounds/N/SITE: an accepted update with its manifest.json (which gets the weight that it had).
absl::Status WriteUpdate(runtime::FileSystem& files, const std::string& blob, const std::string& manifest,
                         const v1::SiteRound& site, const std::string& directory);

}  // namespace strata::sim

#endif  // STRATA_DEPLOY_SIMULATOR_OUTPUTS_H_
