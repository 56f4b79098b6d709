#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "client/model/family.h"
#include "client/model/faults.h"
#include "client/model/model_config.h"
#include "client/model/model_open.h"
#include "client/model/model_tensors.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"
#include "nlohmann/json.hpp"

namespace strata::model {
namespace {

using format::DType;
using format::Safetensors;
using format::TensorView;

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";
constexpr char kHead[] = "lm_head.weight";

bool EndsWith(std::string_view text, std::string_view end) { return text.ends_with(end); }

bool IsFloating(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF64;
}

// Where a tensor lies.
struct Located {
  const TensorView* view = nullptr;
  size_t file = 0;
};

class HfModel : public ModelFiles {
 public:
  HfModel(std::string directory, ModelConfig config) : config_(std::move(config)), path_(std::move(directory)) {}

  const ModelConfig& config() const override { return config_; }
  const std::string& path() const override { return path_; }
  const std::vector<ModelTensor>& tensors() const override { return tensors_; }
  const std::vector<std::string>& weight_files() const override { return weight_files_; }
  std::vector<config::ModuleShape> LinearModules() const override { return LinearModulesOf(config_); }

  absl::Status ReadRows(std::string_view tensor, int64_t first_row, std::span<float> out) const override;
  std::span<const std::byte> RawBytes(std::string_view tensor) const override {
    const TensorView* view = Find(tensor).view;
    return view == nullptr || view->dtype == DType::kF64 ? std::span<const std::byte>() : view->data;
  }
  std::span<const std::byte> StoredBytes(std::string_view tensor) const override {
    const TensorView* view = Find(tensor).view;
    return view == nullptr ? std::span<const std::byte>() : view->data;
  }
  void ReleasePages(std::string_view tensor) const override;

  // Opens the shards, then checks that the tensors are those that the configuration asks for.
  absl::Status Load(runtime::FileSystem& files, const std::map<std::string, std::string>& index,
                    const std::vector<std::string>& names);

 private:
  Located Find(std::string_view tensor) const {
    const auto it = located_.find(tensor);
    return it == located_.end() ? Located{} : it->second;
  }
  void OpenShards(runtime::FileSystem& files, const std::vector<std::string>& names, Faults& faults);
  void CheckIndex(const std::map<std::string, std::string>& index, Faults& faults) const;
  std::string NameOf(const std::string& stored) const;
  bool IsOfOtherPart(std::string_view name) const;
  void CheckTensors(Faults& faults);
  void DropTiedHead(Faults& faults);
  void AddPrefix();
  void DropBuffers();

