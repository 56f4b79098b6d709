#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
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
  bool Bool(const char* key, bool otherwise) {
    const Json* value = Find(key);
    if (value == nullptr) return otherwise;
    if (value->is_boolean()) return value->get<bool>();
    return WrongType(key, "true or false", *value, otherwise);
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

std::string Architecture(const Json& object) {
  const auto type = object.find("model_type");
  if (type != object.end() && type->is_string()) return type->get<std::string>();
  const auto classes = object.find("architectures");
  if (classes != object.end() && classes->is_array() && !classes->empty() && classes->front().is_string()) {
    const auto name = classes->front().get<std::string>();
    return name == "LlamaForCausalLM" ? "llama" : name;
  }
  return "";
}

// What would change the result and is not computed here.
absl::Status CheckKnown(const Json& object, std::string_view place) {
  STRATA_RETURN_IF_ERROR(CheckArchitecture(Architecture(object), place));
  Faults ignored;
  Reader reader(object, "", ignored);
  if (const Json* quantisation = reader.Find("quantization_config"); quantisation != nullptr) {
    return absl::UnimplementedError(Cat(place,
                                        ": key `quantization_config`: quantised HF checkpoints are not read; use "
                                        "the unquantised checkpoint or a GGUF file"));
  }
  if (const std::string act = reader.String("hidden_act", "silu"); act != "silu") {
    return absl::UnimplementedError(Cat(place, ": key `hidden_act`: activation '", act, "' is not known; known: silu"));
  }
  return absl::OkStatus();
}

void ReadLlama3(Reader& rope, ModelConfig& config) {
  config.rope_factor = rope.Number("factor", std::nullopt);
  config.rope_low_freq_factor = rope.Number("low_freq_factor", std::nullopt);
  config.rope_high_freq_factor = rope.Number("high_freq_factor", std::nullopt);
  config.rope_original_max_positions = rope.Integer("original_max_position_embeddings", std::nullopt);
}

// `rope` is rope_parameters or rope_scaling; the older releases call the type just `type`.
absl::Status ReadScaling(Reader rope, std::string_view place, ModelConfig& config) {
  const std::string type = rope.String("rope_type", rope.String("type", "default"));
  if (rope.Number("partial_rotary_factor", 1) != 1) {
    return absl::UnimplementedError(Cat(place, ": rotary embeddings over a part of each head are not known"));
  }
  if (type == "default") return absl::OkStatus();
  if (type == "linear") {
    config.rope_scaling = RopeScaling::kLinear;
    config.rope_factor = rope.Number("factor", std::nullopt);
    return absl::OkStatus();
  }
  if (type == "llama3") {
    config.rope_scaling = RopeScaling::kLlama3;
    ReadLlama3(rope, config);
    return absl::OkStatus();
  }
  return absl::UnimplementedError(
      Cat(place, ": rotary scaling '", type.substr(0, 60), "' is not known; known: default, linear, llama3"));
}

absl::Status ReadRope(Reader& reader, std::string_view place, Faults& faults, ModelConfig& config) {
  config.rope_theta = reader.Number("rope_theta", 10000);
  if (reader.Number("partial_rotary_factor", 1) != 1) {
    return absl::UnimplementedError(Cat(place, ": rotary embeddings over a part of each head are not known"));
  }
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const Json* rope = reader.Find(key);
    if (rope == nullptr) continue;
    if (!rope->is_object()) {
      faults.Add(Cat("key `", key, "`: expected an object"));
      continue;
    }
    Reader inner(*rope, Cat(key, "."), faults);
    config.rope_theta = inner.Number("rope_theta", config.rope_theta);
    STRATA_RETURN_IF_ERROR(ReadScaling(inner, place, config));
  }
  return absl::OkStatus();
}

void ReadSizes(Reader& reader, ModelConfig& config) {
  config.hidden_size = reader.Integer("hidden_size", std::nullopt);
  config.intermediate_size = reader.Integer("intermediate_size", std::nullopt);
  config.num_layers = reader.Integer("num_hidden_layers", std::nullopt);
  config.num_heads = reader.Integer("num_attention_heads", std::nullopt);
  config.vocab_size = reader.Integer("vocab_size", std::nullopt);
  config.num_kv_heads = reader.Integer("num_key_value_heads", config.num_heads);
  config.head_dim = reader.Integer("head_dim", config.num_heads > 0 ? config.hidden_size / config.num_heads : 0);
  config.max_positions = reader.Integer("max_position_embeddings", 2048);
  config.rms_norm_eps = reader.Number("rms_norm_eps", 1e-6);
  config.tied_embeddings = reader.Bool("tie_word_embeddings", false);
  config.attention_bias = reader.Bool("attention_bias", false);
  config.mlp_bias = reader.Bool("mlp_bias", false);
}

}  // namespace

