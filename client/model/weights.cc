#include "client/model/weights.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/model/arena.h"
#include "client/model/model_tensors.h"
#include "client/model/read_matrix.h"
#include "client/model/torch_guard.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::model {
namespace {

constexpr size_t kAlignment = 64;
constexpr int64_t kUsualRank = 16;  // of an adapter: what a wide matrix has room for from the beginning

// Hands out pieces of one allocation, and reads tensors into them.
class Loader {
 public:
  Loader(const ModelFiles& files, const config::Precision& precision, at::Device device)
      : files_(files),
        precision_(precision),
        dtype_(precision.base == config::BaseDType::kFp32 ? at::kFloat : at::kBFloat16),
        device_(device) {}

  void Reserve() {
    if (!device_.is_cpu()) return;  // LibTorch's allocator lays pieces out there, and takes them back one by one
    size_t bytes = 0;
    // No tensor is in more than two pieces.
    for (const ExpectedTensor& t : ExpectedTensors(files_.config())) bytes += HeldBytes(t, precision_) + 2 * kAlignment;
    memory_ = AllocateBytes(bytes, device_);
  }

  at::Tensor Take(at::IntArrayRef shape, at::ScalarType type) {
    size_t bytes = at::elementSize(type);
    for (const int64_t n : shape) bytes *= static_cast<size_t>(n);
    const auto first = static_cast<int64_t>(used_);
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    if (!device_.is_cpu()) return at::empty(shape, at::TensorOptions().dtype(type).device(device_));
    return memory_.narrow(0, first, static_cast<int64_t>(bytes)).view(type).view(shape);
  }

  absl::Status Read(const std::string& name, const at::Tensor& out) {
    STRATA_ASSIGN_OR_RETURN(const ModelTensor* tensor, Find(name, out.numel()));
    const at::Tensor rows = out.dim() == 1 ? out.unsqueeze(0) : out;
    const at::Tensor matrix = tensor->input_major ? rows.t() : rows;
    if (device_.is_cpu() && !tensor->input_major) return ReadMatrix(files_, *tensor, matrix);
    const at::Tensor staging = at::empty(matrix.sizes(), at::TensorOptions().dtype(matrix.scalar_type()));
    STRATA_RETURN_IF_ERROR(ReadMatrix(files_, *tensor, staging));
    matrix.copy_(staging);
    return absl::OkStatus();
  }

  absl::StatusOr<Norm> LoadNorm(const std::string& name, int64_t size) {
    const ModelConfig& c = files_.config();
    Norm norm{.weight = Take({size}, at::kFloat), .bias = {}, .epsilon = c.norm_eps};
    STRATA_RETURN_IF_ERROR(Read(name + ".weight", norm.weight));
    if (c.norm_offset != 0) norm.weight.add_(c.norm_offset);
    if (c.norm == NormKind::kLayer) {
      norm.bias = Take({size}, at::kFloat);
      STRATA_RETURN_IF_ERROR(Read(name + ".bias", norm.bias));
    }
    return norm;
  }

  absl::StatusOr<at::Tensor> Matrix(const std::string& name, int64_t rows, int64_t cols) {
    at::Tensor out = Take({rows, cols}, dtype_);
    STRATA_RETURN_IF_ERROR(Read(name, out));
    return out;
  }

  // `modules`: name and rows, in the order of the fused matrix.
  absl::StatusOr<LinearGroup> Group(const std::vector<std::pair<std::string, int64_t>>& modules, int64_t in,
                                    bool bias) {
    LinearGroup group;
    group.in = in;
    int64_t rows = 0;
    for (const auto& [name, count] : modules) {
      group.modules.push_back({.name = name, .first_row = rows, .rows = count});
      rows += count;
    }
    if (!device_.is_cpu()) {
      const auto margin = kUsualRank * static_cast<int64_t>(modules.size());
      group.wide = Take({rows + margin, in + margin}, dtype_);
      group.weight = group.wide.narrow(0, 0, rows).narrow(1, 0, in);
      STRATA_RETURN_IF_ERROR(ReadModules(group.modules, group.weight.tensor()));
    } else {
      STRATA_ASSIGN_OR_RETURN(group.weight, Weight(group.modules, rows, in));
    }
    if (!bias) return group;
    group.bias = Take({rows}, at::kFloat);
    for (const LinearModule& m : group.modules)
      STRATA_RETURN_IF_ERROR(Read(m.name + ".bias", group.bias.narrow(0, m.first_row, m.rows)));
    return group;
  }