  ModelConfig config_;
  std::string path_;
  std::vector<std::string> weight_files_;
  std::vector<Safetensors> shards_;
  std::map<std::string, Located, std::less<>> located_;
  std::vector<ModelTensor> tensors_;
};

absl::Status HfModel::ReadRows(std::string_view tensor, int64_t first_row, std::span<float> out) const {
  const TensorView* view = Find(tensor).view;
  if (view == nullptr) return absl::NotFoundError(Cat(path_, ": no tensor '", tensor, "'"));
  const int64_t rows = view->shape.size() < 2 ? 1 : view->shape.front();
  const int64_t row = view->num_elements() / rows;
  const auto elements = static_cast<int64_t>(out.size());
  if (first_row < 0 || first_row > rows || elements % row != 0 || elements / row > rows - first_row) {
    return absl::InvalidArgumentError(Cat(path_, ": tensor '", tensor, "': rows from ", first_row, " with ", elements,
                                          " elements do not lie in ", ShapeText(view->shape)));
  }
  const size_t size = format::DTypeSize(view->dtype);
  const TensorView part = {.name = view->name,
                           .dtype = view->dtype,
                           .shape = {elements},
                           .data = view->data.subspan(static_cast<size_t>(first_row * row) * size, out.size() * size)};
  STRATA_RETURN_IF_ERROR(format::ToFloat(part, out));
  if (elements == view->num_elements()) ReleasePages(tensor);
  return absl::OkStatus();
}

void HfModel::ReleasePages(std::string_view tensor) const {
  const Located found = Find(tensor);
  if (found.view == nullptr) return;
  const auto& mapping = shards_[found.file].mapping();
  mapping->Release(static_cast<size_t>(found.view->data.data() - mapping->bytes().data()), found.view->data.size());
}

void HfModel::OpenShards(runtime::FileSystem& files, const std::vector<std::string>& names, Faults& faults) {
  shards_.reserve(names.size());
  for (const std::string& name : names) {
    const std::string path = runtime::JoinPath(path_, name);
    auto shard = Safetensors::Open(files, path);
    if (!shard.ok()) {
      faults.Add(absl::IsNotFound(shard.status()) ? Cat("shard ", name, ", which the index names, is missing")
                                                  : std::string(shard.status().message()));
      continue;
    }
    shards_.push_back(*std::move(shard));
    weight_files_.push_back(path);
  }
  for (size_t i = 0; i < shards_.size(); ++i) {
    for (const TensorView& tensor : shards_[i].tensors()) {
      const auto [it, fresh] = located_.emplace(NameOf(tensor.name), Located{.view = &tensor, .file = i});
      if (!fresh) {
        faults.Add(Cat("tensor '", tensor.name, "' is in ", runtime::BaseName(weight_files_[it->second.file]),
                       " and in ", runtime::BaseName(weight_files_[i])));
      }
    }
  }
}

void HfModel::CheckIndex(const std::map<std::string, std::string>& index, Faults& faults) const {
  for (const auto& [tensor, file] : index) {
    const Located found = Find(NameOf(tensor));
    if (found.view == nullptr) {
      faults.Add(Cat("tensor '", tensor, "' is not in ", file, ", where the index puts it"));
    } else if (runtime::BaseName(weight_files_[found.file]) != file) {
      faults.Add(
          Cat("tensor '", tensor, "' is in ", runtime::BaseName(weight_files_[found.file]), ", the index says ", file));
    }
  }
}

std::string HfModel::NameOf(const std::string& stored) const {
  for (const auto& [older, name] : FamilyOf(config_).older_names) {
    if (stored.starts_with(older)) return Cat(name, std::string_view(stored).substr(older.size()));
  }
  return stored;
}

bool HfModel::IsOfOtherPart(std::string_view name) const {
  const auto& parts = FamilyOf(config_).other_parts;
  return std::any_of(parts.begin(), parts.end(), [&](std::string_view part) { return name.starts_with(part); });
}

// Base models, without a head of their own, are published without the prefix of their place inside the whole model.
void HfModel::AddPrefix() {
  const Family& family = FamilyOf(config_);
  const std::string embedding = Cat(family.embedding, ".weight");
  if (!located_.contains(embedding) || located_.contains(Cat(family.prefix, embedding))) return;
  std::map<std::string, Located, std::less<>> prefixed;
  for (const auto& [name, found] : located_) {
    prefixed.emplace(name == kHead ? name : Cat(family.prefix, name), found);
  }
  located_ = std::move(prefixed);
}

// Buffers that old checkpoints carry and that the configuration already says.
void HfModel::DropBuffers() {
  for (const std::string_view end : FamilyOf(config_).buffers) {
    std::erase_if(located_, [&](const auto& entry) { return EndsWith(entry.first, end); });
  }
}

// Some checkpoints store the head beside the embeddings that it is tied to. Where both say the same, the head is left
// out.
void HfModel::DropTiedHead(Faults& faults) {
  const Family& family = FamilyOf(config_);
  const std::string embedding_name = Cat(family.prefix, family.embedding, ".weight");
  const Located head = Find(kHead);
  const Located embedding = Find(embedding_name);
  if (!config_.tied_embeddings || head.view == nullptr || embedding.view == nullptr) return;
  if (head.view->dtype != embedding.view->dtype || head.view->data.size() != embedding.view->data.size() ||
      std::memcmp(head.view->data.data(), embedding.view->data.data(), head.view->data.size()) != 0) {
    faults.Add(
        Cat("tensor '", kHead, "' differs from '", embedding_name, "', but the head is tied (tie_word_embeddings)"));
  }
  ReleasePages(kHead);
  ReleasePages(embedding_name);
  located_.erase(kHead);
}

void HfModel::CheckTensors(Faults& faults) {
  AddPrefix();
  DropTiedHead(faults);
  DropBuffers();
  std::set<std::string, std::less<>> known;
  std::set<std::string, std::less<>> turned;  // stored [in, out]
  for (ExpectedTensor& expected : ExpectedTensors(config_)) {
    if (expected.linear && FamilyOf(config_).input_major) {
      std::reverse(expected.shape.begin(), expected.shape.end());
      turned.insert(expected.name);
    }
    const Located found = Find(expected.name);
    if (found.view == nullptr) {
      faults.Add(Cat("tensor '", expected.name, "' ", ShapeText(expected.shape), " is missing",
                     expected.name == kHead ? "; is the head tied (tie_word_embeddings)?" : ""));
      continue;
    }
    const std::string where = Cat("tensor '", expected.name, "' in ", runtime::BaseName(weight_files_[found.file]));
    if (found.view->shape != expected.shape) {
      faults.Add(Cat(where, ": expected shape ", ShapeText(expected.shape), ", found ", ShapeText(found.view->shape)));
    }
    if (!IsFloating(found.view->dtype)) {
      faults.Add(Cat(where, ": expected dtype F32, BF16, F16 or F64, found ", format::DTypeName(found.view->dtype)));
    }
    known.insert(std::move(expected.name));
  }
  for (const auto& [name, found] : located_) {
    tensors_.push_back({.name = name,
                        .shape = found.view->shape,
                        .stored_dtype = std::string(format::DTypeName(found.view->dtype)),
                        .input_major = turned.contains(name),
                        .older_name = NameOf(found.view->name) == found.view->name ? "" : found.view->name,
                        .other_part = IsOfOtherPart(name)});
    if (tensors_.back().other_part) {
      // Nothing else is known of it, but merging has to read it.
      if (found.view->data.empty() || !IsFloating(found.view->dtype)) {
        faults.Add(Cat("tensor '", name, "' in ", runtime::BaseName(weight_files_[found.file]),
                       ": expected numbers in F32, BF16, F16 or F64, found ", ShapeText(found.view->shape), " in ",
                       format::DTypeName(found.view->dtype)));
      }
    } else if (!known.contains(name)) {
      faults.Add(Cat("tensor '", name, "' ", ShapeText(found.view->shape), " in ",
                     runtime::BaseName(weight_files_[found.file]),
                     " is not part of the model that config.json describes"));
    }
  }
}

absl::Status HfModel::Load(runtime::FileSystem& files, const std::map<std::string, std::string>& index,
                           const std::vector<std::string>& names) {
  Faults faults;
  OpenShards(files, names, faults);
  // With a shard missing, all of its tensors would be too.
  if (faults.empty()) CheckIndex(index, faults);
  if (faults.empty()) CheckTensors(faults);
  return faults.ToStatus(path_);
}

using Index = std::map<std::string, std::string>;

bool IsPlainFileName(std::string_view name) {
  return !name.empty() && name.find('/') == std::string_view::npos && name != "." && name != ".." &&
         name.find('\0') == std::string_view::npos;
}

absl::StatusOr<Index> ParseIndex(std::string_view text, const std::string& place) {
  const auto json = nlohmann::json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  const auto map = json.is_object() ? json.find("weight_map") : json.end();
  if (!json.is_object() || map == json.end() || !map->is_object() || map->empty()) {
    return absl::InvalidArgumentError(Cat(place, ": expected a JSON object with `weight_map`: {tensor: file}"));
  }
  Index index;
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string() || !IsPlainFileName(file.get_ref<const std::string&>())) {
      return absl::InvalidArgumentError(
          Cat(place, ": tensor '", tensor, "': expected the name of a file beside the index"));
    }
    index.emplace(tensor, file.get<std::string>());
  }
  return index;
}