absl::Status CheckArchitecture(std::string_view architecture, std::string_view place) {
  if (architecture == "llama") return absl::OkStatus();
  if (architecture.empty()) {
    return absl::InvalidArgumentError(Cat(place, ": no `model_type` says which architecture this is; known: llama"));
  }
  return absl::UnimplementedError(
      Cat(place, ": architecture '", architecture.substr(0, 60), "' is not known; known: llama"));
}

void CheckNumbers(const ModelConfig& config, Faults& faults) {
  constexpr int64_t kMaxExtent = int64_t{1} << 30;
  const auto check = [&](std::string_view name, int64_t value, int64_t limit) {
    if (value < 1 || value > limit) faults.Add(Cat(name, " is ", value, "; expected 1 to ", limit));
    return value >= 1 && value <= limit;
  };
  bool sane = check("hidden_size", config.hidden_size, kMaxExtent);
  sane &= check("intermediate_size", config.intermediate_size, kMaxExtent);
  sane &= check("number of layers", config.num_layers, 4096);
  sane &= check("number of attention heads", config.num_heads, 65536);
  sane &= check("number of key and value heads", config.num_kv_heads, 65536);
  sane &= check("head_dim", config.head_dim, 65536);
  sane &= check("vocab_size", config.vocab_size, kMaxExtent);
  sane &= check("max_position_embeddings", config.max_positions, kMaxExtent);
  if (sane && config.num_heads % config.num_kv_heads != 0) {
    faults.Add(Cat(config.num_heads, " attention heads cannot share ", config.num_kv_heads, " key and value heads"));
  }
  if (sane && config.head_dim % 2 != 0) faults.Add(Cat("head_dim is ", config.head_dim, "; expected an even number"));
  const auto positive = [&](std::string_view name, double value) {
    if (!(value > 0) || !std::isfinite(value)) faults.Add(Cat(name, " is ", value, "; expected a positive number"));
  };
  positive("rms_norm_eps", config.rms_norm_eps);
  positive("rope_theta", config.rope_theta);
  if (config.rope_scaling != RopeScaling::kNone) positive("rotary scaling factor", config.rope_factor);
  if (config.rope_scaling == RopeScaling::kLlama3) {
    positive("low_freq_factor", config.rope_low_freq_factor);
    positive("high_freq_factor", config.rope_high_freq_factor);
    if (config.rope_high_freq_factor <= config.rope_low_freq_factor) {
      faults.Add("high_freq_factor must be above low_freq_factor");
    }
    check("original_max_position_embeddings", config.rope_original_max_positions, kMaxExtent);
  }
}

absl::StatusOr<ModelConfig> ParseHfConfig(std::string_view json, std::string_view place) {
  const Json object = Json::parse(json.begin(), json.end(), nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return absl::InvalidArgumentError(Cat(place, ": no JSON object"));
  STRATA_RETURN_IF_ERROR(CheckKnown(object, place));
  Faults faults;
  Reader reader(object, "", faults);
  ModelConfig config;
  config.architecture = "llama";
  ReadSizes(reader, config);
  STRATA_RETURN_IF_ERROR(ReadRope(reader, place, faults, config));
  if (faults.empty()) CheckNumbers(config, faults);
  STRATA_RETURN_IF_ERROR(faults.ToStatus(place));
  return config;
}

std::string ModelConfig::Canonical() const {
  // Real numbers in single precision, as they are computed with: GGUF stores them so.
  const auto real = [](double value) { return absl::StrFormat("%.9g", static_cast<float>(value)); };
  std::string text = absl::StrFormat(
      "architecture=%s\nhidden_size=%d\nintermediate_size=%d\nnum_layers=%d\nnum_heads=%d\nnum_kv_heads=%d\nhead_dim=%"
      "d\n"
      "vocab_size=%d\nrms_norm_eps=%s\nrope_theta=%s\ntied_embeddings=%d\nattention_bias=%d\nmlp_bias=%d\n",
      architecture, hidden_size, intermediate_size, num_layers, num_heads, num_kv_heads, head_dim, vocab_size,
      real(rms_norm_eps), real(rope_theta), tied_embeddings, attention_bias, mlp_bias);
  if (rope_scaling == RopeScaling::kLinear) text += Cat("rope=linear\nrope_factor=", real(rope_factor), "\n");
  if (rope_scaling == RopeScaling::kLlama3) {
    text += absl::StrFormat("rope=llama3\nrope_factor=%s\nlow_freq_factor=%s\nhigh_freq_factor=%s\noriginal=%d\n",
                            real(rope_factor), real(rope_low_freq_factor), real(rope_high_freq_factor),
                            rope_original_max_positions);
  }
  return text;
}

}  // namespace strata::model
