// Angles of rotary positions.
#ifndef STRATA_CLIENT_MODEL_ROPE_TABLE_H_
#define STRATA_CLIENT_MODEL_ROPE_TABLE_H_

#include <cstdint>
#include <vector>

#include "client/model/model_files.h"

namespace strata::model {

// fp32 inverse frequencies [head_dim / 2] as transformers computes them (default, linear, llama3).
std::vector<float> InverseFrequencies(const ModelConfig& config);
// cos and sin of position * frequency, fp32 [positions, head_dim / 2] each.
void RopeTables(const std::vector<float>& frequencies, const std::vector<int32_t>& positions, float* cos, float* sin);

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_ROPE_TABLE_H_
