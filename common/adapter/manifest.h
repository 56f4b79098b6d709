// What a site or the server declares about a tensor file, as a plain struct over proto/adapter.proto's Manifest.
#ifndef STRATA_COMMON_ADAPTER_MANIFEST_H_
#define STRATA_COMMON_ADAPTER_MANIFEST_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/adapter/adapter.h"

namespace strata::adapter {

struct BaseIdentity {
  std::string weights;    // 32 bytes
  std::string semantics;  // 32 bytes
  std::string encoding;
  // "hex(weights):hex(semantics)": what a job lists.
  std::string Digest() const;
  bool SameBase(const BaseIdentity& other) const { return weights == other.weights && semantics == other.semantics; }
};

struct Metric {
  std::string name;
  double value = 0;
};

struct PairBlock {
  std::string module;
  int64_t rank = 0;
  double alpha = 0;
  double scaling = 1;
  std::string a, b;  // tensor names
};

struct Manifest {
  uint32_t format = 1;
  BaseIdentity base;
  std::string assignment;  // 16 bytes or empty
  uint32_t parent_version = 0;
  uint64_t num_examples = 0;
  std::vector<Metric> metrics;
  std::vector<PairBlock> blocks;
  std::string tensors_sha256;
  uint64_t tensors_bytes = 0;
  bool use_rslora = false;
  std::string method = "lora";
};

// INVALID_ARGUMENT: no valid message, unknown format, a block kind other than PAIR (named), a slot twice.
absl::StatusOr<Manifest> ParseManifest(std::string_view bytes);
std::string SerializeManifest(const Manifest& manifest);
// The same as JSON, as manifest.json beside an exported adapter shows it.
std::string ManifestJson(const Manifest& manifest);

// The adapter that `tensors` holds with the manifest's scalings. INVALID_ARGUMENT: a block without its tensors, a
// tensor without a block, shapes against the block's rank.
absl::StatusOr<Adapter> OpenUpdate(const Manifest& manifest, format::Safetensors tensors);
// Blocks for every module of an adapter.
std::vector<PairBlock> BlocksOf(const Adapter& adapter);

}  // namespace strata::adapter

#endif  // STRATA_COMMON_ADAPTER_MANIFEST_H_
