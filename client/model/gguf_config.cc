#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

#include "client/model/family.h"
#include "client/model/model_config.h"
#include "client/model/model_tensors.h"
#include "common/format/gguf_names.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::model {
namespace {

using format::Gguf;
using format::GgufTensor;

// Reads the keys of one architecture, ARCHITECTURE.*; what is wrong is collected.
class Reader {
 public:
  Reader(const Gguf& gguf, std::string_view architecture, Faults& faults)
      : gguf_(gguf), prefix_(Cat(architecture, ".")), faults_(faults) {}

  bool Has(std::string_view key) const { return gguf_.metadata().contains(Full(key)); }
  int64_t Integer(std::string_view key) {
    const auto value = gguf_.GetUint(Full(key));
    if (!value.ok()) return Fault<int64_t>(value.status());
    if (*value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::numeric_limits<int64_t>::max();
    return static_cast<int64_t>(*value);
  }
  int64_t Integer(std::string_view key, int64_t otherwise) { return Has(key) ? Integer(key) : otherwise; }
  double Number(std::string_view key) {
    const auto value = gguf_.GetFloat(Full(key));
    return value.ok() ? *value : Fault<double>(value.status());
  }
  double Number(std::string_view key, double otherwise) { return Has(key) ? Number(key) : otherwise; }
  std::string String(std::string_view key, std::string otherwise) {
    if (!Has(key)) return otherwise;
    auto value = gguf_.GetString(Full(key));
    return value.ok() ? *std::move(value) : Fault<std::string>(value.status());
  }

 private:
  std::string Full(std::string_view key) const { return Cat(prefix_, key); }
  template <typename T>
  T Fault(const absl::Status& status) {
    faults_.Add(std::string(status.message()));
    return T{};
  }

  const Gguf& gguf_;
  std::string prefix_;
  Faults& faults_;
};

int64_t VocabSize(const Gguf& gguf, Reader& reader) {
  if (reader.Has("vocab_size")) return reader.Integer("vocab_size");
  if (const auto tokens = gguf.GetStrings("tokenizer.ggml.tokens"); tokens.ok()) {
    return static_cast<int64_t>(tokens->size());
  }
  const GgufTensor* embedding = gguf.Find("token_embd.weight");
  return embedding != nullptr && embedding->shape.size() == 2 ? embedding->shape[0] : 0;
}

void ReadSizes(const Gguf& gguf, Reader& reader, ModelConfig& config) {
  config.hidden_size = reader.Integer("embedding_length");
  config.intermediate_size = reader.Integer("feed_forward_length");
  config.num_layers = reader.Integer("block_count");
  config.num_heads = reader.Integer("attention.head_count");
  config.num_kv_heads = reader.Integer("attention.head_count_kv", config.num_heads);
  const int64_t even_share = config.num_heads > 0 ? config.hidden_size / config.num_heads : 0;
  config.head_dim = reader.Integer("attention.key_length", even_share);
  config.max_positions = reader.Integer("context_length");
  config.vocab_size = VocabSize(gguf, reader);
  config.norm_eps = reader.Number(config.norm == NormKind::kRms ? "attention.layer_norm_rms_epsilon"
                                                                : "attention.layer_norm_epsilon");
  config.norm_offset = 0;  // the file's weights hold it
  config.tied_embeddings = gguf.Find("output.weight") == nullptr;
}

// The first layer's tensors say which modules have biases.
void ReadBiases(const Gguf& gguf, const format::GgufFamily& names, const Family& family, ModelConfig& config) {
  for (const LinearEntry& linear : family.linears) {
    const format::GgufModuleName module = format::GgufModuleOfHf(names, Cat(LayerPrefix(family, 0), linear.name));
    const bool bias = gguf.Find(module.gguf + ".bias") != nullptr;
    (linear.group == kQkv ? config.qkv_bias : linear.group == kOut ? config.output_bias : config.mlp_bias) = bias;
  }
}

// What the score's divisor is where no key says it.
double ImpliedScalar(const Family& family, const ModelConfig& config) {
  const bool even = family.even_scalar_layers > 0 && config.num_layers == family.even_scalar_layers;
  return static_cast<double>(even ? config.hidden_size / std::max<int64_t>(config.num_heads, 1) : config.head_dim);
}

// Which layers have the window that a key says.
std::vector<int64_t> ImpliedWindows(const Family& family, int64_t num_layers, int64_t window) {
  std::vector<int64_t> windows;
  if (window <= 0 || family.windows == WindowRule::kNone || family.windows == WindowRule::kSwitched) return windows;
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    const bool full = family.windows == WindowRule::kPattern && (layer + 1) % family.window_pattern == 0;
    windows.push_back(full ? 0 : window);
  }
  return windows;
}

void ReadAttention(Reader& reader, const Family& family, ModelConfig& config) {
  config.rope.theta = reader.Number("rope.freq_base", config.rope.theta);
  config.query_scalar = ImpliedScalar(family, config);
  if (*family.keys.attention_softcap != '\0') {
    config.attention_softcap = reader.Number("attn_logit_softcapping", config.attention_softcap);
  }
  if (*family.keys.logit_softcap != '\0') {
    config.logit_softcap = reader.Number("final_logit_softcapping", config.logit_softcap);
  }
}

absl::Status CheckKnown(Reader& reader, const Family& family, std::string_view place, ModelConfig& config) {
  if (reader.Integer("expert_count", 0) > 0) {
    return absl::UnimplementedError(Cat(place, ": models with experts (expert_count) are not known"));
  }
  if (const int64_t rotary = reader.Integer("rope.dimension_count", config.head_dim); rotary != config.head_dim) {
    if (*family.keys.rotary_share == '\0') {
      return absl::UnimplementedError(Cat(place, ": rotary embeddings over ", rotary, " of ", config.head_dim,
                                          " elements of a head are not known"));
    }
    config.rope.share = static_cast<double>(rotary) / static_cast<double>(config.head_dim);
  }
  if (const int64_t values = reader.Integer("attention.value_length", config.head_dim); values != config.head_dim) {
    return absl::UnimplementedError(
        Cat(place, ": heads with values of ", values, " and keys of ", config.head_dim, " are not known"));
  }
  return absl::OkStatus();
}

absl::Status ReadScaling(Reader& reader, std::string_view place, const ModelConfig& model, RopeConfig& rope) {
  const double factor = reader.Number("rope.scale_linear", 1);
  const std::string type = reader.String("rope.scaling.type", factor == 1 ? "none" : "linear");
  if (type == "none") return absl::OkStatus();
  if (type == "longrope") {
    rope.scaling = RopeScaling::kLongRope;  // its tensors say more
    return absl::OkStatus();
  }
  if (type != "linear" && type != "yarn") {
    return absl::UnimplementedError(
        Cat(place, ": rotary scaling '", type.substr(0, 60), "' is not known; known: none, linear, yarn, longrope"));
  }
  rope.scaling = type == "linear" ? RopeScaling::kLinear : RopeScaling::kYarn;
  rope.factor = reader.Number("rope.scaling.factor", factor);
  if (rope.scaling == RopeScaling::kYarn) {
    rope.original_max_positions = reader.Integer("rope.scaling.original_context_length", model.max_positions);
    rope.attention_factor = YarnAmplitude(rope.factor, 1);
  }
  return absl::OkStatus();
}

bool Near(const std::vector<float>& a, const std::vector<float>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](float x, float y) { return std::abs(x - y) <= 1e-4F * std::abs(y); });
}

