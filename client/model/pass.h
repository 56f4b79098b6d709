// One packed batch through the transformer: forward, loss, backward; written out by hand, saving only what the backward
// pass reads.
#ifndef STRATA_CLIENT_MODEL_PASS_H_
#define STRATA_CLIENT_MODEL_PASS_H_

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <vector>

#include "client/model/arena.h"
#include "client/model/attention.h"
#include "client/model/kv_cache.h"
#include "client/model/model_files.h"
#include "client/model/pass_inputs.h"
#include "client/model/side_adapter.h"
#include "client/model/weights.h"

namespace strata::model {

// What the passes of one model share.
struct PassContext {
  const ModelConfig& config;
  const Weights& weights;
  const std::vector<std::array<SideAdapter, kNumGroups>>& sides;  // per layer
  Arena& arena;
  DropoutKey dropout;                  // this step's; off when evaluating
  bool recompute = false;              // Forward(save) keeps only each layer's input; Backward computes the layer again
  const CachedRows* cached = nullptr;  // what the documents follow; null: they stand alone. Forward only
};

class Pass {
 public:
  // Clears the arena; borrows `inputs`. REQUIRES: ids and targets inside the vocabulary; at least one token.
  Pass(const PassContext& context, const PassInputs& inputs);

  // The stream after the last layer, before the final norm. With `save`, layers from the first trained one on keep what
  // Backward needs. `hidden_states` (may be null) gets copies of the embeddings and of each layer's output.
  void Forward(bool save, std::vector<at::Tensor>* hidden_states);
  // nll per row of inputs.rows(), fp32 on the device; with `gradient`, Backward's start is left, scaled.
  at::Tensor Loss(bool gradient);
  // Adds to the gradients of every trained factor. REQUIRES: Forward(save), Loss(gradient).
  void Backward();
  // After Forward: every token's hidden state after the final norm.
  at::Tensor FinalHidden();
  // Of rows of FinalHidden: fp32 [rows, vocab].
  at::Tensor Logits(const at::Tensor& hidden) const;

 private:
  // A block's output before its norm.
  struct Normed {
    at::Tensor raw, rstd;
  };
  struct Saved {
    at::Tensor x, rstd_attention, qkv, o, lse, middle, rstd_mlp, gate_up;
    at::Tensor raw_qk, rstd_q, rstd_k;  // q and k before the norms of their heads
    Normed attention_out, mlp_out;      // where a norm follows
    std::array<SideAdapter::Kept, kNumGroups> kept;
  };
  enum class Keep { kNothing, kInput, kAll };
  // One row a token.
  Turns TurnsOfTokens(const Turns& turns);
  AttentionShape ShapeOf(size_t layer) const;
  void Turn(size_t layer, const at::Tensor& qkv, bool inverse) const;

  // All but x, which outlives the others; `all`: nothing is shared with the stream.
  Saved TakeSaved(size_t layer, bool all);
  void Embed();
  // The stream entering a layer is x_ + delta_ (x_ alone before the first); it leaves the next one in the same form.
  void ForwardLayer(size_t index, Keep keep);
  void ForwardAttention(size_t index, const Saved& s, const at::Tensor& h);
  void NormHeads(size_t index, const Saved& s);
  // delta_ = the group's output, through `norm` where there is one.
  void ProjectToDelta(size_t index, int group, const at::Tensor& x, const Norm& norm, const Normed& saved,
                      const SideAdapter::Kept& kept);
  // gradient_: of the block's output on entry, of its input on return. False: nothing before the block needs one.
  bool BackwardMlp(size_t index);
  void BackwardAttention(size_t index);
  void BackwardHeads(size_t index, const at::Tensor& dqkv);
  // What a block's first matrix read, norm(x). Takes its gradient dh, if there is one, into gradient_, and its place.
  at::Tensor InputAgain(const Norm& norm, const at::Tensor& dh, const at::Tensor& x, const at::Tensor& rstd);
  // Of a block's output, from gradient_.
  at::Tensor OutputGradient(const Norm& norm, const Normed& saved);
  void Project(size_t layer, int group, const at::Tensor& x, const at::Tensor& y, const SideAdapter::Kept& kept);
  // dx = gradient of the group's input (left alone when undefined). FactorGradients needs what is returned, and `dy` as
  // it is.
  SideAdapter::Gradient ProjectBackward(size_t layer, int group, const at::Tensor& dy, const at::Tensor& dx);
  void FactorGradients(size_t layer, int group, const SideAdapter::Gradient& gradient, const at::Tensor& x);
  bool NeedsInputGradient(size_t layer, int group) const;
  DropoutKey Dropout(size_t layer, int group) const;
  at::Tensor Take(int64_t cols) { return c_.arena.Take({tokens_, cols}, type_); }
  // With room behind each row for an adapter's columns.
  at::Tensor TakeLeft(int64_t cols) { return Take(cols + margin_).narrow(1, 0, cols); }
  at::Tensor TakeRstd(int64_t heads = 1) { return c_.arena.Take({tokens_, heads}, at::kFloat); }
  const Norm& NormOf(size_t layer, NormIndex place) const { return c_.weights.layers[layer].norms[place]; }

  PassContext c_;
  const PassInputs& inputs_;
  int64_t tokens_;
  at::ScalarType type_;
  int64_t margin_ = 0;      // the widest adapter's
  int64_t queries_, keys_;  // columns of q and of k in qkv
  Turns turns_, window_turns_;
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
