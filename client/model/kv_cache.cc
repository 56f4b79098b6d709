#include "client/model/kv_cache.h"

#include <ATen/ATen.h>

#include "client/model/arena.h"

namespace strata::model {

KvCache::KvCache(const ModelConfig& config, const Size& size, at::ScalarType type, at::Device device)
    : lengths_(size.num_sequences) {
  const std::vector<int64_t> shape = {config.num_layers, static_cast<int64_t>(size.num_sequences), size.capacity,
                                      2 * config.num_kv_heads * config.head_dim};
  size_t bytes = c10::elementSize(type);
  for (const int64_t dimension : shape) bytes *= static_cast<size_t>(dimension);
  memory_ = AllocateBytes(bytes, device).view(type).view(shape);
}

void CachedRows::Attention(size_t layer, const AttentionShape& shape, const std::vector<int32_t>& starts,
                           const at::Tensor& qkv, const at::Tensor& o, const at::Tensor& lse) const {
  const int64_t queries = shape.num_heads * shape.head_dim;
  const int64_t keys = shape.num_kv_heads * shape.head_dim;
  for (size_t i = 0; i < sequences_.size(); ++i) {
    const int64_t n = starts[i + 1] - starts[i];
    const int64_t length = cache_->lengths_[sequences_[i]];
    const at::Tensor rows = qkv.narrow(0, starts[i], n);
    const at::Tensor all =
        cache_->memory_[static_cast<int64_t>(layer)][static_cast<int64_t>(sequences_[i])].narrow(0, 0, length + n);
    all.narrow(0, length, n).copy_(rows.narrow(1, queries, 2 * keys));
    AttentionOfLast(shape, rows.narrow(1, 0, queries), all.narrow(1, 0, keys), all.narrow(1, keys, keys),
                    o.narrow(0, starts[i], n), lse.narrow(1, starts[i], n));
  }
}

void CachedRows::Keep(const std::vector<int32_t>& starts) const {
  for (size_t i = 0; i < sequences_.size(); ++i) {
    cache_->lengths_[sequences_[i]] += starts[i + 1] - starts[i];
  }
}

}  // namespace strata::model
