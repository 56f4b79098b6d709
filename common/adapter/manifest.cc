#include "common/adapter/manifest.h"

#include <cmath>
#include <set>
#include <utility>

#include "common/config/options.h"
#include "common/secure/digest.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"
#include "google/protobuf/stubs/logging.h"
#include "nlohmann/json.hpp"
#include "proto/adapter.pb.h"

namespace strata::adapter {
namespace {

constexpr uint32_t kFormat = 1;
constexpr size_t kDigestBytes = 32;
constexpr size_t kAssignmentBytes = 16;

absl::Status CheckLength(std::string_view field, std::string_view value, size_t expected) {
  if (value.empty() || value.size() == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(Cat("manifest: ", field, " has ", value.size(), " bytes, expected ", expected));
}

std::string KindName(int kind) {
  const std::string& name = v1::BlockKind_IsValid(kind) ? v1::BlockKind_Name(static_cast<v1::BlockKind>(kind)) : "";
  return name.empty() ? Cat("number ", kind) : name;
}

absl::StatusOr<PairBlock> ParseBlock(const v1::Block& block) {
  const std::string& module = block.slot().module();
  const auto fault = [&module](auto&&... parts) {
    return absl::InvalidArgumentError(Cat("manifest: block of module '", module, "': ", parts...));
  };
  if (module.empty()) return fault("the slot names no module");
  if (block.kind() != v1::PAIR) {
    return fault("kind ", KindName(static_cast<int>(block.kind())), " is not understood, expected PAIR");
  }
  if (!block.slot().variant().empty()) {
    return fault("variant '", block.slot().variant(), "' is not understood, expected none");
  }
  if (block.tensors_size() != 2) return fault("has ", block.tensors_size(), " tensors, a PAIR has two");
  if (block.rank() > config::kMaxRank) return fault("rank ", block.rank(), " is over ", config::kMaxRank);
  if (!std::isfinite(block.scaling())) return fault("scaling ", block.scaling(), " is not finite");
  if (!std::isfinite(block.alpha())) return fault("alpha ", block.alpha(), " is not finite");
  return PairBlock{.module = module,
                   .rank = block.rank(),
                   .alpha = block.alpha(),
                   .scaling = block.scaling(),
                   .a = block.tensors(0),
                   .b = block.tensors(1)};
}

// What OpenUpdate's callback needs: the blocks by module.
using BlocksByModule = std::map<std::string_view, const PairBlock*>;

absl::StatusOr<Adapter::Scaling> ScalingOfBlock(const void* context, std::string_view module, int64_t rank) {
  const auto& blocks = *static_cast<const BlocksByModule*>(context);
  const auto found = blocks.find(module);
  if (found == blocks.end())
    return absl::InvalidArgumentError("there are tensors, but the manifest has no block of it");
  if (found->second->rank != rank) {
    return absl::InvalidArgumentError(Cat("the tensors have rank ", rank, ", the manifest says ", found->second->rank));
  }
  return Adapter::Scaling{.scaling = found->second->scaling, .alpha = found->second->alpha};
}

absl::Status CheckTensorsOf(const PairBlock& block, const format::Safetensors& tensors) {
  for (const bool is_a : {true, false}) {
    const std::string expected = PeftTensorName(block.module, is_a);
    const std::string& declared = is_a ? block.a : block.b;
    if (declared != expected) {
      return absl::InvalidArgumentError(Cat("manifest: block of module '", block.module, "' names tensor '", declared,
                                            "', expected '", expected, "'"));
    }
    if (tensors.Find(declared) == nullptr) {
      return absl::InvalidArgumentError(Cat("manifest: block of module '", block.module, "' names tensor '", declared,
                                            "', which the tensor file does not hold"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::string BaseIdentity::Digest() const { return Cat(secure::ToHex(weights), ":", secure::ToHex(semantics)); }

absl::StatusOr<Manifest> ParseManifest(std::string_view bytes) {
  v1::Manifest proto;
  const google::protobuf::LogSilencer silencer;  // the error is returned; a site must not be able to fill the log
  if (bytes.size() > INT32_MAX || !proto.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::InvalidArgumentError(Cat("manifest: ", bytes.size(), " bytes that are no Manifest message"));
  }
  if (proto.format() != kFormat) {
    return absl::InvalidArgumentError(
        Cat("manifest: format ", proto.format(), " is not understood, expected ", kFormat));
  }
  STRATA_RETURN_IF_ERROR(CheckLength("base.weights", proto.base().weights(), kDigestBytes));
  STRATA_RETURN_IF_ERROR(CheckLength("base.semantics", proto.base().semantics(), kDigestBytes));
  STRATA_RETURN_IF_ERROR(CheckLength("assignment", proto.assignment(), kAssignmentBytes));
  STRATA_RETURN_IF_ERROR(CheckLength("tensors_sha256", proto.tensors_sha256(), kDigestBytes));
  Manifest manifest{.format = proto.format(),
                    .base = {.weights = proto.base().weights(),
                             .semantics = proto.base().semantics(),
                             .encoding = proto.base().encoding()},
                    .assignment = proto.assignment(),
                    .parent_version = proto.parent_version(),
                    .num_examples = proto.num_examples(),
                    .metrics = {},
                    .blocks = {},
                    .tensors_sha256 = proto.tensors_sha256(),
                    .tensors_bytes = proto.tensors_bytes(),
                    .use_rslora = proto.use_rslora(),
                    .method = proto.method()};
  for (const v1::Metric& metric : proto.metrics()) {
    manifest.metrics.push_back({.name = metric.name(), .value = metric.value()});
  }
  std::set<std::string> slots;
  for (const v1::Block& block : proto.blocks()) {
    STRATA_ASSIGN_OR_RETURN(PairBlock parsed, ParseBlock(block));
    if (!slots.insert(parsed.module).second) {
      return absl::InvalidArgumentError(Cat("manifest: module '", parsed.module, "' has two blocks"));
    }
    manifest.blocks.push_back(std::move(parsed));
  }
  return manifest;
}

std::string SerializeManifest(const Manifest& manifest) {
  v1::Manifest proto;
  proto.set_format(manifest.format);
  proto.mutable_base()->set_weights(manifest.base.weights);
  proto.mutable_base()->set_semantics(manifest.base.semantics);
  proto.mutable_base()->set_encoding(manifest.base.encoding);
  proto.set_assignment(manifest.assignment);
  proto.set_parent_version(manifest.parent_version);
  proto.set_num_examples(manifest.num_examples);
  for (const Metric& metric : manifest.metrics) {
    v1::Metric& out = *proto.add_metrics();
    out.set_name(metric.name);
    out.set_value(metric.value);
  }
  for (const PairBlock& block : manifest.blocks) {
    v1::Block& out = *proto.add_blocks();
    out.mutable_slot()->set_module(block.module);
    out.set_kind(v1::PAIR);
    out.set_scaling(block.scaling);
    out.add_tensors(block.a);
    out.add_tensors(block.b);
    out.set_rank(static_cast<uint32_t>(block.rank));
    out.set_alpha(block.alpha);
  }
  proto.set_tensors_sha256(manifest.tensors_sha256);
  proto.set_tensors_bytes(manifest.tensors_bytes);
  proto.set_use_rslora(manifest.use_rslora);
  proto.set_method(manifest.method);
  return proto.SerializeAsString();
}

std::string ManifestJson(const Manifest& manifest) {
  using Json = nlohmann::ordered_json;
  Json metrics = Json::object();
  for (const Metric& metric : manifest.metrics) metrics[metric.name] = metric.value;
  Json blocks = Json::array();
  for (const PairBlock& block : manifest.blocks) {
    blocks.push_back({{"module", block.module},
                      {"kind", "PAIR"},
                      {"rank", block.rank},
                      {"alpha", block.alpha},
                      {"scaling", block.scaling},
                      {"tensors", {block.a, block.b}}});
  }
  const Json json = {{"format", manifest.format},
                     {"base",
                      {{"weights", secure::ToHex(manifest.base.weights)},
                       {"semantics", secure::ToHex(manifest.base.semantics)},
                       {"encoding", manifest.base.encoding}}},
                     {"assignment", secure::ToHex(manifest.assignment)},
                     {"parent_version", manifest.parent_version},
                     {"num_examples", manifest.num_examples},
                     {"method", manifest.method},
                     {"use_rslora", manifest.use_rslora},
                     {"metrics", metrics},
                     {"tensors_sha256", secure::ToHex(manifest.tensors_sha256)},
                     {"tensors_bytes", manifest.tensors_bytes},
                     {"blocks", blocks}};
  return json.dump(2, ' ', true, Json::error_handler_t::replace) + "\n";
}

absl::StatusOr<Adapter> OpenUpdate(const Manifest& manifest, format::Safetensors tensors) {
  BlocksByModule blocks;
  for (const PairBlock& block : manifest.blocks) {
    STRATA_RETURN_IF_ERROR(CheckTensorsOf(block, tensors));
    blocks[block.module] = &block;
  }
  return Adapter::FromTensors(std::move(tensors), ScalingOfBlock, &blocks);
}

std::vector<PairBlock> BlocksOf(const Adapter& adapter) {
  std::vector<PairBlock> blocks;
  for (const Factors& factors : adapter.modules()) {
    blocks.push_back({.module = factors.module,
                      .rank = factors.rank,
                      .alpha = factors.alpha,
                      .scaling = factors.scaling,
                      .a = PeftTensorName(factors.module, true),
                      .b = PeftTensorName(factors.module, false)});
  }
  return blocks;
}

}  // namespace strata::adapter
