#include "client/model/attention.h"

#include <ATen/ATen.h>

#include <cmath>

namespace strata::model {
namespace {

// One document's views: [kv heads, query heads per kv head, tokens, head_dim]. The kv heads stand in the batch
// dimension, so that a group shares its k and v without copies.
struct Views {
  at::Tensor q, k, v;
};

at::Tensor Heads(const at::Tensor& rows, int64_t kv_heads, int64_t head_dim) {
  return rows.unflatten(1, {kv_heads, rows.size(1) / (kv_heads * head_dim), head_dim}).permute({1, 2, 0, 3});
}

Views Split(const AttentionShape& s, const at::Tensor& rows) {
  const int64_t q = s.num_heads * s.head_dim;
  const int64_t kv = s.num_kv_heads * s.head_dim;
  return {.q = Heads(rows.narrow(1, 0, q), s.num_kv_heads, s.head_dim),
          .k = Heads(rows.narrow(1, q, kv), s.num_kv_heads, s.head_dim),
          .v = Heads(rows.narrow(1, q + kv, kv), s.num_kv_heads, s.head_dim)};
}

// Probabilities in fp32, for devices without the flash kernels that we call.
at::Tensor Probabilities(const Views& views) {
  const int64_t n = views.q.size(2);
  const double scale = 1 / std::sqrt(static_cast<double>(views.q.size(3)));
  const at::Tensor scores = at::matmul(views.q.to(at::kFloat), views.k.to(at::kFloat).transpose(-1, -2)) * scale;
  const at::Tensor future = at::ones({n, n}, scores.options().dtype(at::kBool)).triu(1);
  return at::softmax(scores.masked_fill(future, -INFINITY), -1);
}

}  // namespace

void Attention(const AttentionShape& shape, const std::vector<int32_t>& starts, const at::Tensor& qkv,
               const at::Tensor& o, const at::Tensor& lse) {
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    const int64_t n = starts[i + 1] - starts[i];
    if (n == 0) continue;
    const Views views = Split(shape, qkv.narrow(0, starts[i], n));
    const at::Tensor out = Heads(o.narrow(0, starts[i], n), shape.num_kv_heads, shape.head_dim);
    if (!qkv.is_cpu()) {
      out.copy_(at::matmul(Probabilities(views), views.v.to(at::kFloat)));
      continue;
    }
    const auto expanded = views.q.sizes();
    const auto [value, log_sum] = at::_scaled_dot_product_flash_attention_for_cpu(views.q, views.k.expand(expanded),
                                                                                  views.v.expand(expanded), 0.0, true);
    out.copy_(value);
    lse.narrow(1, starts[i], n).copy_(log_sum.reshape({shape.num_heads, n}));
  }
}

void AttentionBackward(const AttentionShape& shape, const std::vector<int32_t>& starts, const at::Tensor& qkv,
                       const at::Tensor& o, const at::Tensor& lse, const at::Tensor& d_o, const at::Tensor& dqkv) {
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    const int64_t n = starts[i + 1] - starts[i];
    if (n == 0) continue;
    const Views views = Split(shape, qkv.narrow(0, starts[i], n));
    const Views grads = Split(shape, dqkv.narrow(0, starts[i], n));
    const at::Tensor out = Heads(o.narrow(0, starts[i], n), shape.num_kv_heads, shape.head_dim);
    const at::Tensor d_out = Heads(d_o.narrow(0, starts[i], n), shape.num_kv_heads, shape.head_dim);
    if (!qkv.is_cpu()) {
      const at::Tensor p = Probabilities(views);
      const at::Tensor g = d_out.to(at::kFloat);
      const at::Tensor dp = at::matmul(g, views.v.to(at::kFloat).transpose(-1, -2));
      const at::Tensor ds =
          p * (dp - (dp * p).sum(-1, /*keepdim=*/true)) / std::sqrt(static_cast<double>(shape.head_dim));
      grads.v.copy_(at::matmul(p.transpose(-1, -2), g).sum(1, /*keepdim=*/true));
      grads.q.copy_(at::matmul(ds, views.k.to(at::kFloat)));
      grads.k.copy_(at::matmul(ds.transpose(-1, -2), views.q.to(at::kFloat)).sum(1, /*keepdim=*/true));
      continue;
    }
    const auto expanded = views.q.sizes();
    const at::Tensor log_sum = lse.narrow(1, starts[i], n).unflatten(0, {shape.num_kv_heads, -1}).contiguous();
    const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
        d_out, views.q, views.k.expand(expanded), views.v.expand(expanded), out, log_sum, 0.0, true);
    grads.q.copy_(dq);
    grads.k.copy_(at::sum(dk, {1}, /*keepdim=*/true, at::kFloat));
    grads.v.copy_(at::sum(dv, {1}, /*keepdim=*/true, at::kFloat));
  }
}

}  // namespace strata::model
