// A model's configuration from the two forms that it is published in.
#ifndef STRATA_CLIENT_MODEL_MODEL_CONFIG_H_
#define STRATA_CLIENT_MODEL_MODEL_CONFIG_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/model/faults.h"
#include "client/model/model_files.h"
#include "common/format/gguf.h"

namespace strata::model {

// config.json as transformers 5 writes it (rope_parameters) or as older releases did (rope_theta, rope_scaling).
// INVALID_ARGUMENT: no JSON object, keys missing, of another type, out of range or in contradiction (all of them).
// UNIMPLEMENTED: an architecture, activation, rotary scaling or quantisation that is not known, with those that are.
absl::StatusOr<ModelConfig> ParseHfConfig(std::string_view json, std::string_view place);

// From the metadata of a GGUF file and what tensors it has. Errors as above.
absl::StatusOr<ModelConfig> ConfigFromGguf(const format::Gguf& gguf, std::string_view place);

// UNIMPLEMENTED: a feature that GGUF has no key for, or a family that it does not have.
absl::Status CheckSayableInGguf(const ModelConfig& config, std::string_view place);

// A config.json that ParseHfConfig reads as `config`, in the keys of published checkpoints: a JSON object.
std::string HfConfigText(const ModelConfig& config);

// GGUF's tensors of rotary scalings, [turning elements / 2].
inline constexpr std::string_view kRopeDivisors = "rope_freqs.weight";              // llama3: all that GGUF keeps of it
inline constexpr std::string_view kRopeShortFactors = "rope_factors_short.weight";  // longrope
inline constexpr std::string_view kRopeLongFactors = "rope_factors_long.weight";

// By what the llama3 scaling divides each rotary frequency, [head_dim / 2]: all that GGUF keeps of it.
std::vector<float> Llama3Divisors(const RopeConfig& rope, int64_t head_dim);

// Says that no family is called so, and which there are. INVALID_ARGUMENT where no architecture is named at all, else
// UNIMPLEMENTED.
absl::Status UnknownArchitecture(std::string_view architecture, std::string_view place);

// By what yarn multiplies q and k for a context that is `factor` times longer (arXiv 2309.00071, equation 22), with the
// logarithm scaled.
double YarnAmplitude(double factor, double scale);
// By what longrope multiplies q and k for a context `factor` times as long as the `original` one (arXiv 2402.13753).
double LongRopeAmplitude(double factor, int64_t original);

// Ranges and relations of the numbers, whatever they come from.
void CheckNumbers(const ModelConfig& config, Faults& faults);

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_MODEL_CONFIG_H_
