#include "deploy/simulator/outputs.h"

#include <memory>
#include <utility>

#include "client/train/command_trainer.h"
#include "common/adapter/adapter.h"
#include "common/adapter/manifest.h"
#include "common/format/safetensors.h"
#include "common/status/status_macros.h"
#include "nlohmann/json.hpp"

namespace strata::sim {
namespace {

absl::StatusOr<adapter::Adapter::Scaling> UnitScaling(const void*, std::string_view, int64_t rank) {
  return adapter::Adapter::Scaling{.scaling = 1, .alpha = static_cast<double>(rank)};
}

}  // namespace

absl::Status WriteVersion(runtime::FileSystem& files, const std::vector<std::string>& blobs, const std::string& model,
                          const std::string& directory) {
  std::vector<std::shared_ptr<const adapter::Adapter>> parts;
  for (const std::string& blob : blobs) {
    STRATA_ASSIGN_OR_RETURN(auto tensors, format::Safetensors::Open(files, blob));
    STRATA_ASSIGN_OR_RETURN(auto part, adapter::Adapter::FromTensors(std::move(tensors), UnitScaling, nullptr));
    parts.push_back(std::make_shared<const adapter::Adapter>(std::move(part)));
  }
  STRATA_ASSIGN_OR_RETURN(const adapter::Adapter whole, train::Concatenate(parts));
  adapter::PeftWriteOptions options;
  options.base_model = model;
  return adapter::WritePeft(files, directory, whole, options);
}

absl::Status WriteUpdate(runtime::FileSystem& files, const std::string& blob, const std::string& manifest,
                         const v1::SiteRound& site, const std::string& directory) {
  STRATA_ASSIGN_OR_RETURN(const adapter::Manifest parsed, adapter::ParseManifest(manifest));
  STRATA_ASSIGN_OR_RETURN(auto tensors, format::Safetensors::Open(files, blob));
  STRATA_ASSIGN_OR_RETURN(const adapter::Adapter update, adapter::OpenUpdate(parsed, std::move(tensors)));
  adapter::PeftWriteOptions options;
  options.use_rslora = parsed.use_rslora;
  STRATA_RETURN_IF_ERROR(adapter::WritePeft(files, directory, update, options));
  auto json = nlohmann::ordered_json::parse(adapter::ManifestJson(parsed), nullptr, false);
  if (!json.is_object()) return absl::InternalError("a manifest that is no JSON object");
  json["weight"] = site.weight();
  return files.WriteFile(runtime::JoinPath(directory, "manifest.json"), json.dump(2) + "\n");
}

}  // namespace strata::sim