// One number a pair of elements that turn.
absl::StatusOr<std::vector<float>> ReadFactors(const GgufTensor& tensor, std::string_view place,
                                               const ModelConfig& config) {
  const int64_t expected = config.rope.turning(config.head_dim) / 2;
  if (tensor.num_elements() != expected) {
    return absl::InvalidArgumentError(
        Cat(place, ": tensor ", tensor.name, " has ", tensor.num_elements(), " elements, expected ", expected));
  }
  std::vector<float> factors(static_cast<size_t>(expected));
  absl::Status decoded = format::DecodeGgufRows(tensor, 0, factors);
  if (!decoded.ok()) return Annotate(decoded, place);
  return factors;
}

absl::Status ReadLongRope(const Gguf& gguf, Reader& reader, std::string_view place, ModelConfig& config) {
  const GgufTensor* small = gguf.Find(kRopeShortFactors);
  const GgufTensor* large = gguf.Find(kRopeLongFactors);
  if (small == nullptr && large == nullptr && config.rope.scaling != RopeScaling::kLongRope) return absl::OkStatus();
  if (small == nullptr || large == nullptr) {
    return absl::InvalidArgumentError(Cat(place, ": tensor ", small == nullptr ? kRopeShortFactors : kRopeLongFactors,
                                          " is missing; longrope scaling needs it"));
  }
  RopeConfig& rope = config.rope;
  STRATA_ASSIGN_OR_RETURN(const std::vector<float> short_factors, ReadFactors(*small, place, config));
  STRATA_ASSIGN_OR_RETURN(const std::vector<float> long_factors, ReadFactors(*large, place, config));
  rope.scaling = RopeScaling::kLongRope;
  rope.short_factors.assign(short_factors.begin(), short_factors.end());
  rope.long_factors.assign(long_factors.begin(), long_factors.end());
  rope.original_max_positions = reader.Integer("rope.scaling.original_context_length", config.max_positions);
  rope.factor = static_cast<double>(config.max_positions) /
                static_cast<double>(std::max<int64_t>(rope.original_max_positions, 1));
  rope.attention_factor =
      reader.Number("rope.scaling.attn_factor", LongRopeAmplitude(rope.factor, rope.original_max_positions));
  return absl::OkStatus();
}

