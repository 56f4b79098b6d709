// What decides how a base model's adapters look in GGUF, from its config.json or its own GGUF file.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "common/adapter/gguf_adapter.h"
#include "common/format/gguf.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"
#include "nlohmann/json.hpp"

namespace strata::adapter {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kMaxHeads = 1U << 20;

absl::Status UnknownFamily(std::string_view found) {
  return absl::UnimplementedError(Cat("the names of model type '", found.substr(0, 60),
                                      "' in GGUF are not known; known are ", format::KnownGgufModelTypes()));
}

// 0 and a fault where it is no positive integer. `otherwise`: where it is missing; 0: that is a fault.
int64_t Count(const Json& config, const char* key, int64_t otherwise, std::vector<std::string>& faults) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) {
    if (otherwise == 0) faults.push_back(Cat(key, " is missing"));
    return otherwise;
  }
  if (found->is_number_unsigned() && found->get<uint64_t>() > 0 && found->get<uint64_t>() < kMaxHeads) {
    return found->get<int64_t>();
  }
  faults.push_back(Cat(key, ": expected a positive integer"));
  return 0;
}

// Whether rows of its q and k lie in another order in GGUF.
bool HasRotaryOrder(const format::GgufFamily& family) {
  return std::any_of(family.layer_modules.begin(), family.layer_modules.end(),
                     [](const format::GgufModule& m) { return m.change == format::GgufChange::kQueryRows; });
}

absl::StatusOr<GgufBase> BaseOfConfig(const std::string& text) {
  const Json config = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) return absl::InvalidArgumentError("expected a JSON object");
  const auto type = config.find("model_type");
  if (type == config.end() || !type->is_string()) return absl::InvalidArgumentError("model_type: expected a string");
  GgufBase base{.family = format::FindGgufFamily(type->get_ref<const std::string&>())};
  if (base.family == nullptr) return UnknownFamily(type->get_ref<const std::string&>());
  std::vector<std::string> faults;
  if (HasRotaryOrder(*base.family)) {
    base.num_heads = Count(config, "num_attention_heads", 0, faults);
    base.num_kv_heads = Count(config, "num_key_value_heads", base.num_heads, faults);
  }
  const auto tied = config.find("tie_word_embeddings");
  // Gemma's and GPT-2's classes tie where nothing is said.
  const bool ties = base.family->architecture.starts_with("gemma") || base.family->architecture == "gpt2";
  base.tied_head = tied != config.end() && tied->is_boolean() ? tied->get<bool>() : ties;
  if (!faults.empty()) return absl::InvalidArgumentError(absl::StrJoin(faults, "; "));
  return base;
}

absl::StatusOr<GgufBase> BaseOfGguf(const format::Gguf& gguf) {
  STRATA_ASSIGN_OR_RETURN(const std::string architecture, gguf.GetString("general.architecture"));
  GgufBase base{.family = format::FindGgufArchitecture(architecture)};
  if (base.family == nullptr) return UnknownFamily(architecture);
  const std::string key = Cat(architecture, ".attention.head_count");
  STRATA_ASSIGN_OR_RETURN(const uint64_t heads, gguf.GetUint(key));
  const auto kv_heads = gguf.GetUint(key + "_kv");
  if (!kv_heads.ok() && !absl::IsNotFound(kv_heads.status())) return kv_heads.status();
  for (const uint64_t count : {heads, kv_heads.value_or(heads)}) {
    if (count == 0 || count >= kMaxHeads) return absl::InvalidArgumentError(Cat(key, ": ", count, " heads"));
  }
  base.num_heads = static_cast<int64_t>(heads);
  base.num_kv_heads = static_cast<int64_t>(kv_heads.value_or(heads));
  base.tied_head = gguf.Find("output.weight") == nullptr;
  return base;
}

}  // namespace

absl::StatusOr<GgufBase> ReadGgufBase(runtime::FileSystem& files, const std::string& model) {
  STRATA_ASSIGN_OR_RETURN(const runtime::FileInfo info, files.Stat(model));
  if (!info.is_directory) {
    STRATA_ASSIGN_OR_RETURN(const format::Gguf gguf, format::Gguf::Open(files, model));
    auto base = BaseOfGguf(gguf);
    if (!base.ok()) return Annotate(base.status(), model);
    return base;
  }
  const std::string path = runtime::JoinPath(model, "config.json");
  STRATA_ASSIGN_OR_RETURN(const std::string text, files.ReadFile(path));
  auto base = BaseOfConfig(text);
  if (!base.ok()) return Annotate(base.status(), path);
  return base;
}

}  // namespace strata::adapter
