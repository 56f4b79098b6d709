#include "client/model/weights.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "client/model/arena.h"
#include "client/model/model_tensors.h"
#include "client/model/torch_guard.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"
#include "kernels/ops.h"

namespace strata::model {
namespace {

constexpr int64_t kBlockElements = int64_t{1} << 18;
constexpr size_t kAlignment = 64;

// The first failure of several threads.
class FirstError {
 public:
  void Update(const absl::Status& status) {
    if (status.ok()) return;
    absl::MutexLock lock(&mutex_);
    if (status_.ok()) status_ = status;
  }
  absl::Status get() {
    absl::MutexLock lock(&mutex_);
    return status_;
  }

 private:
  absl::Mutex mutex_;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

absl::Status ReadBlock(const ModelFiles& files, const std::string& name, int64_t first, int64_t rows,
                       const at::Tensor& out) {
  const int64_t cols = out.size(1);
  const auto count = static_cast<size_t>(rows * cols);
  if (out.scalar_type() == at::kFloat)
    return files.ReadRows(name, first, {out.data_ptr<float>() + first * cols, count});
  std::vector<float> wide(count);
  STRATA_RETURN_IF_ERROR(files.ReadRows(name, first, wide));
  kernels::RoundToBf16(wide.data(), static_cast<uint16_t*>(out.data_ptr()) + first * cols, static_cast<int64_t>(count));
  return absl::OkStatus();
}

// Fills `out`, a contiguous CPU matrix of fp32 or bf16, with the whole tensor.
absl::Status ReadMatrix(const ModelFiles& files, const ModelTensor& tensor, const at::Tensor& out) {
  const std::span<const std::byte> raw = files.RawBytes(tensor.name);
  const bool same = (tensor.stored_dtype == "BF16" && out.scalar_type() == at::kBFloat16) ||
                    (tensor.stored_dtype == "F32" && out.scalar_type() == at::kFloat);
  const int64_t rows = out.size(0);
  const int64_t block = std::max<int64_t>(kBlockElements / std::max<int64_t>(out.size(1), 1), 1);
  FirstError error;
  at::parallel_for(0, (rows + block - 1) / block, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * block;
      const int64_t count = std::min(block, rows - first);
      if (same && !raw.empty()) {
        const size_t row_bytes = static_cast<size_t>(out.size(1)) * out.element_size();
        std::memcpy(static_cast<std::byte*>(out.data_ptr()) + static_cast<size_t>(first) * row_bytes,
                    raw.data() + static_cast<size_t>(first) * row_bytes, static_cast<size_t>(count) * row_bytes);
      } else {
        error.Update(ReadBlock(files, tensor.name, first, count, out));
      }
    }
  });
  files.ReleasePages(tensor.name);
  return error.get();
}

// Hands out pieces of one allocation, and reads tensors into them.
class Loader {
 public:
  Loader(const ModelFiles& files, at::ScalarType dtype, at::Device device)
      : files_(files), dtype_(dtype), device_(device) {}

  absl::Status Reserve() {
    size_t bytes = 0;
    for (const ModelTensor& t : files_.tensors()) bytes += Padded(t.shape, t.shape.size() == 1 ? at::kFloat : dtype_);
    // Fused groups share one piece, so that padding is counted at least once too often: enough.
    memory_ = AllocateBytes(bytes, device_);
    return absl::OkStatus();
  }

  at::Tensor Take(at::IntArrayRef shape, at::ScalarType type) {
    const size_t bytes = Padded(shape, type);
    at::Tensor out =
        memory_.narrow(0, static_cast<int64_t>(used_), static_cast<int64_t>(Exact(shape, type))).view(type).view(shape);
    used_ += bytes;
    return out;
  }

  absl::Status Read(const std::string& name, const at::Tensor& out) {
    const ModelTensor* tensor = Find(name);
    if (tensor == nullptr)
      return absl::InvalidArgumentError(absl::StrCat(files_.path(), ": tensor ", name, " is missing"));
    int64_t elements = 1;
    for (const int64_t n : tensor->shape) elements *= n;
    if (elements != out.numel()) {
      return absl::InvalidArgumentError(
          absl::StrCat(files_.path(), ": tensor ", name, " has ", elements, " elements, expected ", out.numel()));
    }
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
    group.weight = Take({rows, in}, dtype_);
    if (bias) group.bias = Take({rows}, at::kFloat);
    for (const LinearModule& m : group.modules) {
      STRATA_RETURN_IF_ERROR(Read(m.name + ".weight", group.weight.narrow(0, m.first_row, m.rows)));
      if (bias) STRATA_RETURN_IF_ERROR(Read(m.name + ".bias", group.bias.narrow(0, m.first_row, m.rows)));
    }
    return group;
  }

  size_t bytes() const { return used_; }

 private:
  static size_t Exact(at::IntArrayRef shape, at::ScalarType type) {
    size_t bytes = at::elementSize(type);
    for (const int64_t n : shape) bytes *= static_cast<size_t>(n);
    return bytes;
  }
  static size_t Padded(at::IntArrayRef shape, at::ScalarType type) {
    return (Exact(shape, type) + kAlignment - 1) / kAlignment * kAlignment;
  }

  const ModelTensor* Find(const std::string& name) const {
    const auto& tensors = files_.tensors();
    const auto it = std::lower_bound(tensors.begin(), tensors.end(), name,
                                     [](const ModelTensor& t, const std::string& n) { return t.name < n; });
    return it != tensors.end() && it->name == name ? &*it : nullptr;
  }

  const ModelFiles& files_;
  at::ScalarType dtype_;
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

absl::StatusOr<Weights> LoadWeights(const ModelFiles& files, at::ScalarType dtype, at::Device device) {
  return TorchGuard("loading " + files.path(), [&]() -> absl::StatusOr<Weights> {
    const ModelConfig& c = files.config();
    Loader loader(files, dtype, device);
    STRATA_RETURN_IF_ERROR(loader.Reserve());
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
    Loader loader(files, group.weight.scalar_type(), group.weight.device());
    return loader.Read(module.name + ".weight", group.weight.narrow(0, module.first_row, module.rows));
  });
}

}  // namespace strata::model