// GGUF keeps the llama3 scaling only as its effect, a divisor per frequency. The parameters of the published models are
// tried; the largest divisor is the factor. Other divisors are taken as they are: longrope's, at any length.
absl::Status ReadDivisors(const Gguf& gguf, std::string_view place, ModelConfig& config) {
  const GgufTensor* tensor = gguf.Find(kRopeDivisors);
  if (tensor == nullptr) return absl::OkStatus();
  STRATA_ASSIGN_OR_RETURN(const std::vector<float> divisors, ReadFactors(*tensor, place, config));
  const float largest = *std::max_element(divisors.begin(), divisors.end());
  if (Near(divisors, std::vector<float>(divisors.size(), 1.0F))) return absl::OkStatus();
  RopeConfig scaled = config.rope;
  scaled.scaling = RopeScaling::kLlama3;
  scaled.factor = largest;
  for (int64_t original = 32; original <= (1 << 20) && config.rope.scaling == RopeScaling::kNone; original *= 2) {
    for (const auto& [low, high] : {std::array{1.0, 4.0}, std::array{1.0, 2.0}, std::array{1.0, 8.0}}) {
      scaled.original_max_positions = original;
      scaled.low_freq_factor = low;
      scaled.high_freq_factor = high;
      if (Near(divisors, Llama3Divisors(scaled, config.head_dim))) {
        config.rope = scaled;
        return absl::OkStatus();
      }
    }
  }
  if (config.rope.scaling != RopeScaling::kNone) {
    return absl::UnimplementedError(
        Cat(place, ": tensor rope_freqs.weight beside another rotary scaling; use the HF directory instead"));
  }
  config.rope.scaling = RopeScaling::kLongRope;
  config.rope.factor = 1;
  config.rope.original_max_positions = config.max_positions;
  config.rope.short_factors.assign(divisors.begin(), divisors.end());
  config.rope.long_factors = config.rope.short_factors;
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckSayableInGguf(const ModelConfig& config, std::string_view place) {
  const format::GgufFamily* names = format::FindGgufFamily(config.architecture);
  const Family* family = names == nullptr ? nullptr : FindFamily(names->model_types.front());
  if (family == nullptr) {
    return absl::UnimplementedError(Cat(place, ": models of type '", config.architecture,
                                        "' are not written as GGUF; known are ", format::KnownGgufModelTypes()));
  }
  const auto missing = [place](std::string_view what) {
    return absl::UnimplementedError(Cat(place, ": GGUF has no key for ", what, "; write an HF directory instead"));
  };
  if (config.rope.scaling == RopeScaling::kDynamic) return missing("dynamic rotary scaling");
  if (config.rope.scaling == RopeScaling::kYarn) {
    const RopeConfig standard{.theta = config.rope.theta,
                              .scaling = RopeScaling::kYarn,
                              .factor = config.rope.factor,
                              .original_max_positions = config.rope.original_max_positions,
                              .attention_factor = YarnAmplitude(config.rope.factor, 1)};
    if (!(config.rope == standard)) return missing("yarn scaling with other than its usual parameters");
  }
  if (config.unit != family->defaults.unit) return missing("another activation than the family's");
  if (config.query_scalar != ImpliedScalar(*family, config)) return missing("this query_pre_attn_scalar");
  // Readers take the family's where the key is missing, and llama.cpp divides by what it says: 0 is no way out.
  const auto uncapped = [&missing](std::string_view name, double standard) {
    return missing(Cat("a model without ", name, " (null), and readers take ", standard, " where none is said"));
  };
  const ModelConfig& defaults = family->defaults;
  if (config.attention_softcap == 0 && defaults.attention_softcap > 0) {
    return uncapped("attn_logit_softcapping", defaults.attention_softcap);
  }
  if (config.logit_softcap == 0 && defaults.logit_softcap > 0) {
    return uncapped("final_logit_softcapping", defaults.logit_softcap);
  }
  const int64_t window = config.windows.empty() ? 0 : *std::max_element(config.windows.begin(), config.windows.end());
  if (config.windows != ImpliedWindows(*family, config.num_layers, window)) {
    return missing(Cat("these layers' windows of ", window, " tokens (sliding_window)"));
  }
  const bool two = family->keys.window_theta[0] != '\0';
  if (two && !(config.window_rope == family->defaults.window_rope)) return missing("this rope_local_base_freq");
  return absl::OkStatus();
}

std::vector<float> Llama3Divisors(const RopeConfig& rope, int64_t head_dim) {
  std::vector<float> divisors;
  const auto original = static_cast<double>(rope.original_max_positions);
  const double low_wavelength = original / rope.low_freq_factor;
  const double high_wavelength = original / rope.high_freq_factor;
  for (int64_t i = 0; i < head_dim; i += 2) {
    const double frequency = std::pow(rope.theta, -static_cast<double>(i) / static_cast<double>(head_dim));
    const double wavelength = 2 * std::numbers::pi / frequency;
    double divisor = 1;
    if (wavelength > low_wavelength) {
      divisor = rope.factor;
    } else if (wavelength >= high_wavelength) {
      const double smooth =
          (original / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
      divisor = 1 / ((1 - smooth) / rope.factor + smooth);
    }
    divisors.push_back(static_cast<float>(divisor));
  }
  return divisors;
}

absl::StatusOr<ModelConfig> ConfigFromGguf(const Gguf& gguf, std::string_view place) {
  const auto architecture = gguf.GetString("general.architecture");
  if (!architecture.ok()) return Annotate(architecture.status(), place);
  const format::GgufFamily* names = format::FindGgufArchitecture(*architecture);
  const Family* family = names == nullptr ? nullptr : FindFamily(names->model_types.front());
  if (family == nullptr) return UnknownArchitecture(*architecture, place);
  Faults faults;
  Reader reader(gguf, *architecture, faults);
  ModelConfig config = family->defaults;
  ReadSizes(gguf, reader, config);
  ReadBiases(gguf, *names, *family, config);
  ReadAttention(reader, *family, config);
  if (faults.empty()) CheckNumbers(config, faults);
  STRATA_RETURN_IF_ERROR(faults.ToStatus(place));
  config.windows = ImpliedWindows(*family, config.num_layers, reader.Integer("attention.sliding_window", 0));
  STRATA_RETURN_IF_ERROR(CheckKnown(reader, *family, place, config));
  STRATA_RETURN_IF_ERROR(ReadScaling(reader, place, config, config.rope));
  STRATA_RETURN_IF_ERROR(ReadLongRope(gguf, reader, place, config));
  STRATA_RETURN_IF_ERROR(ReadDivisors(gguf, place, config));
  // Where they are others, they stand in no key: the family's.
  if (family->keys.window_theta[0] == '\0') config.window_rope = config.rope;
  CheckNumbers(config, faults);
  STRATA_RETURN_IF_ERROR(faults.ToStatus(place));
  return config;
}

}  // namespace strata::model