absl::Status NoWeights(const std::vector<std::string>& entries, const std::string& directory) {
  const auto pickled = std::find_if(entries.begin(), entries.end(), [](const std::string& name) {
    return EndsWith(name, ".bin") || EndsWith(name, ".bin.index.json") || EndsWith(name, ".pth") ||
           EndsWith(name, ".pt");
  });
  if (pickled != entries.end()) {
    return absl::UnimplementedError(
        Cat(directory, ": has only pickled weights (", *pickled,
            "), which can run code when they are opened and are not read; convert them to safetensors (transformers: "
            "model.save_pretrained(dir, safe_serialization=True))"));
  }
  return absl::NotFoundError(Cat(directory, ": neither ", kSingleFile, " nor ", kIndexFile, " is there"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelFiles>> OpenHfDirectory(runtime::FileSystem& files, const std::string& directory) {
  const std::string config_path = runtime::JoinPath(directory, "config.json");
  STRATA_ASSIGN_OR_RETURN(const std::string config_text, files.ReadFile(config_path));
  STRATA_ASSIGN_OR_RETURN(ModelConfig config, ParseHfConfig(config_text, config_path));
  STRATA_ASSIGN_OR_RETURN(const std::vector<std::string> entries, files.List(directory));
  const auto has = [&](std::string_view name) {
    return std::find(entries.begin(), entries.end(), name) != entries.end();
  };
  Index index;
  std::vector<std::string> names = {kSingleFile};
  if (!has(kSingleFile)) {
    if (!has(kIndexFile)) return NoWeights(entries, directory);
    const std::string index_path = runtime::JoinPath(directory, kIndexFile);
    STRATA_ASSIGN_OR_RETURN(const std::string text, files.ReadFile(index_path));
    STRATA_ASSIGN_OR_RETURN(index, ParseIndex(text, index_path));
    std::set<std::string> shards;
    for (const auto& [tensor, file] : index) shards.insert(file);
    names.clear();
    for (const std::string& shard : shards) names.push_back(shard);
  }
  auto model = std::make_unique<HfModel>(directory, std::move(config));
  STRATA_RETURN_IF_ERROR(model->Load(files, index, names));
  return model;
}

}  // namespace strata::model