  size_t bytes() const { return used_; }

 private:
  absl::StatusOr<HeldMatrix> Weight(const std::vector<LinearModule>& modules, int64_t rows, int64_t cols) {
    if (precision_.base == config::BaseDType::kNf4) return Nf4Weight(modules, cols);
    if (precision_.base == config::BaseDType::kInt8) return Int8Weight(modules, rows, cols);
    const at::Tensor weight = Take({rows, cols}, dtype_);
    STRATA_RETURN_IF_ERROR(ReadModules(modules, weight));
    return HeldMatrix(weight);
  }

  absl::Status ReadModules(const std::vector<LinearModule>& modules, const at::Tensor& weight) {
    for (const LinearModule& m : modules)
      STRATA_RETURN_IF_ERROR(Read(m.name + ".weight", weight.narrow(0, m.first_row, m.rows)));
    return absl::OkStatus();
  }

  absl::StatusOr<HeldMatrix> Int8Weight(const std::vector<LinearModule>& modules, int64_t rows, int64_t cols) {
    const at::Tensor codes = Take({rows, cols}, at::kChar);
    const at::Tensor scales = Take({rows}, at::kFloat);
    for (const LinearModule& m : modules) {
      STRATA_ASSIGN_OR_RETURN(const ModelTensor* tensor, Find(m.name + ".weight", m.rows * cols));
      STRATA_RETURN_IF_ERROR(
          ReadInt8(files_, *tensor, codes.narrow(0, m.first_row, m.rows), scales.narrow(0, m.first_row, m.rows)));
    }
    return HeldMatrix(codes, scales);
  }

  absl::StatusOr<HeldMatrix> Nf4Weight(const std::vector<LinearModule>& modules, int64_t cols) {
    std::vector<kernels::Nf4> parts;
    for (const LinearModule& m : modules) {
      STRATA_ASSIGN_OR_RETURN(const ModelTensor* tensor, Find(m.name + ".weight", m.rows * cols));
      const at::Tensor arrays = Take({kernels::Nf4Bytes(m.rows * cols)}, at::kByte);
      STRATA_ASSIGN_OR_RETURN(const kernels::Nf4 part,
                              ReadNf4(files_, *tensor, m.rows, cols, static_cast<std::byte*>(arrays.data_ptr())));
      parts.push_back(part);
    }
    return HeldMatrix(memory_, std::move(parts), cols);
  }

  absl::StatusOr<const ModelTensor*> Find(const std::string& name, int64_t elements) const {
    const auto& tensors = files_.tensors();
    const auto it = std::lower_bound(tensors.begin(), tensors.end(), name,
                                     [](const ModelTensor& t, const std::string& n) { return t.name < n; });
    if (it == tensors.end() || it->name != name)
      return absl::InvalidArgumentError(absl::StrCat(files_.path(), ": tensor ", name, " is missing"));
    int64_t found = 1;
    for (const int64_t n : it->shape) found *= n;
    if (found != elements) {
      return absl::InvalidArgumentError(
          absl::StrCat(files_.path(), ": tensor ", name, " has ", found, " elements, expected ", elements));
    }
    return &*it;
  }

