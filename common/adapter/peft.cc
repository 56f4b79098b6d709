// PEFT's directory format.
#include <algorithm>
#include <cmath>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_join.h"
#include "common/adapter/adapter.h"
#include "common/runtime/pending_file.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"
#include "nlohmann/json.hpp"

namespace strata::adapter {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kConfigFile = "adapter_config.json";
constexpr std::string_view kTensorFile = "adapter_model.safetensors";

// Whole numbers as integers: PEFT writes lora_alpha so.
Json NumberOf(double value) {
  if (value == std::floor(value) && std::abs(value) < 1e15) return static_cast<int64_t>(value);
  return value;
}

// The alpha under which PEFT arrives at this scaling. The declared one wins where it does so to the last bit.
double AlphaFor(const Factors& factors, bool use_rslora) {
  if (ScalingOf(factors.alpha, factors.rank, use_rslora) == factors.scaling) return factors.alpha;
  const auto rank = static_cast<double>(factors.rank);
  return factors.scaling * (use_rslora ? std::sqrt(rank) : rank);
}

template <typename Value>
Value MostFrequent(const std::vector<std::pair<std::string, Value>>& values, Value otherwise) {
  std::map<Value, size_t> counts;
  for (const auto& [module, value] : values) ++counts[value];
  size_t best = 0;
  for (const auto& [value, count] : counts) {
    if (count > best) {
      best = count;
      otherwise = value;
    }
  }
  return otherwise;
}

// PEFT reads keys as expressions. A dot is left as it is, as in what PEFT writes: it matches itself.
std::string AsPatternKey(std::string_view module) {
  std::string key;
  for (const char c : module) {
    if (!absl::ascii_isalnum(c) && c != '_' && c != '-' && c != '.') key.push_back('\\');
    key.push_back(c);
  }
  return key;
}

// Entries for the modules that differ from the default, and for those of the default value that an entry of another
// module, being a suffix of theirs, would catch. Longer names first, so that a full name wins over its suffixes.
template <typename Value>
Json PatternsOf(std::vector<std::pair<std::string, Value>> values, Value fallback) {
  std::set<std::string_view> different;
  for (const auto& [module, value] : values) {
    if (value != fallback) different.insert(module);
  }
  const auto caught = [&different](std::string_view module) {
    for (size_t dot = module.find('.'); dot != std::string_view::npos; dot = module.find('.', dot + 1)) {
      if (different.contains(module.substr(dot + 1))) return true;
    }
    return false;
  };
  std::vector<std::pair<std::string, Value>> entries;
  for (const auto& entry : values) {
    if (entry.second != fallback || caught(entry.first)) entries.push_back(entry);
  }
  std::stable_sort(entries.begin(), entries.end(),
                   [](const auto& x, const auto& y) { return x.first.size() > y.first.size(); });
  Json json = Json::object();
  for (const auto& [module, value] : entries) json[AsPatternKey(module)] = NumberOf(value);
  return json;
}

// Elements of `view` in the wanted dtype; `storage` holds them where that is not how they are stored.
absl::Status Convert(const format::TensorView& view, format::DType dtype, std::string& storage) {
  const auto count = static_cast<size_t>(view.num_elements());
  storage.resize(count * format::DTypeSize(dtype));
  if (dtype == format::DType::kF64) {
    return format::ToDouble(view, {reinterpret_cast<double*>(storage.data()), count});
  }
  std::vector<float> values(count);
  STRATA_RETURN_IF_ERROR(format::ToFloat(view, values));
  return format::FromFloat(values, dtype, std::as_writable_bytes(std::span(storage)));
}

// What a file of tensors holds, in order.
struct TensorFile {
  std::string preamble;
  std::vector<format::TensorView> tensors;
  std::vector<std::string> storage;  // of tensors that are stored in another type
};

absl::StatusOr<TensorFile> TensorFileOf(const Adapter& adapter, const PeftWriteOptions& options) {
  TensorFile file;
  std::vector<format::TensorView>& views = file.tensors;
  for (const Factors& factors : adapter.modules()) {
    if (factors.rank == 0) continue;
    views.push_back(factors.a);
    views.back().name = PeftTensorName(factors.module, true);
    views.push_back(factors.b);
    views.back().name = PeftTensorName(factors.module, false);
    if (!factors.has_magnitude()) continue;
    views.push_back(factors.magnitude);
    views.back().name = PeftMagnitudeName(factors.module);
  }
  file.storage.resize(views.size());
  for (size_t i = 0; i < views.size(); ++i) {
    if (views[i].dtype == options.dtype) continue;
    STRATA_RETURN_IF_ERROR(Convert(views[i], options.dtype, file.storage[i]));
    views[i].data = std::as_bytes(std::span(file.storage[i]));
    views[i].dtype = options.dtype;
  }
  std::map<std::string, std::string> metadata = options.metadata;
  metadata["format"] = "pt";
  file.preamble = format::SafetensorsPreamble(views, metadata);
  return file;
}

bool AllFinite(const format::TensorView& tensor) {
  constexpr int64_t kBlock = 1 << 16;
  const size_t size = format::DTypeSize(tensor.dtype);
  std::vector<float> values;
  for (int64_t first = 0, count = tensor.num_elements(); first < count; first += kBlock) {
    const auto length = static_cast<size_t>(std::min(kBlock, count - first));
    values.resize(length);
    const format::TensorView block{.name = tensor.name,
                                   .dtype = tensor.dtype,
                                   .shape = {static_cast<int64_t>(length)},
                                   .data = tensor.data.subspan(static_cast<size_t>(first) * size, length * size)};
    if (!format::ToFloat(block, values).ok()) return false;
    if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); })) return false;
  }
  return true;
}

