#include "client/model/pass.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "client/model/gemm.h"
#include "client/model/loss.h"
#include "client/model/ops.h"

namespace strata::model {
Pass::Pass(const PassContext& context, const PassInputs& inputs)
    : c_(context),
      inputs_(inputs),
      tokens_(inputs.tokens()),
      type_(context.weights.activation_type),
      queries_(context.config.num_heads * context.config.head_dim),
      keys_(context.config.num_kv_heads * context.config.head_dim) {
  c_.arena.Reset();
  if (!c_.config.learned_positions) {
    turns_ = TurnsOfTokens(inputs_.turns());
    const bool same = inputs_.window_turns().cos.is_same(inputs_.turns().cos);
    window_turns_ = same ? turns_ : TurnsOfTokens(inputs_.window_turns());
  }
  first_layer_ = c_.sides.size();
  for (size_t l = c_.sides.size(); l-- > 0;) {
    for (int g = kNumGroups; g-- > 0;) {
      if (!c_.sides[l][static_cast<size_t>(g)].trained()) continue;
      first_layer_ = l;
      first_group_ = g;
    }
  }
  for (const auto& layer : c_.sides) {
    for (const SideAdapter& side : layer) margin_ = std::max(margin_, side.margin());
  }
  saved_.resize(c_.sides.size());
}

Turns Pass::TurnsOfTokens(const Turns& turns) {
  if (!inputs_.by_position()) return turns;
  Turns own = {.cos = c_.arena.Take({tokens_, turns.cos.size(1)}, at::kFloat),
               .sin = c_.arena.Take({tokens_, turns.sin.size(1)}, at::kFloat)};
  GatherRows(turns.cos, inputs_.positions(), own.cos);
  GatherRows(turns.sin, inputs_.positions(), own.sin);
  return own;
}

AttentionShape Pass::ShapeOf(size_t layer) const {
  return {.num_heads = c_.config.num_heads,
          .num_kv_heads = c_.config.num_kv_heads,
          .head_dim = c_.config.head_dim,
          .scale = 1 / std::sqrt(c_.config.query_scalar),
          .window = c_.config.window(layer),
          .softcap = c_.config.attention_softcap};
}

void Pass::Turn(size_t layer, const at::Tensor& qkv, bool inverse) const {
  if (c_.config.learned_positions) return;
  const Turns& turns = c_.config.window(layer) > 0 ? window_turns_ : turns_;
  Rope(qkv, c_.config.num_heads + c_.config.num_kv_heads, c_.config.head_dim, turns.cos, turns.sin, inverse);
}

bool Pass::NeedsInputGradient(size_t layer, int group) const {
  return layer > first_layer_ || (layer == first_layer_ && group > first_group_);
}

DropoutKey Pass::Dropout(size_t layer, int group) const {
  return c_.dropout.Of(layer * kNumGroups + static_cast<size_t>(group));
}

// The bias comes last: magnitudes do not scale it.
void Pass::Project(size_t layer, int group, const at::Tensor& x, const at::Tensor& y, const SideAdapter::Kept& kept) {
  const auto g = static_cast<size_t>(group);
  const LinearGroup& linear = c_.weights.layers[layer].groups[g];
  const SideAdapter& side = c_.sides[layer][g];
  ArenaScope scope(c_.arena);
  const bool take = !side.empty() && !kept.s.defined();
  side.Forward(x, y, take ? side.TakeKept(tokens_, c_.arena) : kept, c_.arena, Dropout(layer, group));
  if (linear.bias.defined()) AddBias(y, linear.bias);
}

Pass::Saved Pass::TakeSaved(size_t layer, bool all) {
  const ModelConfig& config = c_.config;
  Saved s;
  s.middle = all ? Take(config.hidden_size) : x_;
  s.rstd_attention = TakeRstd();
  s.rstd_mlp = TakeRstd();
  s.qkv = Take(queries_ + 2 * keys_);
  s.o = TakeLeft(queries_);
  s.lse = c_.arena.Take({config.num_heads, tokens_}, at::kFloat);
  s.gate_up = TakeLeft(kernels::IsGated(config.unit) ? 2 * config.intermediate_size : config.intermediate_size);
  if (NormOf(layer, kQueryNorm)) {
    s.raw_qk = Take(queries_ + keys_);
    s.rstd_q = TakeRstd(config.num_heads);
    s.rstd_k = TakeRstd(config.num_kv_heads);
  }
  if (NormOf(layer, kPostAttentionNorm)) s.attention_out = {.raw = Take(config.hidden_size), .rstd = TakeRstd()};
  if (NormOf(layer, kPostMlpNorm)) s.mlp_out = {.raw = Take(config.hidden_size), .rstd = TakeRstd()};
  for (size_t g = 0; all && g < kNumGroups; ++g) {
    if (!c_.sides[layer][g].empty()) s.kept[g] = c_.sides[layer][g].TakeKept(tokens_, c_.arena);
  }
  return s;
}

void Pass::ProjectToDelta(size_t index, int group, const at::Tensor& x, const Norm& norm, const Normed& saved,
                          const SideAdapter::Kept& kept) {
  Project(index, group, x, norm ? saved.raw : delta_, kept);
  if (norm) ApplyNorm(norm, saved.raw, delta_, saved.rstd);
}

void Pass::NormHeads(size_t index, const Saved& s) {
  if (!s.raw_qk.defined()) return;
  s.raw_qk.copy_(s.qkv.narrow(1, 0, queries_ + keys_));
  ApplyNorm(NormOf(index, kQueryNorm), s.raw_qk.narrow(1, 0, queries_), s.qkv.narrow(1, 0, queries_), s.rstd_q);
  ApplyNorm(NormOf(index, kKeyNorm), s.raw_qk.narrow(1, queries_, keys_), s.qkv.narrow(1, queries_, keys_), s.rstd_k);
}

void Pass::ForwardAttention(size_t index, const Saved& s, const at::Tensor& h) {
  const Norm& norm = NormOf(index, kAttentionNorm);
  if (has_delta_) {
    AddNorm(norm, x_, delta_, s.x, h, s.rstd_attention);
  } else {
    if (!s.x.is_same(x_)) s.x.copy_(x_);
    ApplyNorm(norm, s.x, h, s.rstd_attention);
  }
  Project(index, kQkv, h, s.qkv, s.kept[kQkv]);
  NormHeads(index, s);
  Turn(index, s.qkv, /*inverse=*/false);
  if (c_.cached != nullptr) {
    c_.cached->Attention(index, ShapeOf(index), inputs_.documents().starts, s.qkv, s.o, s.lse);
  } else {
    Attention(ShapeOf(index), inputs_.documents(), s.qkv, s.o, s.lse);
  }
  ProjectToDelta(index, kOut, s.o, NormOf(index, kPostAttentionNorm), s.attention_out, s.kept[kOut]);
}

// Saved tensors are taken from the arena before the scope of the layer's temporaries opens.
void Pass::ForwardLayer(size_t index, Keep keep) {
  c_.weights.Use(index);
  const at::Tensor x = keep == Keep::kNothing ? x_ : Take(c_.config.hidden_size);
  const Arena::Mark input_end = c_.arena.mark();
  const bool all = keep == Keep::kAll;
  Saved s = TakeSaved(index, all);
  s.x = x;
  const Arena::Mark saved_end = c_.arena.mark();
  const at::Tensor h = TakeLeft(c_.config.hidden_size);
  const at::Tensor activation = TakeLeft(c_.config.intermediate_size);
  ForwardAttention(index, s, h);
  AddNorm(NormOf(index, kMlpNorm), s.x, delta_, s.middle, h, s.rstd_mlp);
  Project(index, kGateUp, h, s.gate_up, s.kept[kGateUp]);
  Activate(c_.config.unit, s.gate_up, activation);
  ProjectToDelta(index, kDown, activation, NormOf(index, kPostMlpNorm), s.mlp_out, s.kept[kDown]);
  has_delta_ = true;
  x_ = s.middle;
  c_.arena.Release(all ? saved_end : input_end);
  if (keep != Keep::kNothing) saved_[index] = std::move(s);
}

void Pass::Embed() {
  GatherRows(c_.weights.embedding, inputs_.ids(), x_);
  if (c_.config.scaled_embeddings) x_.mul_(std::sqrt(static_cast<double>(c_.config.hidden_size)));
  if (!c_.config.learned_positions) return;
  ArenaScope scope(c_.arena);
  const at::Tensor places = Take(c_.config.hidden_size);
  GatherRows(c_.weights.positions, inputs_.positions(), places);
  model::Add(x_, places);
}

void Pass::Forward(bool save, std::vector<at::Tensor>* hidden_states) {
  x_ = Take(c_.config.hidden_size);
  delta_ = Take(c_.config.hidden_size);
  has_delta_ = false;
  Embed();
  if (hidden_states != nullptr) hidden_states->push_back(x_.clone());
  for (size_t l = 0; l < c_.weights.layers.size(); ++l) {
    ForwardLayer(l, !save || l < first_layer_ ? Keep::kNothing : c_.recompute ? Keep::kInput : Keep::kAll);
    if (hidden_states != nullptr) hidden_states->push_back(x_ + delta_);
  }
  if (has_delta_) {
    const at::Tensor sum = Take(c_.config.hidden_size);
    sum.copy_(x_);
    model::Add(sum, delta_);
    x_ = sum;
  }
}

at::Tensor Pass::FinalHidden() {
  at::Tensor out = at::empty(x_.sizes(), x_.options());
  ApplyNorm(c_.weights.final_norm, x_, out, at::empty({tokens_, 1}, x_.options().dtype(at::kFloat)));
  return out;
}

at::Tensor Pass::Logits(const at::Tensor& hidden) const {
  at::Tensor out = at::empty({hidden.size(0), c_.weights.head.size(0)}, hidden.options());
  MatMulNT(out, hidden, c_.weights.head, false);
  out = out.to(at::kFloat);
  if (c_.config.logit_softcap > 0) Softcap(out, c_.config.logit_softcap);
  return out;
}

at::Tensor Pass::Loss(bool gradient) {
  if (gradient) {
    gradient_ = TakeLeft(c_.config.hidden_size);
    gradient_.zero_();
  }
  const int64_t n = inputs_.loss_rows();
  if (n == 0) return at::empty({0}, x_.options().dtype(at::kFloat));
  ArenaScope scope(c_.arena);
  at::Tensor x = c_.arena.Take({n, c_.config.hidden_size}, type_);
  GatherRows(x_, inputs_.rows(), x);
  const at::Tensor hidden = c_.arena.Take(x.sizes(), type_);
  const at::Tensor rstd = c_.arena.Take({n, 1}, at::kFloat);
  ApplyNorm(c_.weights.final_norm, x, hidden, rstd);
  const at::Tensor d_hidden = gradient ? c_.arena.Take(x.sizes(), type_) : at::Tensor();
  at::Tensor nll = HeadLoss(hidden, {c_.weights.head, c_.config.logit_softcap}, inputs_.targets(),
                            {inputs_.scale(), inputs_.device_scale()}, d_hidden, c_.arena);
  if (gradient) {
    const at::Tensor& dx = hidden;  // no longer needed
    NormBackward(c_.weights.final_norm, d_hidden, x, rstd, dx, /*accumulate=*/false);
    ScatterRows(dx, inputs_.rows(), gradient_);
  }
  return nll;
}

SideAdapter::Gradient Pass::ProjectBackward(size_t layer, int group, const at::Tensor& dy, const at::Tensor& dx) {
  const auto g = static_cast<size_t>(group);
  const SideAdapter& side = c_.sides[layer][g];
  const DropoutKey dropout = Dropout(layer, group);
  SideAdapter::Gradient gradient = side.BeginBackward(dy, saved_[layer].kept[g], c_.arena, dropout);
  side.BackwardInput(gradient, dx, c_.arena, dropout);
  return gradient;
}

void Pass::FactorGradients(size_t layer, int group, const SideAdapter::Gradient& gradient, const at::Tensor& x) {
  const auto g = static_cast<size_t>(group);
  const SideAdapter& side = c_.sides[layer][g];
  if (!side.trained()) return;
  side.BackwardFactors(gradient, saved_[layer].kept[g].s, x, c_.arena, Dropout(layer, group));
}

at::Tensor Pass::OutputGradient(const Norm& norm, const Normed& saved) {
  if (!norm) return gradient_;
  at::Tensor d = TakeLeft(c_.config.hidden_size);
  NormBackward(norm, gradient_, saved.raw, saved.rstd, d, /*accumulate=*/false);
  return d;
}

at::Tensor Pass::InputAgain(const Norm& norm, const at::Tensor& dh, const at::Tensor& x, const at::Tensor& rstd) {
  if (dh.defined()) {
    NormBackwardAndValue(norm, dh, x, rstd, gradient_);
    return dh;
  }
  at::Tensor h = Take(c_.config.hidden_size);
  ApplyNorm(norm, x, h, TakeRstd());
  return h;
}

bool Pass::BackwardMlp(size_t index) {
  c_.weights.Use(index);
  ArenaScope scope(c_.arena);
  const Saved& s = saved_[index];
  const Norm& norm = NormOf(index, kMlpNorm);
  // ActivateBackward turns d_activation back into the activation, the input of down_proj; it also runs where no
  // gradient goes further.
  const at::Tensor d_activation = Take(c_.config.intermediate_size);
  const bool past_down = NeedsInputGradient(index, kDown);
  if (!past_down) d_activation.zero_();
  const at::Tensor d_out = OutputGradient(NormOf(index, kPostMlpNorm), s.mlp_out);
  SideAdapter::Gradient gradient = ProjectBackward(index, kDown, d_out, past_down ? d_activation : at::Tensor());
  ActivateBackward(c_.config.unit, s.gate_up, d_activation);
  FactorGradients(index, kDown, gradient, d_activation);
  if (!past_down) return false;

  const bool past_gate_up = NeedsInputGradient(index, kGateUp);
  const at::Tensor dh = past_gate_up ? Take(c_.config.hidden_size) : at::Tensor();
  gradient = ProjectBackward(index, kGateUp, s.gate_up, dh);
  FactorGradients(index, kGateUp, gradient, InputAgain(norm, dh, s.middle, s.rstd_mlp));
  return past_gate_up;
}

void Pass::BackwardHeads(size_t index, const at::Tensor& dqkv) {
  const Saved& s = saved_[index];
  if (!s.raw_qk.defined()) return;
  const at::Tensor dq = dqkv.narrow(1, 0, queries_);
  const at::Tensor dk = dqkv.narrow(1, queries_, keys_);
  NormBackward(NormOf(index, kQueryNorm), dq, s.raw_qk.narrow(1, 0, queries_), s.rstd_q, dq, /*accumulate=*/false);
  NormBackward(NormOf(index, kKeyNorm), dk, s.raw_qk.narrow(1, queries_, keys_), s.rstd_k, dk, /*accumulate=*/false);
}

void Pass::BackwardAttention(size_t index) {
  ArenaScope scope(c_.arena);
  const Saved& s = saved_[index];
  const Norm& norm = NormOf(index, kAttentionNorm);
  const bool past_out = NeedsInputGradient(index, kOut);
  const at::Tensor d_o = past_out ? Take(queries_) : at::Tensor();
  const at::Tensor d_out = OutputGradient(NormOf(index, kPostAttentionNorm), s.attention_out);
  SideAdapter::Gradient gradient = ProjectBackward(index, kOut, d_out, d_o);
  FactorGradients(index, kOut, gradient, s.o);
  if (!past_out) return;

  const at::Tensor dqkv = TakeLeft(queries_ + 2 * keys_);
  AttentionBackward(ShapeOf(index), inputs_.documents(), s.qkv, s.o, s.lse, d_o, dqkv);
  Turn(index, dqkv, /*inverse=*/true);
  BackwardHeads(index, dqkv);
  const bool past_qkv = NeedsInputGradient(index, kQkv);
  const at::Tensor dh = past_qkv ? Take(c_.config.hidden_size) : at::Tensor();
  gradient = ProjectBackward(index, kQkv, dqkv, dh);
  FactorGradients(index, kQkv, gradient, InputAgain(norm, dh, s.x, s.rstd_attention));
}

void Pass::Backward() {
  for (size_t l = saved_.size(); l-- > first_layer_;) {
    ArenaScope scope(c_.arena);
    if (c_.recompute) {
      x_ = saved_[l].x;
      has_delta_ = false;
      ForwardLayer(l, Keep::kAll);
    }
    if (BackwardMlp(l)) BackwardAttention(l);
  }
}

}  // namespace strata::model
