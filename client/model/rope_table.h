// Angles of rotary positions.
#ifndef STRATA_CLIENT_MODEL_ROPE_TABLE_H_
#define STRATA_CLIENT_MODEL_ROPE_TABLE_H_

#include <cstdint>
#include <vector>

#include "client/model/model_files.h"

namespace strata::model {

struct RopeFrequencies {
  std::vector<float> inverse;  // [turning elements / 2]
  float amplitude = 1;         // of cos and sin
};

// As transformers computes them in fp32. `length`: the positions of the batch's longest row, which only the dynamic
// scaling and longrope read; beyond the original positions it changes their frequencies for all rows, as transformers
// does it.
RopeFrequencies FrequenciesOf(const RopeConfig& rope, int64_t head_dim, int64_t length);
// cos and sin of position * frequency, fp32 [positions, turning elements / 2] each.
void RopeTables(const RopeFrequencies& frequencies, const std::vector<int32_t>& positions, float* cos, float* sin);

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_ROPE_TABLE_H_
