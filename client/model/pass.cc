#include "client/model/pass.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "client/model/gemm.h"
#include "client/model/loss.h"
#include "client/model/ops.h"
#include "client/model/rope_table.h"

namespace strata::model {
namespace {

at::Tensor IndexTensor(const std::vector<int32_t>& values, at::Device device) {
  const at::Tensor out = at::empty({static_cast<int64_t>(values.size())}, at::kInt);
  std::copy(values.begin(), values.end(), out.data_ptr<int32_t>());
  return out.to(device);
}

}  // namespace

Pass::Pass(const PassContext& context, const data::PackedBatch& batch)
    : c_(context),
      batch_(batch),
      tokens_(static_cast<int64_t>(batch.ids.size())),
      type_(context.weights.activation_type),
      shape_{.num_heads = context.config.num_heads,
             .num_kv_heads = context.config.num_kv_heads,
             .head_dim = context.config.head_dim} {
  c_.arena.Release({});
  const auto half = static_cast<int64_t>(c_.inverse_frequencies.size());
  const at::Tensor cos = at::empty({tokens_, half}, at::kFloat);
  const at::Tensor sin = at::empty({tokens_, half}, at::kFloat);
  RopeTables(c_.inverse_frequencies, batch.positions, cos.data_ptr<float>(), sin.data_ptr<float>());
  cos_ = cos.to(c_.weights.embedding.device());
  sin_ = sin.to(c_.weights.embedding.device());
  first_layer_ = c_.sides.size();
  for (size_t l = c_.sides.size(); l-- > 0;) {
    for (int g = kNumGroups; g-- > 0;) {
      if (!c_.sides[l][static_cast<size_t>(g)].trained()) continue;
      first_layer_ = l;
      first_group_ = g;
    }
  }
  saved_.resize(c_.sides.size());
}

bool Pass::NeedsInputGradient(size_t layer, int group) const {
  return layer > first_layer_ || (layer == first_layer_ && group > first_group_);
}

DropoutKey Pass::Dropout(size_t layer, int group) const {
  DropoutKey key = c_.dropout;
  key.key = key.key * 0x9E3779B97F4A7C15ULL + layer * kNumGroups + static_cast<size_t>(group);
  return key;
}

void Pass::Project(size_t layer, int group, const at::Tensor& x, const at::Tensor& y, const at::Tensor& s) {
  const auto g = static_cast<size_t>(group);
  const LinearGroup& linear = c_.weights.layers[layer].groups[g];
  const SideAdapter& side = c_.sides[layer][g];
  MatMulNT(y, x, {linear.weight, side.folded()}, false);
  if (linear.bias.defined()) AddBias(y, linear.bias);
  if (side.empty()) return;
  ArenaScope scope(c_.arena);
  side.Forward(x, y, s.defined() ? s : Take(side.rank()), c_.arena, Dropout(layer, group));
}

// Saved tensors are taken from the arena before the scope of the layer's temporaries opens.
void Pass::ForwardLayer(size_t index, Keep keep) {
  const LayerWeights& w = c_.weights.layers[index];
  const ModelConfig& config = c_.config;
  const bool all = keep == Keep::kAll;
  Saved s;
  s.x = keep == Keep::kNothing ? x_ : Take(config.hidden_size);
  const Arena::Mark input_end = c_.arena.mark();
  s.middle = all ? Take(config.hidden_size) : x_;
  s.rstd_attention = c_.arena.Take({tokens_}, at::kFloat);
  s.rstd_mlp = c_.arena.Take({tokens_}, at::kFloat);
  s.qkv = Take(shape_.width());
  s.o = Take(config.num_heads * config.head_dim);
  s.lse = c_.arena.Take({config.num_heads, tokens_}, at::kFloat);
  s.gate_up = Take(2 * config.intermediate_size);
  for (size_t g = 0; all && g < kNumGroups; ++g) {
    if (!c_.sides[index][g].empty()) s.s[g] = Take(c_.sides[index][g].rank());
  }
  const Arena::Mark saved_end = c_.arena.mark();
  const at::Tensor h = Take(config.hidden_size);
  const at::Tensor activation = Take(config.intermediate_size);
  if (has_delta_) {
    AddRmsNorm(x_, delta_, s.x, w.attention_norm, config.rms_norm_eps, h, s.rstd_attention);
  } else {
    if (keep != Keep::kNothing) s.x.copy_(x_);
    RmsNorm(s.x, w.attention_norm, config.rms_norm_eps, h, s.rstd_attention);
  }
  Project(index, kQkv, h, s.qkv, s.s[kQkv]);
  Rope(s.qkv, config.num_heads + config.num_kv_heads, config.head_dim, cos_, sin_, /*inverse=*/false);
  Attention(shape_, batch_.starts, s.qkv, s.o, s.lse);
  Project(index, kOut, s.o, delta_, s.s[kOut]);
  AddRmsNorm(s.x, delta_, s.middle, w.mlp_norm, config.rms_norm_eps, h, s.rstd_mlp);
  Project(index, kGateUp, h, s.gate_up, s.s[kGateUp]);
  Swiglu(s.gate_up, activation);
  Project(index, kDown, activation, delta_, s.s[kDown]);
  has_delta_ = true;
  x_ = s.middle;
  c_.arena.Release(all ? saved_end : input_end);
  if (keep != Keep::kNothing) saved_[index] = std::move(s);
}

void Pass::Forward(bool save, std::vector<at::Tensor>* hidden_states) {
  x_ = Take(c_.config.hidden_size);
  delta_ = Take(c_.config.hidden_size);
  has_delta_ = false;
  x_.copy_(at::index_select(c_.weights.embedding, 0, IndexTensor(batch_.ids, c_.weights.embedding.device())));
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
  RmsNorm(x_, c_.weights.final_norm, c_.config.rms_norm_eps, out, at::empty({tokens_}, x_.options().dtype(at::kFloat)));
  return out;
}

at::Tensor Pass::Logits() {
  at::Tensor out = at::empty({tokens_, c_.weights.head.size(0)}, x_.options());
  MatMulNT(out, FinalHidden(), c_.weights.head, false);
  return out.to(at::kFloat);
}

std::vector<float> Pass::Loss(double scale, bool gradient) {
  std::vector<int32_t> rows;
  std::vector<int32_t> targets;
  for (size_t t = 0; t < batch_.targets.size(); ++t) {
    if (batch_.targets[t] < 0) continue;
    rows.push_back(static_cast<int32_t>(t));
    targets.push_back(batch_.targets[t]);
  }
  if (gradient) {
    gradient_ = Take(c_.config.hidden_size);
    gradient_.zero_();
  }
  if (rows.empty()) return {};
  const auto n = static_cast<int64_t>(rows.size());
  ArenaScope scope(c_.arena);
  const at::Tensor index = IndexTensor(rows, x_.device());
  at::Tensor x = c_.arena.Take({n, c_.config.hidden_size}, type_);
  at::index_select_out(x, x_, 0, index);
  const at::Tensor hidden = c_.arena.Take(x.sizes(), type_);
  const at::Tensor rstd = c_.arena.Take({n}, at::kFloat);
  RmsNorm(x, c_.weights.final_norm, c_.config.rms_norm_eps, hidden, rstd);
  const at::Tensor d_hidden = gradient ? c_.arena.Take(x.sizes(), type_) : at::Tensor();
  std::vector<float> nll = HeadLoss(hidden, c_.weights.head, targets, scale, d_hidden, c_.arena);
  if (gradient) {
    const at::Tensor dx = hidden;  // no longer needed
    RmsNormBackward(d_hidden, x, c_.weights.final_norm, rstd, dx, /*accumulate=*/false);
    gradient_.index_copy_(0, index.to(at::kLong), dx);
  }
  return nll;
}

at::Tensor Pass::ProjectBackward(size_t layer, int group, const at::Tensor& dy, const at::Tensor& dx) {
  const auto g = static_cast<size_t>(group);
  const SideAdapter& side = c_.sides[layer][g];
  if (dx.defined()) MatMulNN(dx, dy, {c_.weights.layers[layer].groups[g].weight, side.folded()}, false);
  if (side.empty()) return {};
  at::Tensor ds = Take(side.rank());
  side.BackwardInput(dy, saved_[layer].s[g], ds, dx, c_.arena, Dropout(layer, group));
  return ds;
}

void Pass::FactorGradients(size_t layer, int group, const at::Tensor& ds, const at::Tensor& x) {
  const SideAdapter& side = c_.sides[layer][static_cast<size_t>(group)];
  if (side.trained()) side.BackwardFactors(ds, x, c_.arena, Dropout(layer, group));
}

void Pass::BackwardLayer(size_t index) {
  const LayerWeights& w = c_.weights.layers[index];
  const ModelConfig& config = c_.config;
  const Saved& s = saved_[index];
  ArenaScope scope(c_.arena);
  const at::Tensor h = Take(config.hidden_size);
  const at::Tensor dh = Take(config.hidden_size);
  const at::Tensor scratch_rstd = c_.arena.Take({tokens_}, at::kFloat);
  const auto wanted = [&](int group, const at::Tensor& dx) {
    return NeedsInputGradient(index, group) ? dx : at::Tensor();
  };

  // SwigluBackward turns d_activation back into the activation, the input of down_proj; it also runs where no gradient
  // goes further.
  const at::Tensor d_activation = Take(config.intermediate_size);
  const bool past_down = NeedsInputGradient(index, kDown);
  if (!past_down) d_activation.zero_();
  at::Tensor ds = ProjectBackward(index, kDown, gradient_, wanted(kDown, d_activation));
  SwigluBackward(s.gate_up, d_activation);
  FactorGradients(index, kDown, ds, d_activation);
  if (!past_down) return;

  ds = ProjectBackward(index, kGateUp, s.gate_up, wanted(kGateUp, dh));
  RmsNorm(s.middle, w.mlp_norm, config.rms_norm_eps, h, scratch_rstd);
  FactorGradients(index, kGateUp, ds, h);
  if (!NeedsInputGradient(index, kGateUp)) return;
  RmsNormBackward(dh, s.middle, w.mlp_norm, s.rstd_mlp, gradient_, /*accumulate=*/true);

  const at::Tensor d_o = Take(config.num_heads * config.head_dim);
  ds = ProjectBackward(index, kOut, gradient_, wanted(kOut, d_o));
  FactorGradients(index, kOut, ds, s.o);
  if (!NeedsInputGradient(index, kOut)) return;

  const at::Tensor dqkv = Take(shape_.width());
  AttentionBackward(shape_, batch_.starts, s.qkv, s.o, s.lse, d_o, dqkv);
  Rope(dqkv, config.num_heads + config.num_kv_heads, config.head_dim, cos_, sin_, /*inverse=*/true);
  ds = ProjectBackward(index, kQkv, dqkv, wanted(kQkv, dh));
  RmsNorm(s.x, w.attention_norm, config.rms_norm_eps, h, scratch_rstd);
  FactorGradients(index, kQkv, ds, h);
  if (NeedsInputGradient(index, kQkv))
    RmsNormBackward(dh, s.x, w.attention_norm, s.rstd_attention, gradient_, /*accumulate=*/true);
}

void Pass::Backward() {
  for (size_t l = saved_.size(); l-- > first_layer_;) {
    ArenaScope scope(c_.arena);
    if (c_.recompute) {
      x_ = saved_[l].x;
      has_delta_ = false;
      ForwardLayer(l, Keep::kAll);
    }
    BackwardLayer(l);
  }
}

}  // namespace strata::model
