// What a packed batch brings to a pass, on the pass's device.
#ifndef STRATA_CLIENT_MODEL_PASS_INPUTS_H_
#define STRATA_CLIENT_MODEL_PASS_INPUTS_H_

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <vector>

#include "client/data/dataset.h"
#include "client/model/attention.h"
#include "client/model/model_config.h"

namespace strata::model {

// cos and sin of rotary positions, fp32 [rows, turning elements of a head / 2] each.
struct Turns {
  at::Tensor cos, sin;
};

// On a CUDA device: the turns of positions 0, 1, .., computed once. A table that became too short gives way to a longer
// one; copies of the old one stay valid.
class TurnTables {
 public:
  explicit TurnTables(at::Device device) : device_(device) {}
  // `which`: 0 for config.rope, 1 for config.window_rope. At least `positions` rows.
  const Turns& Get(const ModelConfig& config, size_t which, int64_t positions);

 private:
  at::Device device_;
  std::array<Turns, 2> tables_;
};

class PassInputs {
 public:
  // More than a batch needs, for others in the same places. Supervised rows without a target of their own name row -1
  // and target -1, which CUDA kernels alone understand.
  struct Room {
    int64_t loss_rows = 0, longest = 0;
  };
  // What else a step brings: the gradient's scale, and the key of its dropout.
  struct Step {
    double scale = 1;
    uint64_t dropout_key = 0;
  };
  // Borrows `batch`'s starts.
  PassInputs(const data::PackedBatch& batch, const Step& step, const ModelConfig& config, at::Device device,
             TurnTables& tables, const Room& room);
  // Another batch in the same places. REQUIRES: a CUDA device; as many tokens, documents and, at most, supervised rows;
  // no document longer than documents().longest; positions inside the tables.
  void Refill(const data::PackedBatch& batch, const Step& step);

  int64_t tokens() const { return tokens_; }
  int64_t loss_rows() const { return loss_rows_; }
  const Documents& documents() const { return documents_; }
  at::Tensor ids() const { return Part(kIds); }  // int32 [tokens]
  at::Tensor positions() const { return Part(kPositions); }
  at::Tensor rows() const { return Part(kRows); }        // int32 [loss_rows], of the supervised tokens
  at::Tensor targets() const { return Part(kTargets); }  // int32 [loss_rows]
  double scale() const { return step_.scale; }
  at::Tensor device_scale() const;             // fp32 [1], what counts on a CUDA device; undefined elsewhere
  const uint64_t* device_dropout_key() const;  // what counts on a CUDA device; null elsewhere
  // Rows are tokens', or positions where by_position().
  const Turns& turns() const { return turns_[0]; }
  const Turns& window_turns() const { return turns_[1]; }
  bool by_position() const { return by_position_; }

 private:
  enum { kKey, kIds, kPositions, kStarts, kRows, kTargets, kScale, kNumParts };
  // LibTorch's deterministic backward of attention shares a device's processors out among documents times heads,
  // rounding up: with one document of 32 heads two waves of blocks, with an empty one more a single wave.
  void Lay(const data::PackedBatch& batch, const Step& step);
  at::Tensor Part(size_t part) const;

  int64_t tokens_ = 0, loss_rows_ = 0;
  Step step_;
  std::array<int64_t, kNumParts + 1> first_ = {};  // in the buffers
  at::Tensor host_, buffer_;                       // int32; one tensor on the CPU
  Documents documents_;
  std::array<Turns, 2> turns_;
  bool by_position_ = false;
};

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_PASS_INPUTS_H_
