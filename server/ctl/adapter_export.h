// Versions and updates as PEFT directories.
#ifndef STRATA_SERVER_CTL_ADAPTER_EXPORT_H_
#define STRATA_SERVER_CTL_ADAPTER_EXPORT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/adapter/adapter.h"
#include "common/adapter/manifest.h"
#include "common/runtime/file_system.h"
#include "server/ctl/admin_client.h"

namespace strata::ctl {

// A blob and what its manifest declares.
struct DecodedBlob {
  adapter::Manifest manifest;
  adapter::Adapter adapter;
};
// INVALID_ARGUMENT: bytes and manifest do not fit each other. `blob` must outlive the result.
absl::StatusOr<DecodedBlob> Decode(const AdminClient::Blob& blob);

// The sum of adapters as one: factors joined along the rank, scalings taken into B, so that lora_alpha = r per module.
// INVALID_ARGUMENT: a module with different shapes.
absl::StatusOr<adapter::Adapter> Concatenate(const std::vector<DecodedBlob>& blobs);

// An update as it was sent: the tensor file's bytes verbatim where they carry PEFT's names, adapter_config.json that
// says the same scalings, manifest.json with the round, the site and its weight.
struct UpdateOrigin {
  uint32_t round = 0;
  std::string site;
  double weight = 0;
  std::string base_model;
};
absl::Status WriteUpdate(runtime::FileSystem& files, const std::string& directory, const AdminClient::Blob& blob,
                         const UpdateOrigin& origin);

}  // namespace strata::ctl

#endif  // STRATA_SERVER_CTL_ADAPTER_EXPORT_H_
