// Keys and values of tokens that went through a transformer: later tokens of the same sequences attend to them instead
// of computing them again.
#ifndef STRATA_CLIENT_MODEL_KV_CACHE_H_
#define STRATA_CLIENT_MODEL_KV_CACHE_H_

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "client/model/attention.h"
#include "client/model/model_files.h"

namespace strata::model {

// Not thread-safe.
class KvCache {
 public:
  struct Size {
    size_t num_sequences = 0;
    int64_t capacity = 0;  // tokens of each
  };
  // All sequences are empty. The memory is taken at once, and touched as tokens come; `type`: of keys and values.
  KvCache(const ModelConfig& config, const Size& size, at::ScalarType type, at::Device device);

  size_t num_sequences() const { return lengths_.size(); }
  int64_t capacity() const { return memory_.size(2); }
  int64_t length(size_t sequence) const { return lengths_[sequence]; }
  void Clear(size_t sequence) { lengths_[sequence] = 0; }

 private:
  friend class CachedRows;

  at::Tensor memory_;  // [layers, sequences, capacity, k and v of a token]
  std::vector<int64_t> lengths_;
};

// Documents of a packed batch as what follows in cached sequences: document i in sequences[i]. Several may follow the
// same one, each as if it were alone: only the last stays when they are kept.
// REQUIRES: every document has room in its sequence.
class CachedRows {
 public:
  // `cache` is borrowed.
  CachedRows(KvCache& cache, std::vector<size_t> sequences) : cache_(&cache), sequences_(std::move(sequences)) {}

  // model::Attention over what is cached and the document itself, whose keys and values are written behind it.
  void Attention(size_t layer, const AttentionShape& shape, const std::vector<int32_t>& starts, const at::Tensor& qkv,
                 const at::Tensor& o, const at::Tensor& lse) const;
  // After the last layer: the documents become part of their sequences.
  void Keep(const std::vector<int32_t>& starts) const;

 private:
  KvCache* cache_;
  std::vector<size_t> sequences_;
};

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_KV_CACHE_H_
