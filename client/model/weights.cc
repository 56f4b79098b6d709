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

// Hands out pieces of one allocation, and reads tensors into them.
class Loader {
 public:
  Loader(const ModelFiles& files, const config::Precision& precision, at::Device device)
      : files_(files),
        precision_(precision),
        dtype_(precision.base == config::BaseDType::kFp32 ? at::kFloat : at::kBFloat16),
        device_(device) {}

  void Reserve() {
    size_t bytes = 0;
    // No tensor is in more than two pieces.
    for (const ExpectedTensor& t : ExpectedTensors(files_.config())) bytes += HeldBytes(t, precision_) + 2 * kAlignment;
    memory_ = AllocateBytes(bytes, device_);
  }

  at::Tensor Take(at::IntArrayRef shape, at::ScalarType type) {
    size_t bytes = at::elementSize(type);
    for (const int64_t n : shape) bytes *= static_cast<size_t>(n);
    at::Tensor out = memory_.narrow(0, static_cast<int64_t>(used_), static_cast<int64_t>(bytes)).view(type).view(shape);
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return out;
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
    TakeWeight(group);
    if (bias) group.bias = Take({rows}, at::kFloat);
    for (const LinearModule& m : group.modules) {
      STRATA_RETURN_IF_ERROR(ReadWeight(m, group));
      if (bias) STRATA_RETURN_IF_ERROR(Read(m.name + ".bias", group.bias.narrow(0, m.first_row, m.rows)));
    }
    return group;
  }

  absl::Status ReadWeight(const LinearModule& module, LinearGroup& group) {
    const std::string name = module.name + ".weight";
    if (precision_.base == config::BaseDType::kNf4) return ReadInNf4(name, module, group);
    const at::Tensor rows = group.weight.narrow(0, module.first_row, module.rows);
    if (precision_.base != config::BaseDType::kInt8) return Read(name, rows);
    STRATA_ASSIGN_OR_RETURN(const ModelTensor* tensor, Find(name, rows.numel()));
    return ReadInt8(files_, *tensor, rows, group.scales.narrow(0, module.first_row, module.rows));
  }

  size_t bytes() const { return used_; }

 private:
  // NF4: each module's arrays on their own lines of the cache.
  static int64_t Nf4Piece(int64_t values) {
    constexpr auto kPiece = static_cast<int64_t>(kAlignment);
    return (kernels::Nf4Bytes(values) + kPiece - 1) / kPiece * kPiece;
  }

  void TakeWeight(LinearGroup& group) {
    if (precision_.base == config::BaseDType::kNf4) {
      int64_t bytes = 0;
      for (const LinearModule& m : group.modules) bytes += Nf4Piece(m.rows * group.in);
      group.weight = Take({bytes}, at::kByte);
    } else if (precision_.base == config::BaseDType::kInt8) {
      group.weight = Take({group.rows(), group.in}, at::kChar);
      group.scales = Take({group.rows()}, at::kFloat);
    } else {
      group.weight = Take({group.rows(), group.in}, dtype_);
    }
  }

  // Modules come in order.
  absl::Status ReadInNf4(const std::string& name, const LinearModule& module, LinearGroup& group) {
    STRATA_ASSIGN_OR_RETURN(const ModelTensor* tensor, Find(name, module.rows * group.in));
    int64_t before = 0;
    for (const kernels::Nf4& part : group.nf4) before += Nf4Piece(part.rows * group.in);
    auto* arrays = static_cast<std::byte*>(group.weight.data_ptr()) + before;
    STRATA_ASSIGN_OR_RETURN(const kernels::Nf4 matrix, ReadNf4(files_, *tensor, module.rows, group.in, arrays));
    group.nf4.push_back(matrix);
    return absl::OkStatus();
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

kernels::Rows LinearGroup::View() const {
  kernels::Rows view = {.rows = rows(), .cols = in, .stride = in};
  if (!nf4.empty()) {
    view.type = kernels::Type::kNf4;
    view.data = const_cast<kernels::Nf4*>(nf4.data());  // operands are read only
  } else if (scales.defined()) {
    view.type = kernels::Type::kInt8;
    view.data = weight.data_ptr();
    view.scales = scales.const_data_ptr<float>();
  } else {
    return RowsOf(weight);
  }
  return view;
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

absl::Status ReloadModule(const ModelFiles& files, const LinearModule& module, LinearGroup& group) {
  return TorchGuard("reading " + module.name, [&]() -> absl::Status {
    const bool fp32 = group.weight.scalar_type() == at::kFloat;
    Loader loader(files, fp32 ? config::ComputeDType::kFp32 : config::ComputeDType::kBf16, group.weight.device());
    return loader.ReadWeight(module, group);
  });
}

}  // namespace strata::model
