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
constexpr float kMostHalf = 65504;  // of fp16
constexpr int64_t kUsualRank = 16;  // of an adapter: what a wide matrix has room for from the beginning

// Where a tensor is read to, and where it is computed with: the same on the CPU.
struct Piece {
  at::Tensor host, held;
};

at::ScalarType ElementOf(const config::Precision& precision) {
  if (precision.base == config::BaseDType::kFp32) return at::kFloat;
  return precision.compute == config::ComputeDType::kFp16 ? at::kHalf : at::kBFloat16;
}

// Hands out pieces of memory, and reads tensors into them. On the CPU they are pieces of one allocation.
class Loader {
 public:
  Loader(const ModelFiles& files, const config::Precision& precision, at::Device device)
      : files_(files), precision_(precision), dtype_(ElementOf(precision)), device_(device) {}

  void Reserve() {
    if (!device_.is_cpu()) return;  // LibTorch's allocator lays pieces out there, and takes them back one by one
    size_t bytes = 0;
    // No tensor is in more than two pieces.
    for (const ExpectedTensor& t : ExpectedTensors(files_.config())) bytes += HeldBytes(t, precision_) + 2 * kAlignment;
    memory_ = AllocateBytes(bytes, device_);
  }

  // What follows are a layer's matrices, which lie together in `host` and visit `place`; undefined: no longer.
  void StayOnHost(at::Tensor host, at::Tensor place) {
    visit_ = {.host = std::move(host), .held = std::move(place)};
    visiting_ = 0;
  }

  absl::StatusOr<Norm> LoadNorm(const std::string& name, int64_t size) {
    const ModelConfig& c = files_.config();
    Norm norm{.weight = {}, .bias = {}, .epsilon = c.norm_eps};
    STRATA_ASSIGN_OR_RETURN(norm.weight, Vector({{name + ".weight", size}}));
    if (c.norm_offset != 0) norm.weight.add_(c.norm_offset);
    if (c.norm == NormKind::kLayer) {
      STRATA_ASSIGN_OR_RETURN(norm.bias, Vector({{name + ".bias", size}}));
    }
    return norm;
  }

  absl::StatusOr<at::Tensor> Matrix(const std::string& name, int64_t rows, int64_t cols) {
    const Piece piece = Take({rows, cols}, dtype_);
    STRATA_RETURN_IF_ERROR(Read(name, piece.host));
    return Held(piece);
  }

  // `modules`: name and rows, in the order of the fused matrix.
  absl::StatusOr<LinearGroup> Group(const std::vector<std::pair<std::string, int64_t>>& modules, int64_t in,
                                    bool bias) {
    LinearGroup group;
    group.in = in;
    int64_t rows = 0;
    std::vector<std::pair<std::string, int64_t>> biases;
    for (const auto& [name, count] : modules) {
      group.modules.push_back({.name = name, .first_row = rows, .rows = count});
      biases.emplace_back(name + ".bias", count);
      rows += count;
    }
    if (StandsInWide()) {
      const auto margin = kUsualRank * static_cast<int64_t>(modules.size());
      group.wide = Allocated({rows + margin, in + margin}, dtype_);
      group.weight = group.wide.narrow(0, 0, rows).narrow(1, 0, in);
      for (const LinearModule& m : group.modules)
        STRATA_RETURN_IF_ERROR(ReadInto(m.name + ".weight", group.weight.tensor().narrow(0, m.first_row, m.rows)));
    } else {
      STRATA_ASSIGN_OR_RETURN(group.weight, Weight(group.modules, rows, in));
    }
    if (!bias) return group;
    STRATA_ASSIGN_OR_RETURN(group.bias, Vector(biases));
    return group;
  }

  // Reads a tensor to where it is held.
  absl::Status ReadInto(const std::string& name, const at::Tensor& out) {
    if (out.is_cpu()) return Read(name, out);
    const at::Tensor staging = at::empty(out.sizes(), at::TensorOptions().dtype(out.scalar_type()));
    STRATA_RETURN_IF_ERROR(Read(name, staging));
    out.copy_(staging);
    return absl::OkStatus();
  }

  size_t bytes() const { return used_; }

 private:
  bool visiting() const { return visit_.host.defined(); }
  bool StandsInWide() const {
    return !device_.is_cpu() && !visiting() && precision_ == config::Precision(precision_.compute);
  }

