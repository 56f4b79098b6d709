#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "client/model/faults.h"
#include "client/model/model_config.h"
#include "client/model/model_open.h"
#include "client/model/model_tensors.h"
#include "common/format/gguf_names.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::model {
namespace {

using format::Gguf;
using format::GgufTensor;
using format::GgufType;

struct Located {
  const GgufTensor* tensor = nullptr;
  bool rotary = false;  // rotary pairs are adjacent rows in the file, half a head apart for HF
};

class GgufModel : public ModelFiles {
 public:
  GgufModel(std::string path, Gguf gguf, ModelConfig config)
      : config_(std::move(config)), path_(std::move(path)), weight_files_({path_}), gguf_(std::move(gguf)) {}

  const ModelConfig& config() const override { return config_; }
  const std::string& path() const override { return path_; }
  const std::vector<ModelTensor>& tensors() const override { return tensors_; }
  const std::vector<std::string>& weight_files() const override { return weight_files_; }
  std::vector<config::ModuleShape> LinearModules() const override { return LinearModulesOf(config_); }

  absl::Status ReadRows(std::string_view tensor, int64_t first_row, std::span<float> out) const override;
  std::span<const std::byte> RawBytes(std::string_view tensor) const override;
  std::span<const std::byte> StoredBytes(std::string_view tensor) const override {
    const GgufTensor* found = Find(tensor).tensor;
    return found == nullptr ? std::span<const std::byte>() : found->data;
  }
  void ReleasePages(std::string_view tensor) const override;

  // Checks that the tensors are those that the metadata asks for.
  absl::Status Load();

 private:
  Located Find(std::string_view tensor) const {
    const auto it = located_.find(tensor);
    return it == located_.end() ? Located{} : it->second;
  }
  absl::Status ReadRotaryRows(const Located& found, int64_t first_row, std::span<float> out) const;
  void Locate(Faults& faults);

