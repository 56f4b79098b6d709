#include "client/model/model_config.h"

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/model/family.h"
#include "common/status/cat.h"

namespace strata::model {
namespace {

void CheckLongRope(const RopeConfig& rope, int64_t head_dim, std::string_view of, Faults& faults) {
  const auto pairs = static_cast<size_t>(rope.turning(head_dim) / 2);
  for (const auto& [name, factors] :
       {std::pair("short_factor", &rope.short_factors), std::pair("long_factor", &rope.long_factors)}) {
    if (factors->size() != pairs) faults.Add(Cat(of, name, " has ", factors->size(), " numbers; expected ", pairs));
    if (!std::all_of(factors->begin(), factors->end(), [](double f) { return f > 0 && std::isfinite(f); })) {
      faults.Add(Cat(of, name, " has a number that is not positive"));
    }
  }
  if (!(rope.attention_factor > 0) || !std::isfinite(rope.attention_factor)) {
    faults.Add(Cat(of, "attention_factor is ", rope.attention_factor, "; expected a positive number"));
  }
  if (rope.original_max_positions < 2)
    faults.Add(Cat(of, "original_max_position_embeddings is ", rope.original_max_positions, "; expected at least 2"));
}

void CheckRope(const RopeConfig& rope, int64_t head_dim, std::string_view of, Faults& faults) {
  const auto positive = [&](std::string_view name, double value) {
    if (!(value > 0) || !std::isfinite(value)) faults.Add(Cat(of, name, " is ", value, "; expected a positive number"));
  };
  positive("rope_theta", rope.theta);
  if (!(rope.share > 0 && rope.share <= 1) || rope.turning(head_dim) < 2 || rope.turning(head_dim) % 2 != 0) {
    faults.Add(Cat(of, "partial_rotary_factor is ", rope.share, ", which is ", rope.turning(head_dim), " of ", head_dim,
                   " elements of a head; expected an even number of them"));
    return;
  }
  if (rope.scaling == RopeScaling::kNone) return;
  positive("rotary scaling factor", rope.factor);
  if (rope.scaling != RopeScaling::kLinear) {
    positive("original_max_position_embeddings", static_cast<double>(rope.original_max_positions));
  }
  if (rope.scaling == RopeScaling::kDynamic && rope.factor < 1) {
    faults.Add(Cat(of, "rotary scaling factor is ", rope.factor, "; expected at least 1"));
  }
  if (rope.scaling == RopeScaling::kLlama3) {
    positive("low_freq_factor", rope.low_freq_factor);
    positive("high_freq_factor", rope.high_freq_factor);
    if (rope.high_freq_factor <= rope.low_freq_factor) faults.Add("high_freq_factor must be above low_freq_factor");
  }
  if (rope.scaling == RopeScaling::kYarn) {
    positive("beta_fast", rope.beta_fast);
    positive("beta_slow", rope.beta_slow);
    positive("attention_factor", rope.attention_factor);
    if (rope.theta <= 1) faults.Add(Cat(of, "rope_theta is ", rope.theta, "; expected above 1 with yarn"));
  }
  if (rope.scaling == RopeScaling::kLongRope) CheckLongRope(rope, head_dim, of, faults);
}

// Real numbers in single precision, as they are computed with: GGUF stores them so.
std::string Real(double value) { return absl::StrFormat("%.9g", static_cast<float>(value)); }

std::string Reals(const std::vector<double>& values) {
  return absl::StrJoin(values, ",", [](std::string* out, double value) { out->append(Real(value)); });
}

std::string RopeText(const RopeConfig& rope) {
  switch (rope.scaling) {
    case RopeScaling::kNone:
      return "";
    case RopeScaling::kLinear:
      return Cat("rope=linear\nrope_factor=", Real(rope.factor), "\n");
    case RopeScaling::kDynamic:
      return Cat("rope=dynamic\nrope_factor=", Real(rope.factor), "\noriginal=", rope.original_max_positions, "\n");
    case RopeScaling::kLlama3:
      return absl::StrFormat("rope=llama3\nrope_factor=%s\nlow_freq_factor=%s\nhigh_freq_factor=%s\noriginal=%d\n",
                             Real(rope.factor), Real(rope.low_freq_factor), Real(rope.high_freq_factor),
                             rope.original_max_positions);
    case RopeScaling::kLongRope:
      return absl::StrFormat("rope=longrope\nattention_factor=%s\noriginal=%d\nshort=%s\nlong=%s\n",
                             Real(rope.attention_factor), rope.original_max_positions, Reals(rope.short_factors),
                             Reals(rope.long_factors));
    case RopeScaling::kYarn:
      break;
  }
  return absl::StrFormat(
      "rope=yarn\nrope_factor=%s\nbeta_fast=%s\nbeta_slow=%s\nattention_factor=%s\ntruncate=%d\noriginal=%d\n",
      Real(rope.factor), Real(rope.beta_fast), Real(rope.beta_slow), Real(rope.attention_factor), rope.truncate,
      rope.original_max_positions);
}

}  // namespace

absl::Status UnknownArchitecture(std::string_view architecture, std::string_view place) {
  std::vector<std::string> known;
  for (const Family& family : Families()) known.push_back(family.defaults.architecture);
  const std::string list = absl::StrJoin(known, ", ");
  if (architecture.empty()) {
    return absl::InvalidArgumentError(Cat(place, ": no `model_type` says which architecture this is; known: ", list));
  }
  return absl::UnimplementedError(
      Cat(place, ": architecture '", architecture.substr(0, 60), "' is not known; known: ", list));
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
  const auto number = [&](std::string_view name, double value, bool may_be_zero) {
    const bool fits = std::isfinite(value) && (value > 0 || (may_be_zero && value == 0));
    if (!fits) faults.Add(Cat(name, " is ", value, "; expected a positive number"));
  };
  number("norm epsilon", config.norm_eps, false);
  number("query_pre_attn_scalar", config.query_scalar, false);
  number("attn_logit_softcapping", config.attention_softcap, true);
  number("final_logit_softcapping", config.logit_softcap, true);
  if (config.learned_positions) return;
  if (!sane) return;
  if (config.head_dim % 2 != 0) faults.Add(Cat("head_dim is ", config.head_dim, "; expected an even number"));
  if (config.head_dim == 2 && config.rope.scaling == RopeScaling::kDynamic) {
    faults.Add("head_dim is 2; dynamic rotary scaling needs more");
  }
  CheckRope(config.rope, config.head_dim, "", faults);
  if (!(config.window_rope == config.rope))
    CheckRope(config.window_rope, config.head_dim, "of layers with a window: ", faults);
}

double LongRopeAmplitude(double factor, int64_t original) {
  return factor <= 1 ? 1 : std::sqrt(1 + std::log(factor) / std::log(static_cast<double>(original)));
}

double YarnAmplitude(double factor, double scale) { return factor <= 1 ? 1 : 0.1 * scale * std::log(factor) + 1; }

std::string ModelConfig::Canonical() const {
  std::string text = absl::StrFormat(
      "architecture=%s\nhidden_size=%d\nintermediate_size=%d\nnum_layers=%d\nnum_heads=%d\nnum_kv_heads=%d\nhead_dim=%"
      "d\n"
      "vocab_size=%d\nrms_norm_eps=%s\nrope_theta=%s\ntied_embeddings=%d\nattention_bias=%d\nmlp_bias=%d\n",
      architecture, hidden_size, intermediate_size, num_layers, num_heads, num_kv_heads, head_dim, vocab_size,
      Real(norm_eps), Real(rope.theta), tied_embeddings, qkv_bias, mlp_bias);
  text += RopeText(rope);
  // Only where it differs from a plain Llama model.
  if (rope.share != 1) text += Cat("turning=", rope.turning(head_dim), "\n");
  if (output_bias != qkv_bias) text += Cat("output_bias=", output_bias ? 1 : 0, "\n");
  if (norm == NormKind::kLayer) text += "norm=layer\n";
  if (unit != kernels::Unit::kSwiglu) text += unit == kernels::Unit::kGeglu ? "unit=geglu\n" : "unit=gelu\n";
  if (learned_positions) text += "positions=learned\n";
  if (!windows.empty()) text += Cat("windows=", absl::StrJoin(windows, ","), "\n");
  if (!windows.empty() && !(window_rope == rope)) {
    text += Cat("window_rope_theta=", Real(window_rope.theta), "\n", RopeText(window_rope));
  }
  if (query_scalar != static_cast<double>(head_dim)) text += Cat("query_scalar=", Real(query_scalar), "\n");
  if (attention_softcap > 0) text += Cat("attention_softcap=", Real(attention_softcap), "\n");
  if (logit_softcap > 0) text += Cat("logit_softcap=", Real(logit_softcap), "\n");
  if (scaled_embeddings) text += "embeddings=scaled\n";
  return text;
}

}  // namespace strata::model
