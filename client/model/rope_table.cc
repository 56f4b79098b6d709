#include "client/model/rope_table.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace strata::model {
namespace {

// Long waves are slowed down by the factor, short ones kept, those between blended (Llama 3.1's model card).
float ScaleLlama3(float frequency, const RopeConfig& rope) {
  const double old = static_cast<double>(rope.original_max_positions);
  const double wavelength = 2 * std::numbers::pi / static_cast<double>(frequency);
  const double slowed = static_cast<double>(frequency) / rope.factor;
  if (wavelength < old / rope.high_freq_factor) return frequency;
  if (wavelength > old / rope.low_freq_factor) return static_cast<float>(slowed);
  const double smooth = (old / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return static_cast<float>((1 - smooth) * slowed + smooth * static_cast<double>(frequency));
}

// NTK-aware: the base grows with the length, so that the longest waves just cover it.
double DynamicTheta(const RopeConfig& rope, int64_t turning, int64_t length) {
  const auto old = static_cast<double>(rope.original_max_positions);
  const auto dim = static_cast<double>(turning);
  const double stretch = rope.factor * std::max(static_cast<double>(length), old) / old - (rope.factor - 1);
  return rope.theta * std::pow(stretch, dim / (dim - 2));
}

// The pair of dimensions that turns so often over the original positions (arXiv 2309.00071).
double YarnPair(const RopeConfig& rope, int64_t turning, double turns) {
  const double wave = static_cast<double>(rope.original_max_positions) / (turns * 2 * std::numbers::pi);
  return static_cast<double>(turning) * std::log(wave) / (2 * std::log(rope.theta));
}

// Pairs below `low` are kept, those above `high` slowed down by the factor, those between blended.
void ScaleYarn(const RopeConfig& rope, int64_t turning, std::vector<float>& frequencies) {
  double low = YarnPair(rope, turning, rope.beta_fast);
  double high = YarnPair(rope, turning, rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(turning - 1));
  if (low == high) high += 0.001;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    const double kept = static_cast<double>(frequencies[i]);
    frequencies[i] = static_cast<float>(kept / rope.factor * ramp + kept * (1 - ramp));
  }
}

}  // namespace

RopeFrequencies FrequenciesOf(const RopeConfig& rope, int64_t head_dim, int64_t length) {
  RopeFrequencies out;
  const int64_t turning = rope.turning(head_dim);
  const double theta = rope.scaling == RopeScaling::kDynamic ? DynamicTheta(rope, turning, length) : rope.theta;
  const std::vector<double>& factors = length > rope.original_max_positions ? rope.long_factors : rope.short_factors;
  for (int64_t i = 0; i < turning; i += 2) {
    const float exponent = static_cast<float>(i) / static_cast<float>(turning);
    float wave = std::pow(static_cast<float>(theta), exponent);
    if (rope.scaling == RopeScaling::kLongRope) wave *= static_cast<float>(factors[static_cast<size_t>(i / 2)]);
    float frequency = 1.0F / wave;
    if (rope.scaling == RopeScaling::kLinear) frequency /= static_cast<float>(rope.factor);
    if (rope.scaling == RopeScaling::kLlama3) frequency = ScaleLlama3(frequency, rope);
    out.inverse.push_back(frequency);
  }
  if (rope.scaling == RopeScaling::kYarn) ScaleYarn(rope, turning, out.inverse);
  if (rope.scaling == RopeScaling::kYarn || rope.scaling == RopeScaling::kLongRope) {
    out.amplitude = static_cast<float>(rope.attention_factor);
  }
  return out;
}

void RopeTables(const RopeFrequencies& frequencies, const std::vector<int32_t>& positions, float* cos, float* sin) {
  for (const int32_t position : positions) {
    for (const float frequency : frequencies.inverse) {
      const float angle = static_cast<float>(position) * frequency;
      *cos++ = std::cos(angle) * frequencies.amplitude;
      *sin++ = std::sin(angle) * frequencies.amplitude;
    }
  }
}

}  // namespace strata::model
