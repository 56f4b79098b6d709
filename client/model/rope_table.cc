#include "client/model/rope_table.h"

#include <cmath>
#include <numbers>

namespace strata::model {
namespace {

// Long waves are slowed down by the factor, short ones kept, those between blended (Llama 3.1's model card).
float ScaleLlama3(float frequency, const ModelConfig& c) {
  const double old = static_cast<double>(c.rope_original_max_positions);
  const double wavelength = 2 * std::numbers::pi / static_cast<double>(frequency);
  const double slowed = static_cast<double>(frequency) / c.rope_factor;
  if (wavelength < old / c.rope_high_freq_factor) return frequency;
  if (wavelength > old / c.rope_low_freq_factor) return static_cast<float>(slowed);
  const double smooth =
      (old / wavelength - c.rope_low_freq_factor) / (c.rope_high_freq_factor - c.rope_low_freq_factor);
  return static_cast<float>((1 - smooth) * slowed + smooth * static_cast<double>(frequency));
}

}  // namespace

std::vector<float> InverseFrequencies(const ModelConfig& config) {
  std::vector<float> out;
  for (int64_t i = 0; i < config.head_dim; i += 2) {
    const float exponent = static_cast<float>(i) / static_cast<float>(config.head_dim);
    float frequency = 1.0F / std::pow(static_cast<float>(config.rope_theta), exponent);
    if (config.rope_scaling == RopeScaling::kLinear) frequency /= static_cast<float>(config.rope_factor);
    if (config.rope_scaling == RopeScaling::kLlama3) frequency = ScaleLlama3(frequency, config);
    out.push_back(frequency);
  }
  return out;
}

void RopeTables(const std::vector<float>& frequencies, const std::vector<int32_t>& positions, float* cos, float* sin) {
  for (const int32_t position : positions) {
    for (const float frequency : frequencies) {
      const float angle = static_cast<float>(position) * frequency;
      *cos++ = std::cos(angle);
      *sin++ = std::sin(angle);
    }
  }
}

}  // namespace strata::model
