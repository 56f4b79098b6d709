// adapter_config.json, read.
#include <cmath>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_join.h"
#include "common/adapter/adapter.h"
#include "common/config/options.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"
#include "nlohmann/json.hpp"

namespace strata::adapter {
namespace {

using Json = nlohmann::ordered_json;

// Reads typed keys of one object; null and absent are the same, as PEFT's releases differ in which they write.
class ConfigReader {
 public:
  explicit ConfigReader(const Json& json) : json_(json) {}

  const Json* Find(const char* key) const {
    const auto found = json_.find(key);
    return found == json_.end() || found->is_null() ? nullptr : &*found;
  }
  void Fault(std::string_view key, std::string_view expected, const Json& found) {
    std::string text = found.dump(-1, ' ', true, Json::error_handler_t::replace);
    if (text.size() > 60) text = Cat(text.substr(0, 60), "..");
    faults_.push_back(Cat(key, ": expected ", expected, ", found ", text));
  }
  void Fault(std::string fault) { faults_.push_back(std::move(fault)); }

  void Read(const char* key, bool& out) {
    const Json* value = Find(key);
    if (value == nullptr) return;
    if (!value->is_boolean()) return Fault(key, "true or false", *value);
    out = value->get<bool>();
  }
  void Read(const char* key, std::string& out) {
    const Json* value = Find(key);
    if (value == nullptr) return;
    if (!value->is_string()) return Fault(key, "a string", *value);
    out = value->get<std::string>();
  }
  void Read(const char* key, double& out) {
    const Json* value = Find(key);
    if (value != nullptr) Number(key, *value, out);
  }
  void ReadRank(const char* key, uint32_t& out) {
    const Json* value = Find(key);
    if (value != nullptr) Rank(key, *value, out);
  }
  void Read(const char* key, config::ModuleSelector& out) {
    const Json* value = Find(key);
    if (value == nullptr) return;
    out = {};
    if (value->is_string()) {
      const auto text = value->get<std::string>();
      out.all_linear = absl::AsciiStrToLower(text) == "all-linear";
      if (!out.all_linear) out.expression = text;
      return;
    }
    if (!value->is_array()) return Fault(key, "a string or a list of strings", *value);
    for (const Json& item : *value) {
      if (!item.is_string()) return Fault(key, "a string or a list of strings", *value);
      out.suffixes.push_back(item.get<std::string>());
    }
  }
  void ReadLayers(const char* key, std::vector<uint32_t>& out) {
    const Json* value = Find(key);
    if (value == nullptr) return;
    for (const Json& item : value->is_array() ? *value : Json::array({*value})) {
      if (!item.is_number_unsigned() || item.get<uint64_t>() > UINT32_MAX) {
        return Fault(key, "a layer number or a list of them", *value);
      }
      out.push_back(item.get<uint32_t>());
    }
  }
  void Read(const char* key, std::vector<std::pair<std::string, uint32_t>>& out) {
    ReadMap(key, out, [this](const std::string& name, const Json& item, uint32_t& rank) { Rank(name, item, rank); });
  }
  void Read(const char* key, std::vector<std::pair<std::string, double>>& out) {
    ReadMap(key, out, [this](const std::string& name, const Json& item, double& alpha) { Number(name, item, alpha); });
  }
  const std::vector<std::string>& faults() const { return faults_; }

 private:
  void Number(const std::string& key, const Json& value, double& out) {
    if (!value.is_number() || !std::isfinite(value.get<double>())) return Fault(key, "a finite number", value);
    out = value.get<double>();
  }
  void Rank(const std::string& key, const Json& value, uint32_t& out) {
    if (!value.is_number_unsigned() || value.get<double>() < 1 || value.get<double>() > config::kMaxRank) {
      return Fault(key, "a rank (an integer of at least 1)", value);
    }
    out = value.get<uint32_t>();
  }
  template <typename Value, typename ReadItem>
  void ReadMap(const char* key, std::vector<std::pair<std::string, Value>>& out, ReadItem read_item) {
    const Json* value = Find(key);
    if (value == nullptr) return;
    if (!value->is_object()) return Fault(key, "an object of patterns", *value);
    for (const auto& [pattern, item] : value->items()) {
      out.emplace_back(pattern, Value{});
      read_item(Cat(key, ".", pattern), item, out.back().second);
    }
  }

