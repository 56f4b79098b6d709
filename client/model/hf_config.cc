#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "client/model/family.h"
#include "client/model/model_config.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"
#include "nlohmann/json.hpp"

namespace strata::model {
namespace {

using Json = nlohmann::json;

// Reads typed keys of one object; what is wrong is collected.
class Reader {
 public:
  Reader(const Json& object, std::string prefix, Faults& faults)
      : object_(object), prefix_(std::move(prefix)), faults_(faults) {}

  // Null where the key is missing or null.
  const Json* Find(const char* key) const {
    const auto it = object_.find(key);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }

  bool IsNull(const char* key) const {
    const auto it = object_.find(key);
    return it != object_.end() && it->is_null();
  }

  int64_t Integer(const char* key, std::optional<int64_t> otherwise) {
    const Json* value = Find(key);
    if (value == nullptr) return Missing(key, otherwise);
    if (value->is_number_unsigned() &&
        value->get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return value->get<int64_t>();
    }
    if (value->is_number_integer() && !value->is_number_unsigned()) return value->get<int64_t>();
    // Python writes 8192.0 where a computation made a float of it.
    if (value->is_number_float()) {
      const double number = value->get<double>();
      if (number == std::floor(number) && std::abs(number) < 9e15) return static_cast<int64_t>(number);
    }
    return WrongType(key, "an integer", *value, otherwise.value_or(0));
  }
  double Number(const char* key, std::optional<double> otherwise) {
    const Json* value = Find(key);
    if (value == nullptr) return Missing(key, otherwise);
    if (value->is_number()) return value->get<double>();
    return WrongType(key, "a number", *value, otherwise.value_or(0));
  }
  // As above, but null says 0: the feature is off.
  double NumberOrOff(const char* key, double otherwise) { return IsNull(key) ? 0 : Number(key, otherwise); }
  int64_t IntegerOrOff(const char* key, int64_t otherwise) { return IsNull(key) ? 0 : Integer(key, otherwise); }
  bool Bool(const char* key, bool otherwise) {
    const Json* value = Find(key);
    if (value == nullptr) return otherwise;
    if (value->is_boolean()) return value->get<bool>();
    return WrongType(key, "true or false", *value, otherwise);
  }
  std::vector<double> Numbers(const char* key) {
    const Json* value = Find(key);
    std::vector<double> numbers;
    if (value == nullptr) return Missing(key, std::optional<std::vector<double>>());
    if (!value->is_array()) return WrongType(key, "a list of numbers", *value, numbers);
    for (const Json& item : *value) {
      if (!item.is_number()) return WrongType(key, "a list of numbers", *value, numbers);
      numbers.push_back(item.get<double>());
    }
    return numbers;
  }
  std::string String(const char* key, std::string otherwise) {
    const Json* value = Find(key);
    if (value == nullptr) return otherwise;
    if (value->is_string()) return value->get<std::string>();
    return WrongType(key, "a string", *value, std::move(otherwise));
  }

 private:
  template <typename T>
  T Missing(const char* key, const std::optional<T>& otherwise) {
    if (!otherwise.has_value()) faults_.Add(Cat("key `", prefix_, key, "` is missing"));
    return otherwise.value_or(T{});
  }
  template <typename T>
  T WrongType(const char* key, std::string_view expected, const Json& found, T otherwise) {
    faults_.Add(Cat("key `", prefix_, key, "`: expected ", expected, ", found ",
                    found.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 60)));
    return otherwise;
  }