// A list for a message, its beginning where it is long.
std::string Listed(const std::vector<std::string>& items, const char* separator) {
  constexpr size_t kMost = 7;
  const auto shown = std::span(items).first(std::min(items.size(), kMost));
  return Cat(absl::StrJoin(shown, separator),
             items.size() > kMost ? Cat(separator, "and ", items.size() - kMost, " more") : "");
}

// Whether the file is what its config says, and numbers all of it.
absl::Status CheckContent(const Adapter& adapter, const PeftConfig& config) {
  std::vector<std::string> faults;
  for (const Factors& factors : adapter.modules()) {
    // No config can say 0: factors without a row are a module that is not adapted.
    if (const uint32_t rank = config.RankOf(factors.module); factors.rank > 0 && factors.rank != int64_t{rank}) {
      faults.push_back(Cat("module '", factors.module, "': the factors have rank ", factors.rank, ", ", kConfigFile,
                           " says ", rank, " (r, rank_pattern)"));
    }
    for (const format::TensorView* tensor : {&factors.a, &factors.b, &factors.magnitude}) {
      if (tensor->shape.empty() || AllFinite(*tensor)) continue;
      faults.push_back(Cat("tensor '", tensor->name, "' holds elements that are not finite"));
    }
  }
  if (faults.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(Cat(Listed(faults, "; "), "; save the adapter again, or correct ", kConfigFile));
}

// As PEFT does, all-linear leaves the head out.
absl::Status CheckComplete(const Adapter& adapter, const PeftConfig& config,
                           const std::vector<config::ModuleShape>& modules) {
  const config::AdapterOptions& options = config.options;
  std::vector<std::string> missing;
  for (const config::ModuleShape& module : modules) {
    const bool head = module.name == "lm_head" && options.target_modules.all_linear;
    if (!head && IsTarget(options, module.name) && adapter.Find(module.name) == nullptr) missing.push_back(module.name);
  }
  if (!missing.empty()) {
    return absl::InvalidArgumentError(Cat("has no factors of ", missing.size(), " modules of the model that ",
                                          kConfigFile, " names (target_modules): ", Listed(missing, ", "),
                                          "; save the adapter again, or name those that it has"));
  }
  if (adapter.modules().empty() && !config.adapts_nothing)
    return absl::InvalidArgumentError("holds no factors; save the adapter again");
  return absl::OkStatus();
}

absl::Status CheckSupported(const PeftConfig& config, std::string_view place) {
  if (config.unsupported.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      Cat(place, ": the adapter uses ", absl::StrJoin(config.unsupported, ", "),
          "; only LoRA (also rsLoRA, DoRA and patterns) can be read. Convert it with PEFT, or train it without"));
}

}  // namespace

