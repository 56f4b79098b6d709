#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

#include "client/model/model_config.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::model {
namespace {

using format::Gguf;
using format::GgufTensor;

// Reads llama.* keys; what is wrong is collected.
class Reader {
 public:
  Reader(const Gguf& gguf, Faults& faults) : gguf_(gguf), faults_(faults) {}

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
  static std::string Full(std::string_view key) { return Cat("llama.", key); }
  template <typename T>
  T Fault(const absl::Status& status) {
    faults_.Add(std::string(status.message()));
    return T{};
  }

  const Gguf& gguf_;
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
  config.rms_norm_eps = reader.Number("attention.layer_norm_rms_epsilon");
  config.rope_theta = reader.Number("rope.freq_base", 10000);
  config.tied_embeddings = gguf.Find("output.weight") == nullptr;
  config.attention_bias = gguf.Find("blk.0.attn_q.bias") != nullptr;
  config.mlp_bias = gguf.Find("blk.0.ffn_up.bias") != nullptr;
}

absl::Status CheckKnown(Reader& reader, std::string_view place, const ModelConfig& config) {
  if (reader.Integer("expert_count", 0) > 0) {
    return absl::UnimplementedError(Cat(place, ": models with experts (llama.expert_count) are not known"));
  }
  if (const int64_t rotary = reader.Integer("rope.dimension_count", config.head_dim); rotary != config.head_dim) {
    return absl::UnimplementedError(
        Cat(place, ": rotary embeddings over ", rotary, " of ", config.head_dim, " elements of a head are not known"));
  }
  if (const int64_t values = reader.Integer("attention.value_length", config.head_dim); values != config.head_dim) {
    return absl::UnimplementedError(
        Cat(place, ": heads with values of ", values, " and keys of ", config.head_dim, " are not known"));
  }
  return absl::OkStatus();
}

absl::Status ReadScaling(Reader& reader, std::string_view place, ModelConfig& config) {
  double factor = reader.Number("rope.scale_linear", 1);
  const std::string type = reader.String("rope.scaling.type", factor == 1 ? "none" : "linear");
  if (type == "none") return absl::OkStatus();
  if (type != "linear") {
    return absl::UnimplementedError(
        Cat(place, ": rotary scaling '", type.substr(0, 60), "' is not known; known: none, linear"));
  }
  factor = reader.Number("rope.scaling.factor", factor);
  config.rope_scaling = RopeScaling::kLinear;
  config.rope_factor = factor;
  return absl::OkStatus();
}

bool Near(const std::vector<float>& a, const std::vector<float>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](float x, float y) { return std::abs(x - y) <= 1e-4F * std::abs(y); });
}

// GGUF keeps the llama3 scaling only as its effect, a divisor per frequency. The parameters of the published models are
// tried; the largest divisor is the factor.
absl::Status ReadDivisors(const Gguf& gguf, std::string_view place, ModelConfig& config) {
  const GgufTensor* tensor = gguf.Find("rope_freqs.weight");
  if (tensor == nullptr) return absl::OkStatus();
  const int64_t expected = config.head_dim / 2;
  if (tensor->num_elements() != expected) {
    return absl::InvalidArgumentError(
        Cat(place, ": tensor rope_freqs.weight has ", tensor->num_elements(), " elements, expected ", expected));
  }
  std::vector<float> divisors(static_cast<size_t>(expected));
  absl::Status decoded = format::DecodeGgufRows(*tensor, 0, divisors);
  if (!decoded.ok()) return Annotate(decoded, place);
  const float largest = *std::max_element(divisors.begin(), divisors.end());
  if (Near(divisors, std::vector<float>(divisors.size(), 1.0F))) return absl::OkStatus();
  ModelConfig scaled = config;
  scaled.rope_scaling = RopeScaling::kLlama3;
  scaled.rope_factor = largest;
  for (int64_t original = 32; original <= (1 << 20) && config.rope_scaling == RopeScaling::kNone; original *= 2) {
    for (const auto& [low, high] : {std::array{1.0, 4.0}, std::array{1.0, 2.0}, std::array{1.0, 8.0}}) {
      scaled.rope_original_max_positions = original;
      scaled.rope_low_freq_factor = low;
      scaled.rope_high_freq_factor = high;
      if (Near(divisors, Llama3Divisors(scaled))) {
        config = scaled;
        return absl::OkStatus();
      }
    }
  }
  return absl::UnimplementedError(Cat(place,
                                      ": tensor rope_freqs.weight does not follow the llama3 scaling with the "
                                      "parameters of any published model; use the HF directory instead"));
}

}  // namespace

std::vector<float> Llama3Divisors(const ModelConfig& config) {
  std::vector<float> divisors;
  const auto original = static_cast<double>(config.rope_original_max_positions);
  const double low_wavelength = original / config.rope_low_freq_factor;
  const double high_wavelength = original / config.rope_high_freq_factor;
  for (int64_t i = 0; i < config.head_dim; i += 2) {
    const double frequency =
        std::pow(config.rope_theta, -static_cast<double>(i) / static_cast<double>(config.head_dim));
    const double wavelength = 2 * std::numbers::pi / frequency;
    double divisor = 1;
    if (wavelength > low_wavelength) {
      divisor = config.rope_factor;
    } else if (wavelength >= high_wavelength) {
      const double smooth = (original / wavelength - config.rope_low_freq_factor) /
                            (config.rope_high_freq_factor - config.rope_low_freq_factor);
      divisor = 1 / ((1 - smooth) / config.rope_factor + smooth);
    }
    divisors.push_back(static_cast<float>(divisor));
  }
  return divisors;
}

absl::StatusOr<ModelConfig> ConfigFromGguf(const Gguf& gguf, std::string_view place) {
  const auto architecture = gguf.GetString("general.architecture");
  if (!architecture.ok()) return Annotate(architecture.status(), place);
  STRATA_RETURN_IF_ERROR(CheckArchitecture(*architecture, place));
  Faults faults;
  Reader reader(gguf, faults);
  ModelConfig config;
  config.architecture = "llama";
  ReadSizes(gguf, reader, config);
  if (faults.empty()) CheckNumbers(config, faults);
  STRATA_RETURN_IF_ERROR(faults.ToStatus(place));
  STRATA_RETURN_IF_ERROR(CheckKnown(reader, place, config));
  STRATA_RETURN_IF_ERROR(ReadScaling(reader, place, config));
  STRATA_RETURN_IF_ERROR(ReadDivisors(gguf, place, config));
  CheckNumbers(config, faults);
  STRATA_RETURN_IF_ERROR(faults.ToStatus(place));
  return config;
}

}  // namespace strata::model