  const ModelFiles& files_;
  config::Precision precision_;
  at::ScalarType dtype_;  // of what is not quantised
  at::Device device_;
  at::Tensor memory_;
  size_t used_ = 0;
};

absl::StatusOr<LayerWeights> LoadLayer(Loader& loader, const ModelConfig& c, int64_t index) {
  const Family& family = FamilyOf(c);
  const std::string prefix = LayerPrefix(family, index);
  LayerWeights layer;
  for (const NormEntry& entry : family.norms) {
    STRATA_ASSIGN_OR_RETURN(layer.norms[entry.place],
                            loader.LoadNorm(Cat(prefix, entry.name), SizeOfNorm(c, entry.place)));
  }
  for (const GroupIndex group : {kQkv, kOut, kGateUp, kDown}) {
    std::vector<std::pair<std::string, int64_t>> modules;
    for (const LinearEntry& entry : family.linears) {
      if (entry.group == group) modules.emplace_back(Cat(prefix, entry.name), RowsOfLinear(c, entry.rows));
    }
    STRATA_ASSIGN_OR_RETURN(layer.groups[group], loader.Group(modules, ColumnsOfGroup(c, group), HasBias(c, group)));
  }
  return layer;
}

}  // namespace

Weights::Place Weights::Find(std::string_view name) const {
  for (size_t l = 0; l < layers.size(); ++l) {
    for (int g = 0; g < kNumGroups; ++g) {
      const std::vector<LinearModule>& modules = layers[l].groups[static_cast<size_t>(g)].modules;
      for (size_t m = 0; m < modules.size(); ++m) {
        if (modules[m].name == name) return {static_cast<int64_t>(l), g, static_cast<int>(m)};
      }
    }
  }
  return {};
}

absl::StatusOr<Weights> LoadWeights(const ModelFiles& files, const config::Precision& precision, at::Device device) {
  return TorchGuard("loading " + files.path(), [&]() -> absl::StatusOr<Weights> {
    const ModelConfig& c = files.config();
    Loader loader(files, precision, device);
    loader.Reserve();
    Weights weights;
    const Family& family = FamilyOf(c);
    STRATA_ASSIGN_OR_RETURN(
        weights.embedding, loader.Matrix(Cat(family.prefix, family.embedding, ".weight"), c.vocab_size, c.hidden_size));
    if (c.learned_positions) {
      STRATA_ASSIGN_OR_RETURN(weights.positions, loader.Matrix(Cat(family.prefix, family.positions, ".weight"),
                                                               c.max_positions, c.hidden_size));
    }
    for (int64_t l = 0; l < c.num_layers; ++l) {
      STRATA_ASSIGN_OR_RETURN(LayerWeights layer, LoadLayer(loader, c, l));
      weights.layers.push_back(std::move(layer));
    }
    STRATA_ASSIGN_OR_RETURN(weights.final_norm, loader.LoadNorm(Cat(family.prefix, family.final_norm), c.hidden_size));
    weights.head = weights.embedding;
    if (!c.tied_embeddings) {
      STRATA_ASSIGN_OR_RETURN(weights.head, loader.Matrix("lm_head.weight", c.vocab_size, c.hidden_size));
    }
    weights.resident_bytes = loader.bytes();
    return weights;
  });
}

bool HasMargin(const LinearGroup& group, int64_t ranks) {
  return !group.wide.defined() || group.wide.size(0) - group.weight.rows() >= ranks;
}

void EnsureMargin(LinearGroup& group, int64_t ranks) {
  if (HasMargin(group, ranks)) return;
  const int64_t rows = group.weight.rows();
  const at::Tensor wide = at::empty({rows + ranks, group.in + ranks}, group.wide.options());
  const at::Tensor weight = wide.narrow(0, 0, rows).narrow(1, 0, group.in);
  weight.copy_(group.weight.tensor());
  group.wide = wide;
  group.weight = weight;
}

absl::Status ReloadModule(const ModelFiles& files, const LinearModule& module, LinearGroup& group) {
  return TorchGuard("reading " + module.name, [&]() -> absl::Status {
    Loader loader(files, config::ComputeDType::kFp32, group.weight.device());
    return loader.Read(module.name + ".weight", group.weight.tensor().narrow(0, module.first_row, module.rows));
  });
}

}  // namespace strata::model