  ModelConfig config_;
  std::string path_;
  std::vector<std::string> weight_files_;
  Gguf gguf_;
  std::map<std::string, Located, std::less<>> located_;
  std::vector<ModelTensor> tensors_;
};

// The file's row that holds HF's row `row`.
int64_t StoredRow(int64_t row, int64_t head_dim) {
  const int64_t head = row / head_dim;
  const int64_t within = row % head_dim;
  const int64_t half = head_dim / 2;
  return head * head_dim + 2 * (within % half) + within / half;
}

absl::Status GgufModel::ReadRotaryRows(const Located& found, int64_t first_row, std::span<float> out) const {
  const GgufTensor& tensor = *found.tensor;
  if (tensor.shape.size() == 1) {
    std::vector<float> stored(out.size());
    STRATA_RETURN_IF_ERROR(format::DecodeGgufRows(tensor, first_row, stored));
    for (size_t i = 0; i < out.size(); ++i) {
      out[i] = stored[static_cast<size_t>(StoredRow(static_cast<int64_t>(i), config_.head_dim))];
    }
    return absl::OkStatus();
  }
  const int64_t row = tensor.shape[1];
  const auto count = static_cast<int64_t>(out.size()) / row;
  if (first_row < 0 || count * row != static_cast<int64_t>(out.size()) || first_row > tensor.shape[0] ||
      count > tensor.shape[0] - first_row) {
    return absl::InvalidArgumentError(Cat("tensor '", tensor.name, "': rows from ", first_row, " with ", out.size(),
                                          " elements do not lie in ", ShapeText(tensor.shape)));
  }
  for (int64_t r = 0; r < count; ++r) {
    STRATA_RETURN_IF_ERROR(format::DecodeGgufRows(tensor, StoredRow(first_row + r, config_.head_dim),
                                                  out.subspan(static_cast<size_t>(r * row), static_cast<size_t>(row))));
  }
  return absl::OkStatus();
}

absl::Status GgufModel::ReadRows(std::string_view tensor, int64_t first_row, std::span<float> out) const {
  const Located found = Find(tensor);
  if (found.tensor == nullptr) return absl::NotFoundError(Cat(path_, ": no tensor '", tensor, "'"));
  const absl::Status read =
      found.rotary ? ReadRotaryRows(found, first_row, out) : format::DecodeGgufRows(*found.tensor, first_row, out);
  if (!read.ok()) return Annotate(read, path_);
  if (static_cast<int64_t>(out.size()) == found.tensor->num_elements()) ReleasePages(tensor);
  return absl::OkStatus();
}

std::span<const std::byte> GgufModel::RawBytes(std::string_view tensor) const {
  const Located found = Find(tensor);
  if (found.tensor == nullptr || found.rotary) return {};
  switch (static_cast<GgufType>(found.tensor->type)) {
    case GgufType::kF32:
    case GgufType::kF16:
    case GgufType::kBF16:
      return found.tensor->data;
    default:
      return {};
  }
}

void GgufModel::ReleasePages(std::string_view tensor) const {
  const GgufTensor* found = Find(tensor).tensor;
  if (found == nullptr) return;
  const auto& mapping = gguf_.mapping();
  mapping->Release(static_cast<size_t>(found->data.data() - mapping->bytes().data()), found->data.size());
}

void GgufModel::Locate(Faults& faults) {
  const format::GgufFamily& family = *format::FindGgufFamily(config_.architecture);
  std::set<std::string, std::less<>> known;
  // Their effect is in the configuration.
  for (const std::string_view name : {kRopeDivisors, kRopeShortFactors, kRopeLongFactors}) known.emplace(name);
  for (ExpectedTensor& expected : ExpectedTensors(config_)) {
    const size_t dot = expected.name.rfind('.');
    const format::GgufModuleName module =
        format::GgufModuleOfHf(family, std::string_view(expected.name).substr(0, dot));
    const std::string name = module.gguf + expected.name.substr(dot);
    const GgufTensor* tensor = gguf_.Find(name);
    known.insert(name);
    if (tensor == nullptr) {
      faults.Add(Cat("the tensor '", name, "' (", expected.name, ") ", ShapeText(expected.shape), " is missing"));
      continue;
    }
    if (tensor->shape != expected.shape) {
      faults.Add(Cat("tensor '", tensor->name, "': expected shape ", ShapeText(expected.shape), ", found ",
                     ShapeText(tensor->shape)));
    }
    const bool rotary =
        module.change == format::GgufChange::kQueryRows || module.change == format::GgufChange::kKeyRows;
    located_.emplace(std::move(expected.name), Located{.tensor = tensor, .rotary = rotary});
  }
  for (const GgufTensor& tensor : gguf_.tensors()) {
    if (known.contains(tensor.name)) continue;
    faults.Add(Cat("tensor '", tensor.name, "' ", ShapeText(tensor.shape),
                   " is not part of the model that the metadata describes"));
  }
}

absl::Status GgufModel::Load() {
  Faults faults;
  Locate(faults);
  STRATA_RETURN_IF_ERROR(faults.ToStatus(path_));
  Faults encodings;
  for (const auto& [name, found] : located_) {
    tensors_.push_back(
        {.name = name, .shape = found.tensor->shape, .stored_dtype = format::GgufTypeName(found.tensor->type)});
    if (!format::CanDecodeGguf(found.tensor->type)) {
      encodings.Add(Cat("tensor '", found.tensor->name, "': encoding ", format::GgufTypeName(found.tensor->type),
                        " is not read; known are F32, F16, BF16, F64, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1"));
    }
  }
  return encodings.ToStatus(path_, absl::StatusCode::kUnimplemented);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelFiles>> OpenGgufModel(runtime::FileSystem& files, const std::string& path) {
  STRATA_ASSIGN_OR_RETURN(Gguf gguf, Gguf::Open(files, path));
  STRATA_ASSIGN_OR_RETURN(ModelConfig config, ConfigFromGguf(gguf, path));
  auto model = std::make_unique<GgufModel>(path, std::move(gguf), std::move(config));
  STRATA_RETURN_IF_ERROR(model->Load());
  return model;
}

}  // namespace strata::model