  // Memory where it is computed with.
  at::Tensor Allocated(at::IntArrayRef shape, at::ScalarType type) {
    size_t bytes = at::elementSize(type);
    for (const int64_t n : shape) bytes *= static_cast<size_t>(n);
    const auto first = static_cast<int64_t>(used_);
    used_ += RoundUp(bytes);
    if (!device_.is_cpu()) return at::empty(shape, at::TensorOptions().dtype(type).device(device_));
    return memory_.narrow(0, first, static_cast<int64_t>(bytes)).view(type).view(shape);
  }

  Piece Take(at::IntArrayRef shape, at::ScalarType type) {
    if (!visiting()) {
      const at::Tensor held = Allocated(shape, type);
      return {.host = device_.is_cpu() ? held : at::empty(shape, at::TensorOptions().dtype(type)), .held = held};
    }
    auto bytes = static_cast<int64_t>(at::elementSize(type));
    for (const int64_t n : shape) bytes *= n;
    const int64_t first = visiting_;
    visiting_ += static_cast<int64_t>(RoundUp(static_cast<size_t>(bytes)));
    const auto piece = [&](const at::Tensor& of) { return of.narrow(0, first, bytes).view(type).view(shape); };
    return {.host = piece(visit_.host), .held = piece(visit_.held)};
  }
  // After `piece.host` was filled.
  at::Tensor Held(const Piece& piece) const {
    if (!visiting() && !device_.is_cpu()) piece.held.copy_(piece.host);
    return piece.held;
  }
  static size_t RoundUp(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

  // Into memory of the host.
  absl::Status Read(const std::string& name, const at::Tensor& out) {
    STRATA_ASSIGN_OR_RETURN(const ModelTensor* tensor, Find(name, out.numel()));
    const at::Tensor rows = out.dim() == 1 ? out.unsqueeze(0) : out;
    const at::Tensor matrix = tensor->input_major ? rows.t() : rows;
    const bool half = out.scalar_type() == at::kHalf;
    if (!half && !tensor->input_major) return ReadMatrix(files_, *tensor, matrix);
    const at::Tensor staging = at::empty(matrix.sizes(), half ? at::kFloat : matrix.scalar_type());
    STRATA_RETURN_IF_ERROR(ReadMatrix(files_, *tensor, staging));
    const auto [least, most] = at::aminmax(staging);
    if (half && std::max(-least.item<float>(), most.item<float>()) > kMostHalf) {
      return absl::OutOfRangeError(absl::StrCat(files_.path(), ": tensor ", name,
                                                " has values beyond fp16's range of 65504: take dtype bf16 or fp32"));
    }
    matrix.copy_(staging);
    return absl::OkStatus();
  }

  // Vectors of fp32 behind one another, which never leave the device.
  absl::StatusOr<at::Tensor> Vector(const std::vector<std::pair<std::string, int64_t>>& parts) {
    int64_t size = 0;
    for (const auto& [name, count] : parts) size += count;
    const at::Tensor out = Allocated({size}, at::kFloat);
    int64_t first = 0;
    for (const auto& [name, count] : parts) {
      STRATA_RETURN_IF_ERROR(ReadInto(name, out.narrow(0, first, count)));
      first += count;
    }
    return out;
  }

  absl::StatusOr<HeldMatrix> Weight(const std::vector<LinearModule>& modules, int64_t rows, int64_t cols) {
    if (precision_.base == config::BaseDType::kNf4) return Nf4Weight(modules, cols);
    if (precision_.base == config::BaseDType::kInt8) return Int8Weight(modules, rows, cols);
    const Piece weight = Take({rows, cols}, dtype_);
    for (const LinearModule& m : modules)
      STRATA_RETURN_IF_ERROR(Read(m.name + ".weight", weight.host.narrow(0, m.first_row, m.rows)));
    return HeldMatrix(Held(weight));
  }

  absl::StatusOr<HeldMatrix> Int8Weight(const std::vector<LinearModule>& modules, int64_t rows, int64_t cols) {
    const Piece codes = Take({rows, cols}, at::kChar);
    const Piece scales = Take({rows}, at::kFloat);
    for (const LinearModule& m : modules) {
      STRATA_ASSIGN_OR_RETURN(const ModelTensor* tensor, Find(m.name + ".weight", m.rows * cols));
      STRATA_RETURN_IF_ERROR(ReadInt8(files_, *tensor, codes.host.narrow(0, m.first_row, m.rows),
                                      scales.host.narrow(0, m.first_row, m.rows)));
    }
    return HeldMatrix(Held(codes), Held(scales));
  }

  // A module's arrays behind one another.
  absl::StatusOr<HeldMatrix> Nf4Weight(const std::vector<LinearModule>& modules, int64_t cols) {
    std::vector<int64_t> firsts;
    int64_t bytes = 0;
    for (const LinearModule& m : modules) {
      firsts.push_back(bytes);
      bytes += static_cast<int64_t>(RoundUp(static_cast<size_t>(kernels::Nf4Bytes(m.rows * cols))));
    }
    const Piece arrays = Take({bytes}, at::kByte);
    auto* host = static_cast<std::byte*>(arrays.host.data_ptr());
    const auto* held = static_cast<const std::byte*>(arrays.held.data_ptr());
    const auto moved = [&](const auto* p) {
      return reinterpret_cast<decltype(p)>(held + (reinterpret_cast<const std::byte*>(p) - host));
    };
    std::vector<kernels::Nf4> parts;
    for (size_t i = 0; i < modules.size(); ++i) {
      const LinearModule& m = modules[i];
      STRATA_ASSIGN_OR_RETURN(const ModelTensor* tensor, Find(m.name + ".weight", m.rows * cols));
      STRATA_ASSIGN_OR_RETURN(kernels::Nf4 part, ReadNf4(files_, *tensor, m.rows, cols, host + firsts[i]));
      part.codes = moved(part.codes);
      part.scales = moved(part.scales);
      part.scale_scales = moved(part.scale_scales);
      parts.push_back(part);
    }
    return HeldMatrix(Held(arrays), std::move(parts), cols);
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
  Piece visit_;
  int64_t visiting_ = 0;  // bytes of it that are taken
};

// Of the matrices of one layer, as Loader lays them behind one another.
size_t LayerBytes(const ModelConfig& config, const config::Precision& precision) {
  const std::string prefix = LayerPrefix(FamilyOf(config), 0);
  size_t bytes = 0;
  for (const ExpectedTensor& t : ExpectedTensors(config)) {
    if (t.linear && t.name.starts_with(prefix)) bytes += HeldBytes(t, precision) + 2 * kAlignment;
  }
  return bytes;
}

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

void Weights::Use([[maybe_unused]] size_t layer) const {
#ifdef STRATA_CUDA
  if (host_layers != nullptr) host_layers->Use(static_cast<int64_t>(layer));
#endif
}

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

absl::StatusOr<Weights> LoadWeights(const ModelFiles& files, const config::Precision& precision, at::Device device,
                                    int64_t host_layers) {
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
#ifdef STRATA_CUDA
    if (host_layers > 0) {
      weights.host_layers = std::make_shared<HostLayers>(c.num_layers, host_layers, LayerBytes(c, precision), device);
    }
#endif
    for (int64_t l = 0; l < c.num_layers; ++l) {
#ifdef STRATA_CUDA
      if (host_layers > 0 && weights.host_layers->Has(l))
        loader.StayOnHost(weights.host_layers->Host(l), weights.host_layers->Place(l));
#endif
      STRATA_ASSIGN_OR_RETURN(LayerWeights layer, LoadLayer(loader, c, l));
      weights.layers.push_back(std::move(layer));
      loader.StayOnHost({}, {});
    }
    STRATA_ASSIGN_OR_RETURN(weights.final_norm, loader.LoadNorm(Cat(family.prefix, family.final_norm), c.hidden_size));
    weights.head = weights.embedding;
    if (!c.tied_embeddings) {
      STRATA_ASSIGN_OR_RETURN(weights.head, loader.Matrix("lm_head.weight", c.vocab_size, c.hidden_size));
    }
    weights.resident_bytes =
        loader.bytes() + static_cast<size_t>(HostLayers::PlacesFor(host_layers)) * LayerBytes(c, precision);
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
    return loader.ReadInto(module.name + ".weight", group.weight.tensor().narrow(0, module.first_row, module.rows));
  });
}

}  // namespace strata::model
