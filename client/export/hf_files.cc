#include "client/export/hf_files.h"

#include <algorithm>
#include <array>
#include <map>
#include <string_view>
#include <utility>
#include <vector>

#include "client/data/tokenizer_to_json.h"
#include "client/export/tensor_stream.h"
#include "client/model/model_config.h"
#include "common/format/gguf.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"
#include "nlohmann/json.hpp"

namespace strata::exporting {
namespace {

using Json = nlohmann::ordered_json;
using format::DType;
using runtime::JoinPath;

constexpr std::array<std::string_view, 13> kCopied = {"generation_config.json",
                                                      "preprocessor_config.json",
                                                      "processor_config.json",
                                                      "tokenizer.json",
                                                      "tokenizer_config.json",
                                                      "tokenizer.model",
                                                      "special_tokens_map.json",
                                                      "added_tokens.json",
                                                      "vocab.json",
                                                      "merges.txt",
                                                      "chat_template.jinja",
                                                      "chat_template.json",
                                                      "config.json"};

bool IsCopied(std::string_view name) {
  return name.starts_with("LICENSE") || std::find(kCopied.begin(), kCopied.end(), name) != kCopied.end();
}

// As config.json calls it.
std::string_view TorchName(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return "float16";
    case DType::kBF16:
      return "bfloat16";
    case DType::kF64:
      return "float64";
    default:
      return "float32";
  }
}

// config.json with another dtype, under the key that it has for it.
absl::StatusOr<std::string> WithDType(const std::string& text, DType dtype, std::string_view place) {
  Json config = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) return absl::InvalidArgumentError(Cat(place, ": no JSON object"));
  config[config.contains("torch_dtype") ? "torch_dtype" : "dtype"] = TorchName(dtype);
  return config.dump(2) + "\n";
}

absl::Status CopyFiles(runtime::FileSystem& files, const std::string& from, const std::string& to,
                       std::optional<DType> dtype) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<std::string> names, files.List(from));
  for (const std::string& name : names) {
    if (!IsCopied(name)) continue;
    const std::string path = JoinPath(from, name);
    STRATA_ASSIGN_OR_RETURN(std::string text, files.ReadFile(path));
    if (name == "config.json" && dtype.has_value()) {
      STRATA_ASSIGN_OR_RETURN(text, WithDType(text, *dtype, path));
    }
    STRATA_RETURN_IF_ERROR(files.WriteFile(JoinPath(to, name), text));
  }
  return absl::OkStatus();
}

// The dtype of most of the model's elements as they will be written.
DType MostFrequent(const model::ModelFiles& model) {
  std::map<DType, int64_t> elements;
  for (const model::ModelTensor& tensor : model.tensors()) {
    elements[format::ParseDType(tensor.stored_dtype).value_or(DType::kF32)] += ElementsOf(tensor);
  }
  const auto most = std::max_element(elements.begin(), elements.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  return most == elements.end() ? DType::kF32 : most->first;
}

std::string ConfigOf(const model::ModelFiles& model, const format::Gguf& gguf, DType dtype) {
  Json json = Json::parse(model::HfConfigText(model.config()));
  for (const auto& [key, name] :
       {std::pair("bos_token_id", "bos"), {"eos_token_id", "eos"}, {"pad_token_id", "padding"}}) {
    const auto id = gguf.GetUint(Cat("tokenizer.ggml.", name, "_token_id"));
    json[key] = id.ok() ? Json(*id) : Json();
  }
  json["torch_dtype"] = TorchName(dtype);
  return json.dump(2) + "\n";
}

}  // namespace

absl::Status WriteModelTexts(runtime::FileSystem& files, const std::string& directory, const model::ModelFiles& model,
                             std::optional<format::DType> dtype) {
  STRATA_ASSIGN_OR_RETURN(const runtime::FileInfo info, files.Stat(model.path()));
  if (info.is_directory) return CopyFiles(files, model.path(), directory, dtype);
  STRATA_ASSIGN_OR_RETURN(const format::Gguf gguf, format::Gguf::Open(files, model.path()));
  STRATA_ASSIGN_OR_RETURN(auto texts, data::TokenizerFilesOfGguf(gguf, model.path()));
  texts["config.json"] = ConfigOf(model, gguf, dtype.value_or(MostFrequent(model)));
  for (const auto& [name, text] : texts) {
    STRATA_RETURN_IF_ERROR(files.WriteFile(JoinPath(directory, name), text));
  }
  return absl::OkStatus();
}

}  // namespace strata::exporting