  const Json& object_;
  std::string prefix_;
  Faults& faults_;
};

constexpr char kFull[] = "full_attention";
constexpr char kSliding[] = "sliding_attention";

absl::StatusOr<const Family*> FamilyOfObject(const Json& object, std::string_view place) {
  std::string name;
  const Family* family = nullptr;
  const auto type = object.find("model_type");
  const auto classes = object.find("architectures");
  if (type != object.end() && type->is_string()) {
    name = type->get<std::string>();
    family = FindFamily(name);
  } else if (classes != object.end() && classes->is_array() && !classes->empty() && classes->front().is_string()) {
    name = classes->front().get<std::string>();
    family = FindFamilyByClass(name);
  }
  if (family == nullptr) return UnknownArchitecture(name, place);
  return family;
}

// What would change the result and is not computed here.
absl::Status CheckKnown(Reader& reader, std::string_view place) {
  if (reader.Find("quantization_config") != nullptr) {
    return absl::UnimplementedError(Cat(place,
                                        ": key `quantization_config`: quantised HF checkpoints are not read; use "
                                        "the unquantised checkpoint or a GGUF file"));
  }
  constexpr std::pair<const char*, bool> kComputed[] = {{"scale_attn_by_inverse_layer_idx", false},
                                                        {"scale_attn_weights", true},
                                                        {"add_cross_attention", false},
                                                        {"use_bidirectional_attention", false}};
  for (const auto& [key, value] : kComputed) {
    if (reader.Bool(key, value) != value) {
      return absl::UnimplementedError(
          Cat(place, ": key `", key, "`: expected ", value ? "true" : "false", ", the other is not computed"));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadActivation(Reader& reader, const ConfigKeys& keys, std::string_view place, ModelConfig& config) {
  const bool gated = kernels::IsGated(config.unit);
  const std::string standard = config.unit == kernels::Unit::kSwiglu ? "silu" : "gelu_new";
  const std::string name = reader.String(keys.activation, standard);
  const bool gelu = name == "gelu_new" || name == "gelu_pytorch_tanh";
  if (gelu || (gated && (name == "silu" || name == "swish"))) {
    config.unit = !gated ? kernels::Unit::kGelu : gelu ? kernels::Unit::kGeglu : kernels::Unit::kSwiglu;
    return absl::OkStatus();
  }
  return absl::UnimplementedError(Cat(place, ": key `", keys.activation, "`: activation '", name.substr(0, 60),
                                      "' is not known; known: ", gated ? "silu, " : "", "gelu_new, gelu_pytorch_tanh"));
}

void ReadLlama3(Reader& rope, RopeConfig& config) {
  config.low_freq_factor = rope.Number("low_freq_factor", std::nullopt);
  config.high_freq_factor = rope.Number("high_freq_factor", std::nullopt);
  config.original_max_positions = rope.Integer("original_max_position_embeddings", std::nullopt);
}

void ReadYarn(Reader& rope, RopeConfig& config) {
  config.beta_fast = rope.Number("beta_fast", 32);
  config.beta_slow = rope.Number("beta_slow", 1);
  config.truncate = rope.Bool("truncate", true);
  const double scale = rope.Number("mscale", 0);
  const double scale_all = rope.Number("mscale_all_dim", 0);
  const double standard = scale != 0 && scale_all != 0
                              ? YarnAmplitude(config.factor, scale) / YarnAmplitude(config.factor, scale_all)
                              : YarnAmplitude(config.factor, 1);
  config.attention_factor = rope.Number("attention_factor", standard);
}

void ReadLongRope(Reader& rope, RopeConfig& config) {
  config.short_factors = rope.Numbers("short_factor");
  config.long_factors = rope.Numbers("long_factor");
  config.attention_factor =
      rope.Number("attention_factor", LongRopeAmplitude(config.factor, config.original_max_positions));
}

// Of the scalings that stretch a model beyond the positions that it grew up with. `model` has the positions of now; the
// factor may be left to follow from both.
void ReadStretch(Reader& rope, int64_t original, const ModelConfig& model, RopeConfig& config) {
  config.original_max_positions =
      original > 0 ? original : rope.Integer("original_max_position_embeddings", model.max_positions);
  const double ratio = static_cast<double>(model.max_positions) /
                       static_cast<double>(std::max<int64_t>(config.original_max_positions, 1));
  config.factor = rope.Number("factor", ratio);
  config.scaling == RopeScaling::kYarn ? ReadYarn(rope, config) : ReadLongRope(rope, config);
}

// The share of a head that turns, where the family knows such a thing.
absl::Status ReadShare(Reader& reader, const ConfigKeys& keys, std::string_view place, double& share) {
  share = reader.Number("partial_rotary_factor", share);
  if (share == 1 || *keys.rotary_share != '\0') return absl::OkStatus();
  return absl::UnimplementedError(Cat(place, ": rotary embeddings over a part of each head are not known"));
}

// `rope` describes one kind of layer; the older releases call the type just `type`. `original`: what stands beside it,
// and goes before what it says itself.
absl::Status ReadScaling(Reader rope, const ConfigKeys& keys, std::string_view place, int64_t original,
                         const ModelConfig& model, RopeConfig& config) {
  constexpr std::pair<std::string_view, RopeScaling> kTypes[] = {
      {"default", RopeScaling::kNone},  {"linear", RopeScaling::kLinear}, {"dynamic", RopeScaling::kDynamic},
      {"llama3", RopeScaling::kLlama3}, {"yarn", RopeScaling::kYarn},     {"longrope", RopeScaling::kLongRope},
      {"su", RopeScaling::kLongRope}};
  config.theta = rope.Number("rope_theta", config.theta);
  const std::string type = rope.String("rope_type", rope.String("type", "default"));
  STRATA_RETURN_IF_ERROR(ReadShare(rope, keys, place, config.share));
  const auto* known =
      std::find_if(std::begin(kTypes), std::end(kTypes), [&](const auto& t) { return t.first == type; });
  if (known == std::end(kTypes)) {
    return absl::UnimplementedError(Cat(place, ": rotary scaling '", type.substr(0, 60),
                                        "' is not known; known: default, linear, dynamic, llama3, yarn, longrope"));
  }
  config.scaling = known->second;
  if (config.scaling == RopeScaling::kNone) return absl::OkStatus();
  if (config.scaling == RopeScaling::kYarn || config.scaling == RopeScaling::kLongRope) {
    ReadStretch(rope, original, model, config);
    return absl::OkStatus();
  }
  config.factor = rope.Number("factor", std::nullopt);
  if (config.scaling == RopeScaling::kDynamic) config.original_max_positions = model.max_positions;
  if (config.scaling == RopeScaling::kLlama3) ReadLlama3(rope, config);
  return absl::OkStatus();
}

// rope_parameters may hold an object a kind of layer; else it, and rope_scaling, are of the layers without a window.
absl::Status ReadRope(Reader& reader, const Family& family, std::string_view place, Faults& faults,
                      ModelConfig& config) {
  config.rope.theta = reader.Number("rope_theta", config.rope.theta);
  const bool two = *family.keys.window_theta != '\0';
  if (two) config.window_rope.theta = reader.Number(family.keys.window_theta, config.window_rope.theta);
  STRATA_RETURN_IF_ERROR(ReadShare(reader, family.keys, place, config.rope.share));
  const int64_t original = reader.Integer("original_max_position_embeddings", 0);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const Json* rope = reader.Find(key);
    if (rope == nullptr) continue;
    if (!rope->is_object()) {
      faults.Add(Cat("key `", key, "`: expected an object"));
      continue;
    }
    const std::string prefix = Cat(key, ".");
    const auto object = [&](const char* kind) { return two && rope->contains(kind) && (*rope)[kind].is_object(); };
    if (!object(kFull) && !object(kSliding)) {
      STRATA_RETURN_IF_ERROR(
          ReadScaling(Reader(*rope, prefix, faults), family.keys, place, original, config, config.rope));
      continue;
    }
    for (const auto& [kind, target] : {std::pair(kFull, &config.rope), std::pair(kSliding, &config.window_rope)}) {
      if (!object(kind)) continue;
      Reader inner((*rope)[kind], Cat(prefix, kind, "."), faults);
      STRATA_RETURN_IF_ERROR(ReadScaling(inner, family.keys, place, original, config, *target));
    }
  }
  if (!two) config.window_rope = config.rope;
  return absl::OkStatus();
}

// layer_types, one a layer; what is no list of the two known kinds is a fault.
std::vector<int64_t> WindowsByType(const Json& types, int64_t window, const ModelConfig& config, Faults& faults) {
  std::vector<int64_t> windows;
  if (types.is_array() && static_cast<int64_t>(types.size()) == config.num_layers) {
    for (const Json& type : types) {
      if (type == kFull || type == kSliding) windows.push_back(type == kSliding ? window : 0);
    }
  }
  if (static_cast<int64_t>(windows.size()) != config.num_layers) {
    faults.Add(
        Cat("key `layer_types`: expected ", config.num_layers, " times ", kFull, " or ", kSliding, ", one a layer"));
  }
  return windows;
}

void ReadWindows(Reader& reader, const Family& family, Faults& faults, ModelConfig& config) {
  if (family.windows == WindowRule::kNone || !faults.empty()) return;
  const int64_t window = reader.IntegerOrOff("sliding_window", family.default_window);
  if (window < 0) faults.Add(Cat("key `sliding_window` is ", window, "; expected at least 1"));
  const bool off = family.windows == WindowRule::kSwitched && !reader.Bool("use_sliding_window", false);
  if (window <= 0 || off) return;
  const Json* types = family.windows == WindowRule::kEvery ? nullptr : reader.Find("layer_types");
  if (types != nullptr) {
    config.windows = WindowsByType(*types, window, config, faults);
    if (std::all_of(config.windows.begin(), config.windows.end(), [](int64_t w) { return w == 0; }))
      config.windows.clear();
    return;
  }
  if (family.windows == WindowRule::kEvery || family.windows == WindowRule::kListed) {
    config.windows.assign(static_cast<size_t>(config.num_layers), window);
    return;
  }
  const int64_t first = family.windows == WindowRule::kSwitched ? reader.Integer("max_window_layers", 28) : 0;
  const int64_t pattern =
      family.windows == WindowRule::kPattern ? reader.Integer("sliding_window_pattern", family.window_pattern) : 0;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const bool full = layer < first || (pattern > 0 && (layer + 1) % pattern == 0);
    config.windows.push_back(full ? 0 : window);
  }
}

void ReadSizes(Reader& reader, const Family& family, ModelConfig& config) {
  const ConfigKeys& keys = family.keys;
  const auto known = [](int64_t size) { return size > 0 ? std::optional(size) : std::nullopt; };
  config.hidden_size = reader.Integer(keys.hidden_size, std::nullopt);
  config.num_layers = reader.Integer(keys.num_layers, std::nullopt);
  config.num_heads = reader.Integer(keys.num_heads, known(config.num_heads));
  config.vocab_size = reader.Integer("vocab_size", known(config.vocab_size));
  const std::optional<int64_t> standard =
      family.intermediate_times > 0
          ? std::optional(family.intermediate_times * std::clamp<int64_t>(config.hidden_size, 0, 1 << 30))
          : std::nullopt;
  config.intermediate_size = reader.Integer(keys.intermediate_size, standard);
  // Where null stands every head has its own.
  const bool own = *keys.num_kv_heads == '\0' || config.num_kv_heads == 0 || reader.IsNull(keys.num_kv_heads);
  const int64_t kv_heads = own ? config.num_heads : config.num_kv_heads;
  config.num_kv_heads = *keys.num_kv_heads == '\0' ? kv_heads : reader.Integer(keys.num_kv_heads, kv_heads);
  const int64_t even_share = config.num_heads > 0 ? config.hidden_size / config.num_heads : 0;
  config.head_dim = reader.Integer("head_dim", config.head_dim > 0 ? config.head_dim : even_share);
  config.max_positions = reader.Integer(keys.max_positions, known(config.max_positions).value_or(2048));
}

void ReadFeatures(Reader& reader, const ConfigKeys& keys, ModelConfig& config) {
  const auto given = [](const char* key) { return *key != '\0'; };
  config.norm_eps = reader.Number(keys.norm_eps, config.norm_eps);
  config.tied_embeddings = reader.Bool("tie_word_embeddings", config.tied_embeddings);
  if (given(keys.attention_bias)) config.qkv_bias = config.output_bias = reader.Bool(keys.attention_bias, false);
  if (given(keys.mlp_bias)) config.mlp_bias = reader.Bool(keys.mlp_bias, false);
  config.query_scalar = given(keys.query_scalar) ? reader.Number(keys.query_scalar, config.query_scalar)
                                                 : static_cast<double>(config.head_dim);
  if (given(keys.attention_softcap)) {
    config.attention_softcap = reader.NumberOrOff(keys.attention_softcap, config.attention_softcap);
  }
  if (given(keys.logit_softcap)) config.logit_softcap = reader.NumberOrOff(keys.logit_softcap, config.logit_softcap);
}

// What of the file describes the text's part.
absl::StatusOr<const Json*> SectionOf(const Json& file, const Family& family, std::string_view place) {
  if (family.section.empty()) return &file;
  const auto section = file.find(family.section);
  if (section != file.end() && section->is_object()) return &*section;
  return absl::InvalidArgumentError(
      Cat(place, ": key `", family.section, "`: expected an object that describes the part of the model for text"));
}

}  // namespace

absl::StatusOr<ModelConfig> ParseHfConfig(std::string_view json, std::string_view place) {
  const Json object = Json::parse(json.begin(), json.end(), nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return absl::InvalidArgumentError(Cat(place, ": no JSON object"));
  STRATA_ASSIGN_OR_RETURN(const Family* family, FamilyOfObject(object, place));
  Faults faults;
  ModelConfig config = family->defaults;
  STRATA_ASSIGN_OR_RETURN(const Json* section, SectionOf(object, *family, place));
  const bool whole = section == &object;
  if (!whole) {
    Reader file(object, "", faults);
    STRATA_RETURN_IF_ERROR(CheckKnown(file, place));
    config.tied_embeddings = file.Bool("tie_word_embeddings", config.tied_embeddings);
  }
  Reader reader(*section, whole ? "" : Cat(family->section, "."), faults);
  STRATA_RETURN_IF_ERROR(CheckKnown(reader, place));
  STRATA_RETURN_IF_ERROR(ReadActivation(reader, family->keys, place, config));
  ReadSizes(reader, *family, config);
  ReadFeatures(reader, family->keys, config);
  if (!config.learned_positions) STRATA_RETURN_IF_ERROR(ReadRope(reader, *family, place, faults, config));
  if (faults.empty()) CheckNumbers(config, faults);
  ReadWindows(reader, *family, faults, config);
  // No layer has one: the same model as where none is named.
  if (std::all_of(config.windows.begin(), config.windows.end(), [](int64_t window) { return window == 0; })) {
    config.windows.clear();
  }
  STRATA_RETURN_IF_ERROR(faults.ToStatus(place));
  return config;
}

}  // namespace strata::model
