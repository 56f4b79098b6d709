// Causal attention inside each document of a packed batch.
#ifndef STRATA_CLIENT_MODEL_ATTENTION_H_
#define STRATA_CLIENT_MODEL_ATTENTION_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace strata::model {

struct AttentionShape {
  int64_t num_heads = 0, num_kv_heads = 0, head_dim = 0;
  double scale = 1;    // of the scores
  int64_t window = 0;  // tokens that one attends to, itself included; 0: all before it
  double softcap = 0;  // > 0: a scaled score counts as softcap * tanh(score / softcap)
  int64_t width() const { return (num_heads + 2 * num_kv_heads) * head_dim; }
};

// Document i of a batch is rows [starts[i], starts[i + 1]).
struct Documents {
  const std::vector<int32_t>& starts;
  at::Tensor on_device;  // the same and the end once more, int32: an empty document; undefined on the CPU
  int64_t longest = 0;   // where there is a device: an upper bound of the lengths
};
// Whether documents are read from the device alone, all at once.
bool ReadsDocumentsOnDevice(const AttentionShape& shape, at::ScalarType type, at::Device device);

// qkv [tokens, width] holds the turned q heads, the turned k heads and the v heads of each token; o [tokens, num_heads
// * head_dim]. Softmax in fp32. lse fp32 [num_heads, tokens] is what
// Backward needs of the softmax. Memory grows with a document's length, not with its square.
void Attention(const AttentionShape& shape, const Documents& documents, const at::Tensor& qkv, const at::Tensor& o,
               const at::Tensor& lse);
// Of one document's last tokens alone: q [n, num_heads * head_dim], o like it, lse [num_heads, n]; k and v [m,
// num_kv_heads
// * head_dim] of all its tokens, m >= n.
void AttentionOfLast(const AttentionShape& shape, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const at::Tensor& o, const at::Tensor& lse);
// dqkv [tokens, width] from d o.
void AttentionBackward(const AttentionShape& shape, const Documents& documents, const at::Tensor& qkv,
                       const at::Tensor& o, const at::Tensor& lse, const at::Tensor& d_o, const at::Tensor& dqkv);

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_ATTENTION_H_