std::string PeftConfigJson(const Adapter& adapter, const PeftWriteOptions& options) {
  std::vector<std::pair<std::string, int64_t>> ranks;
  std::vector<std::pair<std::string, double>> alphas;
  Json targets = Json::array();
  for (const Factors& factors : adapter.modules()) {
    if (factors.rank == 0) continue;
    targets.push_back(factors.module);
    ranks.emplace_back(factors.module, factors.rank);
    alphas.emplace_back(factors.module, AlphaFor(factors, options.use_rslora));
  }
  const int64_t rank = MostFrequent<int64_t>(ranks, 1);
  const double alpha = MostFrequent<double>(alphas, 1);
  Json json;
  json["alpha_pattern"] = PatternsOf(alphas, alpha);
  json["auto_mapping"] = nullptr;
  json["base_model_name_or_path"] = options.base_model;
  json["bias"] = "none";
  json["fan_in_fan_out"] = options.fan_in_fan_out;
  json["inference_mode"] = true;
  json["init_lora_weights"] = true;
  json["layers_pattern"] = nullptr;
  json["layers_to_transform"] = nullptr;
  json["lora_alpha"] = NumberOf(alpha);
  json["lora_dropout"] = options.dropout;
  json["modules_to_save"] = nullptr;
  json["peft_type"] = "LORA";
  json["r"] = rank;
  json["rank_pattern"] = PatternsOf(ranks, rank);
  json["revision"] = nullptr;
  json["target_modules"] = targets;
  json["task_type"] = "CAUSAL_LM";
  json["use_dora"] = adapter.has_magnitudes();
  json["use_rslora"] = options.use_rslora;
  return json.dump(2, ' ', true, Json::error_handler_t::replace) + "\n";
}

std::string PeftTensorBytes(const Adapter& adapter, const PeftWriteOptions& options) {
  const absl::StatusOr<TensorFile> file = TensorFileOf(adapter, options);
  if (!file.ok()) return "";
  std::string bytes = file->preamble;
  for (const format::TensorView& tensor : file->tensors)
    bytes.append(reinterpret_cast<const char*>(tensor.data.data()), tensor.data.size());
  return bytes;
}

absl::Status WritePeft(runtime::FileSystem& files, const std::string& directory, const Adapter& adapter,
                       const PeftWriteOptions& options) {
  STRATA_ASSIGN_OR_RETURN(const TensorFile tensors, TensorFileOf(adapter, options));
  STRATA_RETURN_IF_ERROR(files.MakeDirectories(directory));
  STRATA_ASSIGN_OR_RETURN(runtime::PendingFile file,
                          runtime::PendingFile::Create(files, runtime::JoinPath(directory, kTensorFile)));
  STRATA_RETURN_IF_ERROR(file.Append(std::as_bytes(std::span(tensors.preamble))));
  for (const format::TensorView& tensor : tensors.tensors) STRATA_RETURN_IF_ERROR(file.Append(tensor.data));
  STRATA_RETURN_IF_ERROR(std::move(file).Commit());
  return files.WriteFile(runtime::JoinPath(directory, kConfigFile), PeftConfigJson(adapter, options));
}

absl::StatusOr<std::pair<Adapter, PeftConfig>> ReadPeft(runtime::FileSystem& files, const std::string& directory) {
  const std::string config_path = runtime::JoinPath(directory, kConfigFile);
  const std::string tensor_path = runtime::JoinPath(directory, kTensorFile);
  STRATA_ASSIGN_OR_RETURN(const std::string json, files.ReadFile(config_path));
  STRATA_ASSIGN_OR_RETURN(PeftConfig config, ParsePeftConfig(json, config_path));
  STRATA_RETURN_IF_ERROR(CheckSupported(config, config_path));
  STRATA_ASSIGN_OR_RETURN(format::Safetensors tensors, format::Safetensors::Open(files, tensor_path));
  const Adapter::ScalingOf scaling = [](const void* context, std::string_view module,
                                        int64_t rank) -> absl::StatusOr<Adapter::Scaling> {
    const auto& declared = *static_cast<const PeftConfig*>(context);
    const double alpha = declared.AlphaOf(module);
    return Adapter::Scaling{.scaling = ScalingOf(alpha, rank, declared.options.use_rslora),
                            .alpha = alpha,
                            .use_dora = declared.options.use_dora};
  };
  absl::StatusOr<Adapter> adapter = Adapter::FromTensors(std::move(tensors), scaling, &config);
  if (!adapter.ok()) return Annotate(adapter.status(), tensor_path);
  if (const absl::Status good = CheckContent(*adapter, config); !good.ok()) return Annotate(good, tensor_path);
  return std::make_pair(*std::move(adapter), std::move(config));
}

absl::StatusOr<std::pair<Adapter, PeftConfig>> ReadPeftFor(const std::vector<config::ModuleShape>& modules,
                                                           runtime::FileSystem& files, const std::string& directory) {
  STRATA_ASSIGN_OR_RETURN(auto read, ReadPeft(files, directory));
  const absl::Status complete = CheckComplete(read.first, read.second, modules);
  if (!complete.ok()) return Annotate(complete, runtime::JoinPath(directory, kTensorFile));
  return read;
}

}  // namespace strata::adapter
