#include "server/ctl/adapter_export.h"

#include <algorithm>
#include <map>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/format/safetensors.h"
#include "common/status/status_macros.h"
#include "nlohmann/json.hpp"

namespace strata::ctl {
namespace {

// The parts of one module, oldest blob first.
struct Parts {
  int64_t rank = 0;
  std::vector<const adapter::Factors*> factors;
};

struct Joined {
  std::vector<float> a, b;
};

absl::StatusOr<Joined> Join(const Parts& parts) {
  const int64_t out = parts.factors.front()->out;
  const int64_t in = parts.factors.front()->in;
  Joined joined;
  joined.a.resize(parts.rank * in);
  joined.b.resize(out * parts.rank);
  int64_t column = 0;
  for (const adapter::Factors* part : parts.factors) {
    STRATA_RETURN_IF_ERROR(format::ToFloat(part->a, std::span(joined.a).subspan(column * in, part->rank * in)));
    std::vector<float> b(out * part->rank);
    STRATA_RETURN_IF_ERROR(format::ToFloat(part->b, b));
    for (int64_t row = 0; row < out; ++row) {
      for (int64_t k = 0; k < part->rank; ++k) {
        joined.b[row * parts.rank + column + k] =
            static_cast<float>(part->scaling * static_cast<double>(b[row * part->rank + k]));
      }
    }
    column += part->rank;
  }
  return joined;
}

bool HasPeftNames(const adapter::Manifest& manifest) {
  return std::all_of(manifest.blocks.begin(), manifest.blocks.end(), [](const adapter::PairBlock& block) {
    return block.a == adapter::PeftTensorName(block.module, true) &&
           block.b == adapter::PeftTensorName(block.module, false);
  });
}

absl::StatusOr<std::string> ManifestText(const adapter::Manifest& manifest, const UpdateOrigin& origin) {
  nlohmann::ordered_json json =
      nlohmann::ordered_json::parse(adapter::ManifestJson(manifest), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InternalError("the manifest could not be written as JSON");
  json["round"] = origin.round;
  json["site"] = origin.site;
  json["weight"] = origin.weight;
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace

absl::StatusOr<DecodedBlob> Decode(const AdminClient::Blob& blob) {
  STRATA_ASSIGN_OR_RETURN(adapter::Manifest manifest, adapter::ParseManifest(blob.manifest));
  STRATA_ASSIGN_OR_RETURN(format::Safetensors tensors,
                          format::Safetensors::Parse(std::as_bytes(std::span(blob.tensors)), "the blob"));
  STRATA_ASSIGN_OR_RETURN(adapter::Adapter adapter, adapter::OpenUpdate(manifest, std::move(tensors)));
  return DecodedBlob{.manifest = std::move(manifest), .adapter = std::move(adapter)};
}

absl::StatusOr<adapter::Adapter> Concatenate(const std::vector<DecodedBlob>& blobs) {
  std::map<std::string, Parts> modules;
  for (const DecodedBlob& blob : blobs) {
    for (const adapter::Factors& factors : blob.adapter.modules()) {
      Parts& parts = modules[factors.module];
      if (!parts.factors.empty() &&
          (parts.factors.front()->out != factors.out || parts.factors.front()->in != factors.in)) {
        return absl::InvalidArgumentError(
            absl::StrCat("module ", factors.module, " has different shapes in the version's blobs"));
      }
      parts.rank += factors.rank;
      parts.factors.push_back(&factors);
    }
  }
  adapter::AdapterBuilder builder;
  for (const auto& [name, parts] : modules) {
    STRATA_ASSIGN_OR_RETURN(Joined joined, Join(parts));
    builder.Add(name, parts.rank, parts.factors.front()->out, parts.factors.front()->in,
                static_cast<double>(parts.rank), 1.0, std::move(joined.a), std::move(joined.b));
  }
  return std::move(builder).Build();
}

absl::Status WriteUpdate(runtime::FileSystem& files, const std::string& directory, const AdminClient::Blob& blob,
                         const UpdateOrigin& origin) {
  STRATA_ASSIGN_OR_RETURN(const DecodedBlob decoded, Decode(blob));
  adapter::PeftWriteOptions options;
  options.base_model = origin.base_model;
  options.use_rslora = decoded.manifest.use_rslora;
  STRATA_RETURN_IF_ERROR(adapter::WritePeft(files, directory, decoded.adapter, options));
  if (HasPeftNames(decoded.manifest)) {
    STRATA_RETURN_IF_ERROR(files.WriteFile(runtime::JoinPath(directory, "adapter_model.safetensors"), blob.tensors));
  }
  STRATA_ASSIGN_OR_RETURN(const std::string text, ManifestText(decoded.manifest, origin));
  return files.WriteFile(runtime::JoinPath(directory, "manifest.json"), text);
}

}  // namespace strata::ctl
