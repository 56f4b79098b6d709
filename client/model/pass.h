// One packed batch through the transformer: forward, loss, backward; written out by hand, saving only what the backward
// pass reads.
#ifndef STRATA_CLIENT_MODEL_PASS_H_
#define STRATA_CLIENT_MODEL_PASS_H_

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <vector>

#include "client/data/dataset.h"
#include "client/model/arena.h"
#include "client/model/attention.h"
#include "client/model/model_files.h"
#include "client/model/side_adapter.h"
#include "client/model/weights.h"

namespace strata::model {

// What the passes of one model share.
struct PassContext {
  const ModelConfig& config;
  const Weights& weights;
  const std::vector<std::array<SideAdapter, kNumGroups>>& sides;  // per layer
  const std::vector<float>& inverse_frequencies;
  Arena& arena;
  DropoutKey dropout;      // this step's; off when evaluating
  bool recompute = false;  // Forward(save) keeps only each layer's input; Backward computes the layer again
};

class Pass {
 public:
  // Clears the arena. REQUIRES: ids and targets inside the vocabulary; at least one token.
  Pass(const PassContext& context, const data::PackedBatch& batch);

  // The stream after the last layer, before the final norm. With `save`, layers from the first trained one on keep what
  // Backward needs. `hidden_states` (may be null) gets copies of the embeddings and of each layer's output.
  void Forward(bool save, std::vector<at::Tensor>* hidden_states);
  // nll per supervised token, in batch order; with `gradient`, Backward's start is left scaled by `scale`.
  std::vector<float> Loss(double scale, bool gradient);
  // Adds to the gradients of every trained factor. REQUIRES: Forward(save), Loss(gradient).
  void Backward();
  // After the final norm: every token's hidden state, and its logits in fp32 [tokens, vocab]. After Forward.
  at::Tensor FinalHidden();
  at::Tensor Logits();

 private:
  struct Saved {
    at::Tensor x, rstd_attention, qkv, o, lse, middle, rstd_mlp, gate_up;
    std::array<at::Tensor, kNumGroups> s;
  };
  enum class Keep { kNothing, kInput, kAll };
  // The stream entering a layer is x_ + delta_ (x_ alone before the first); it leaves the next one in the same form.
  void ForwardLayer(size_t index, Keep keep);
  // gradient_: of the layer's output on entry, of its input on return.
  void BackwardLayer(size_t index);
  void Project(size_t layer, int group, const at::Tensor& x, const at::Tensor& y, const at::Tensor& s);
  // dx = gradient of the group's input (left alone when undefined); returns ds for FactorGradients.
  at::Tensor ProjectBackward(size_t layer, int group, const at::Tensor& dy, const at::Tensor& dx);
  void FactorGradients(size_t layer, int group, const at::Tensor& ds, const at::Tensor& x);
  bool NeedsInputGradient(size_t layer, int group) const;
  DropoutKey Dropout(size_t layer, int group) const;
  at::Tensor Take(int64_t cols) { return c_.arena.Take({tokens_, cols}, type_); }

  PassContext c_;
  const data::PackedBatch& batch_;
  int64_t tokens_;
  at::ScalarType type_;
  AttentionShape shape_;
  at::Tensor cos_, sin_;
  std::vector<Saved> saved_;
  // The first layer and group with a trained factor; layers before it need no gradient.
  size_t first_layer_ = 0;
  int first_group_ = 0;
  at::Tensor x_, delta_;
  bool has_delta_ = false;
  at::Tensor gradient_;
};

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_PASS_H_