  const Json& json_;
  std::vector<std::string> faults_;
};

bool IsSet(const Json* value) {
  if (value == nullptr) return false;
  if (value->is_boolean()) return value->get<bool>();
  return !(value->is_array() || value->is_object()) || !value->empty();
}

// Features under which the stored factors are not the whole update, or are relative to another base.
std::vector<std::string> Unsupported(const ConfigReader& reader) {
  std::vector<std::string> unsupported;
  for (const char* key :
       {"lora_bias", "layer_replication", "modules_to_save", "target_parameters", "trainable_token_indices",
        "alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config", "kasa_config", "velora_config"}) {
    if (IsSet(reader.Find(key))) unsupported.emplace_back(key);
  }
  if (const Json* bias = reader.Find("bias"); bias != nullptr && (!bias->is_string() || *bias != "none")) {
    unsupported.emplace_back("bias");
  }
  if (const Json* init = reader.Find("init_lora_weights"); init != nullptr && init->is_string()) {
    // These change the base's own weights before training: the factors alone are not the update.
    static const std::set<std::string> kChangesBase = {"pissa", "olora", "loftq", "corda", "lora_ga"};
    const auto name = init->get<std::string>();
    if (kChangesBase.contains(name) || name.starts_with("pissa_niter_")) {
      unsupported.push_back(Cat("init_lora_weights: ", name));
    }
  }
  return unsupported;
}

}  // namespace

absl::StatusOr<PeftConfig> ParsePeftConfig(std::string_view json, std::string_view place) {
  Json parsed;
  try {
    parsed = Json::parse(json);
  } catch (const nlohmann::json::exception& error) {
    return absl::InvalidArgumentError(Cat(place, ": no valid JSON: ", error.what()));
  }
  if (!parsed.is_object()) {
    return absl::InvalidArgumentError(Cat(place, ": expected a JSON object, found ", parsed.type_name()));
  }
  ConfigReader reader(parsed);
  std::string type = "LORA";
  reader.Read("peft_type", type);
  if (type != "LORA") {
    return absl::InvalidArgumentError(Cat(place, ": peft_type is '", type, "', only LORA can be read"));
  }
  PeftConfig config;
  config::AdapterOptions& options = config.options;
  options.specified = true;
  options.target_modules = {};
  reader.ReadRank("r", options.rank);
  reader.Read("lora_alpha", options.alpha);
  reader.Read("lora_dropout", options.dropout);
  reader.Read("target_modules", options.target_modules);
  const Json* targets = reader.Find("target_modules");
  config.adapts_nothing = targets != nullptr && targets->is_array() && targets->empty();
  reader.Read("exclude_modules", options.exclude_modules);
  reader.ReadLayers("layers_to_transform", options.layers_to_transform);
  reader.Read("rank_pattern", options.rank_pattern);
  reader.Read("alpha_pattern", options.alpha_pattern);
  reader.Read("use_rslora", options.use_rslora);
  reader.Read("use_dora", options.use_dora);
  reader.Read("fan_in_fan_out", config.fan_in_fan_out);
  reader.Read("base_model_name_or_path", config.base_model);
  if (const absl::Status status = CheckExpressions(options); !status.ok()) {
    reader.Fault(std::string(status.message()));
  }
  if (!reader.faults().empty()) {
    return absl::InvalidArgumentError(Cat(place, ": ", absl::StrJoin(reader.faults(), "; ")));
  }
  config.unsupported = Unsupported(reader);
  return config;
}

}  // namespace strata::adapter
