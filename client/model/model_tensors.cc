#include "client/model/model_tensors.h"

#include <string_view>

#include "absl/strings/str_join.h"
#include "common/status/cat.h"

namespace strata::model {
namespace {

void AddNorm(const ModelConfig& config, const std::string& name, int64_t size, std::vector<ExpectedTensor>& out) {
  out.push_back({.name = name + ".weight", .shape = {size}});
  if (config.norm == NormKind::kLayer) out.push_back({.name = name + ".bias", .shape = {size}});
}

void AddLinear(const ModelConfig& config, const LinearEntry& entry, const std::string& prefix,
               std::vector<ExpectedTensor>& out) {
  const int64_t rows = RowsOfLinear(config, entry.rows);
  const std::string name = Cat(prefix, entry.name);
  out.push_back({.name = name + ".weight", .shape = {rows, ColumnsOfGroup(config, entry.group)}, .linear = true});
  if (HasBias(config, entry.group)) out.push_back({.name = name + ".bias", .shape = {rows}});
}

}  // namespace

std::string LayerPrefix(const Family& family, int64_t layer) { return Cat(family.prefix, family.layers, layer, "."); }

int64_t RowsOfLinear(const ModelConfig& config, LinearRows rows) {
  const int64_t queries = config.num_heads * config.head_dim;
  const int64_t keys = config.num_kv_heads * config.head_dim;
  switch (rows) {
    case LinearRows::kQueries:
      return queries;
    case LinearRows::kKeys:
    case LinearRows::kValues:
      return keys;
    case LinearRows::kQueriesKeysValues:
      return queries + 2 * keys;
    case LinearRows::kIntermediate:
      return config.intermediate_size;
    case LinearRows::kTwoIntermediate:
      return 2 * config.intermediate_size;
    case LinearRows::kHidden:
      break;
  }
  return config.hidden_size;
}

int64_t ColumnsOfGroup(const ModelConfig& config, GroupIndex group) {
  if (group == kOut) return config.num_heads * config.head_dim;
  return group == kDown ? config.intermediate_size : config.hidden_size;
}

bool HasBias(const ModelConfig& config, GroupIndex group) {
  if (group == kQkv) return config.qkv_bias;
  return group == kOut ? config.output_bias : config.mlp_bias;
}

int64_t SizeOfNorm(const ModelConfig& config, NormIndex place) {
  return place == kQueryNorm || place == kKeyNorm ? config.head_dim : config.hidden_size;
}

std::vector<ExpectedTensor> ExpectedTensors(const ModelConfig& config) {
  const Family& family = FamilyOf(config);
  std::vector<ExpectedTensor> tensors;
  const std::vector<int64_t> vocabulary = {config.vocab_size, config.hidden_size};
  tensors.push_back({.name = Cat(family.prefix, family.embedding, ".weight"), .shape = vocabulary});
  if (config.learned_positions) {
    tensors.push_back(
        {.name = Cat(family.prefix, family.positions, ".weight"), .shape = {config.max_positions, config.hidden_size}});
  }
  AddNorm(config, Cat(family.prefix, family.final_norm), config.hidden_size, tensors);
  if (!config.tied_embeddings) tensors.push_back({.name = "lm_head.weight", .shape = vocabulary});
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const std::string prefix = LayerPrefix(family, layer);
    for (const NormEntry& norm : family.norms) {
      AddNorm(config, Cat(prefix, norm.name), SizeOfNorm(config, norm.place), tensors);
    }
    for (const LinearEntry& linear : family.linears) AddLinear(config, linear, prefix, tensors);
  }
  return tensors;
}

uint64_t HeldBytes(const ExpectedTensor& tensor, const config::Precision& precision) {
  uint64_t elements = 1;
  for (const int64_t extent : tensor.shape) elements *= static_cast<uint64_t>(extent);
  if (tensor.shape.size() == 1 || precision.base == config::BaseDType::kFp32) return 4 * elements;
  if (!tensor.linear || !precision.quantised()) return 2 * elements;
  if (precision.base == config::BaseDType::kInt8) return elements + 4 * static_cast<uint64_t>(tensor.shape[0]);
  return static_cast<uint64_t>(kernels::Nf4Bytes(static_cast<int64_t>(elements)));
}

std::vector<config::ModuleShape> LinearModulesOf(const ModelConfig& config) {
  const Family& family = FamilyOf(config);
  std::vector<config::ModuleShape> modules;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    for (const LinearEntry& linear : family.linears) {
      modules.push_back({.name = Cat(LayerPrefix(family, layer), linear.name),
                         .out = RowsOfLinear(config, linear.rows),
                         .in = ColumnsOfGroup(config, linear.group)});
    }
  }
  if (!config.tied_embeddings) {
    modules.push_back({.name = "lm_head", .out = config.vocab_size, .in = config.hidden_size});
  }
  return modules;
}

std::string ShapeText(const std::vector<int64_t>& shape) { return Cat("[", absl::StrJoin(shape, ", "), "]"); }

}  // namespace strata::model
