#include "client/model/attention.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "client/model/arena.h"
#include "client/model/gemm.h"
#include "client/model/ops.h"
#include "kernels/ops.h"
#ifdef STRATA_CUDA
#include <ATen/cuda/CUDAContext.h>

#include "client/model/cuda_launch.h"
#include "kernels/cuda_ops.h"
#endif

namespace strata::model {
namespace {

// Queries at once where scores or a mask are laid out.
constexpr int64_t kFewestQueries = 64;
constexpr int64_t kMostQueries = 512;

// Views of a document: [kv heads, query heads per kv head, tokens, head_dim]. The kv heads stand in the batch
// dimension, so that a group shares its k and v without copies. q holds the last tokens, or all.
struct Views {
  at::Tensor q, k, v;
  int64_t first_query() const { return k.size(2) - q.size(2); }
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

// Queries [first, first + rows) of a document, which see keys of [first_key, first + rows).
struct Span {
  int64_t first = 0, rows = 0, first_key = 0;
  int64_t keys() const { return first + rows - first_key; }
  Views Of(const Views& views) const {
    return {.q = views.q.narrow(2, first - views.first_query(), rows),
            .k = views.k.narrow(2, first_key, keys()),
            .v = views.v.narrow(2, first_key, keys())};
  }
};

bool ThroughFlash(const AttentionShape& s, const at::Tensor& qkv) { return qkv.is_cpu() && s.softcap == 0; }

// A document's queries in one span where a kernel takes them and only causality bounds them, else in spans that skip
// the keys before the window.
std::vector<Span> Spans(const AttentionShape& s, const Views& views) {
  const int64_t n = views.k.size(2);
  const int64_t first_query = views.first_query();
  const bool bounded = s.window > 0 && s.window < n;
  if (!bounded && ThroughFlash(s, views.q)) return {{.first = first_query, .rows = n - first_query, .first_key = 0}};
  const int64_t step = bounded ? std::clamp(s.window, kFewestQueries, kMostQueries) : kMostQueries;
  std::vector<Span> spans;
  for (int64_t first = first_query; first < n; first += step) {
    const int64_t first_key = bounded ? std::max<int64_t>(first - s.window + 1, 0) : 0;
    spans.push_back({.first = first, .rows = std::min(step, n - first), .first_key = first_key});
  }
  return spans;
}

// fp32 [queries, keys]: 0, or -inf where a key lies after the query or before its window.
at::Tensor Mask(const AttentionShape& s, const Span& span, const at::TensorOptions& options) {
  const int64_t offset = span.first - span.first_key;  // of the first query's own key
  at::Tensor seen = at::ones({span.rows, span.keys()}, options.dtype(at::kBool)).tril(offset);
  if (s.window > 0) seen = seen.triu(offset - s.window + 1);
  return at::full(seen.sizes(), -INFINITY, options.dtype(at::kFloat)).masked_fill_(seen, 0);
}

kernels::AttentionShape KernelShape(const AttentionShape& s) {
  return {.heads = s.num_heads,
          .kv_heads = s.num_kv_heads,
          .head_dim = s.head_dim,
          .scale = static_cast<float>(s.scale),
          .window = s.window,
          .softcap = static_cast<float>(s.softcap)};
}

kernels::Documents DocumentsOf(const std::vector<int32_t>& starts) {
  return {.starts = starts.data(), .count = static_cast<int64_t>(starts.size()) - 1};
}

kernels::AttentionResult ResultOf(const at::Tensor& o, const at::Tensor& lse) {
  return {.o = RowsOf(o), .lse = lse.mutable_data_ptr<float>(), .lse_stride = lse.stride(0)};
}

// What ATen's flash kernel for the CPU is told beside the tensors.
struct FlashOptions {
  bool causal = true;
  std::optional<at::Tensor> mask;
};

FlashOptions FlashOptionsOf(const AttentionShape& s, const Span& span, const at::TensorOptions& options) {
  if (span.rows == 1) return {.causal = false, .mask = std::nullopt};
  if (span.keys() == span.rows && (s.window == 0 || s.window >= span.rows)) return {};
  return {.causal = false, .mask = Mask(s, span, options)};
}

// The scores as they count before the mask, and the probabilities; fp32.
struct Softmax {
  at::Tensor scores, probabilities;
};

Softmax Composed(const AttentionShape& s, const Span& span, const Views& views) {
  Softmax out;
  out.scores = at::matmul(views.q.to(at::kFloat), views.k.to(at::kFloat).transpose(-1, -2)).mul_(s.scale);
  if (s.softcap > 0) out.scores.div_(s.softcap).tanh_().mul_(s.softcap);
  out.probabilities = at::softmax(out.scores + Mask(s, span, out.scores.options()), -1);
  return out;
}

// Gradients of q, and of k and v summed over the query heads that share them.
Views ComposedBackward(const AttentionShape& s, const Span& span, const Views& views, const at::Tensor& d_out) {
  const Softmax softmax = Composed(s, span, views);
  const at::Tensor& p = softmax.probabilities;
  const at::Tensor g = d_out.to(at::kFloat);
  const at::Tensor dp = at::matmul(g, views.v.to(at::kFloat).transpose(-1, -2));
  at::Tensor ds = p * (dp - (dp * p).sum(-1, /*keepdim=*/true)) * s.scale;
  if (s.softcap > 0) ds.mul_(1 - (softmax.scores / s.softcap).square());
  return {.q = at::matmul(ds, views.k.to(at::kFloat)),
          .k = at::matmul(ds.transpose(-1, -2), views.q.to(at::kFloat)).sum(1, /*keepdim=*/true),
          .v = at::matmul(p.transpose(-1, -2), g).sum(1, /*keepdim=*/true)};
}

struct Flash {
  at::Tensor out, lse;  // lse [num_heads, queries]
};

Views FlashBackward(const AttentionShape& s, const Span& span, const Views& views, const at::Tensor& d_out,
                    const Flash& forward) {
  const FlashOptions options = FlashOptionsOf(s, span, views.q.options());
  const auto shared = [&](const at::Tensor& t) { return t.expand({-1, views.q.size(1), -1, -1}); };
  const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
      d_out, views.q, shared(views.k), shared(views.v), forward.out,
      forward.lse.unflatten(0, {s.num_kv_heads, -1}).contiguous(), 0.0, options.causal, options.mask, s.scale);
  return {.q = dq, .k = at::sum(dk, {1}, /*keepdim=*/true, at::kFloat), .v = at::sum(dv, {1}, true, at::kFloat)};
}

void SpanForward(const AttentionShape& s, const Span& span, const Views& views, const Flash& result) {
  if (!ThroughFlash(s, views.q)) {
    result.out.copy_(at::matmul(Composed(s, span, views).probabilities, views.v.to(at::kFloat)));
    return;
  }
  const FlashOptions options = FlashOptionsOf(s, span, views.q.options());
  const auto shared = [&](const at::Tensor& t) { return t.expand({-1, views.q.size(1), -1, -1}); };
  const auto [value, log_sum] = at::_scaled_dot_product_flash_attention_for_cpu(
      views.q, shared(views.k), shared(views.v), 0.0, options.causal, options.mask, s.scale);
  result.out.copy_(value);
  result.lse.copy_(log_sum.reshape(result.lse.sizes()));
}

void Forward(const AttentionShape& s, const Views& views, const Flash& result) {
  for (const Span& span : Spans(s, views)) {
    const int64_t row = span.first - views.first_query();
    SpanForward(s, span, span.Of(views), {result.out.narrow(2, row, span.rows), result.lse.narrow(1, row, span.rows)});
  }
}

// Writes `grads` from d_out. Keys that several spans see: their gradients add up in fp32.
void BackwardDocument(const AttentionShape& s, const Views& views, const Flash& forward, const at::Tensor& d_out,
                      const Views& grads) {
  const std::vector<Span> spans = Spans(s, views);
  Views sums;
  for (const Span& span : spans) {
    const at::Tensor d = d_out.narrow(2, span.first, span.rows);
    const Flash part{forward.out.narrow(2, span.first, span.rows), forward.lse.narrow(1, span.first, span.rows)};
    Views own = ThroughFlash(s, views.q) ? FlashBackward(s, span, span.Of(views), d, part)
                                         : ComposedBackward(s, span, span.Of(views), d);
    grads.q.narrow(2, span.first, span.rows).copy_(own.q);
    if (spans.size() == 1) {
      sums = std::move(own);
      continue;
    }
    if (!sums.k.defined()) {
      sums.k = at::zeros(views.k.sizes(), own.k.options());
      sums.v = at::zeros_like(sums.k);
    }
    sums.k.narrow(2, span.first_key, span.keys()).add_(own.k);
    sums.v.narrow(2, span.first_key, span.keys()).add_(own.v);
  }
  grads.k.copy_(sums.k);
  grads.v.copy_(sums.v);
}

// LibTorch's flash kernels for CUDA: all documents at once, k and v shared between heads.
constexpr int64_t kMostFlashDim = 256;

// [tokens, heads, head_dim].
Views HeadsOfTokens(const AttentionShape& s, const at::Tensor& rows) {
  const int64_t q = s.num_heads * s.head_dim;
  const int64_t kv = s.num_kv_heads * s.head_dim;
  return {.q = rows.narrow(1, 0, q).unflatten(1, {s.num_heads, s.head_dim}),
          .k = rows.narrow(1, q, kv).unflatten(1, {s.num_kv_heads, s.head_dim}),
          .v = rows.narrow(1, q + kv, kv).unflatten(1, {s.num_kv_heads, s.head_dim})};
}

// How many tokens before itself one attends to, as the kernels take it.
std::optional<int64_t> TokensBefore(const AttentionShape& s) {
  return s.window > 0 ? std::optional<int64_t>(s.window - 1) : std::nullopt;
}
std::optional<int64_t> TokensBehind(const AttentionShape& s) {
  return s.window > 0 ? std::optional<int64_t>(0) : std::nullopt;
}

void CudaFlash(const AttentionShape& s, const Documents& documents, const at::Tensor& qkv, const at::Tensor& o,
               const at::Tensor& lse) {
  const Views views = HeadsOfTokens(s, qkv);
  const auto result = at::_flash_attention_forward(
      views.q, views.k, views.v, documents.on_device, documents.on_device, documents.longest, documents.longest,
      /*dropout_p=*/0.0, /*is_causal=*/true, /*return_debug_mask=*/false, s.scale, TokensBefore(s), TokensBehind(s));
  CopyRows(std::get<0>(result).flatten(1), o);
  lse.copy_(std::get<1>(result).view_as(lse));
}

// LibTorch's backward kernel adds dq up in any order unless it is told otherwise.
class InOneOrder {
 public:
  InOneOrder()
      : before_(at::globalContext().deterministicAlgorithms()),
        fills_(at::globalContext().deterministicFillUninitializedMemory()) {
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
    at::globalContext().setDeterministicFillUninitializedMemory(false);
  }
  ~InOneOrder() {
    at::globalContext().setDeterministicAlgorithms(before_, /*warn_only=*/false);
    at::globalContext().setDeterministicFillUninitializedMemory(fills_);
  }
  InOneOrder(const InOneOrder&) = delete;
  InOneOrder& operator=(const InOneOrder&) = delete;

 private:
  bool before_, fills_;
};

void CudaFlashBackward(const AttentionShape& s, const Documents& documents, const at::Tensor& qkv, const Flash& forward,
                       const at::Tensor& d_o, const at::Tensor& dqkv) {
  const InOneOrder in_one_order;
  const Views views = HeadsOfTokens(s, qkv);
  const auto heads = [&](const at::Tensor& rows) { return rows.unflatten(1, {s.num_heads, s.head_dim}); };
  const at::Tensor unused = at::empty({2}, qkv.options().dtype(at::kUInt64));  // the state of a dropout that is off
  const auto [dq, dk, dv] = at::_flash_attention_backward(
      heads(d_o), views.q, views.k, views.v, heads(forward.out), forward.lse, documents.on_device, documents.on_device,
      documents.longest, documents.longest, /*dropout_p=*/0.0, /*is_causal=*/true, unused, unused, s.scale,
      TokensBefore(s), TokensBehind(s));
  int64_t first = 0;
  for (const at::Tensor& part : {dq.flatten(1), dk.flatten(1), dv.flatten(1)}) {
    CopyRows(part, dqkv.narrow(1, first, part.size(1)));
    first += part.size(1);
  }
}

// Which code computes a batch's attention.
enum class Route {
  kProcessor,  // kernels/ops.h
  kFlash,      // LibTorch's for CUDA
  kDevice,     // kernels/cuda_ops.h
  kComposed,   // document by document of LibTorch's other ops, its flash kernel for the CPU among them
};

Route RouteOf(const AttentionShape& s, at::ScalarType type, at::Device device) {
  if (TakesColumns(type, device)) return Route::kProcessor;
  if (!device.is_cuda()) return Route::kComposed;
  bool flash = type != at::kFloat && s.softcap == 0 && s.head_dim % 8 == 0 && s.head_dim <= kMostFlashDim;
#ifdef STRATA_CUDA
  const int major = at::cuda::getDeviceProperties(device.index())->major;
  const bool recent = major >= 8;
  flash = flash && recent;
  const kernels::Rows qkv = {.type = TypeOf(type), .stride = s.width()};
  if (kernels::cuda::HasHopperAttention(KernelShape(s), qkv, major)) return Route::kDevice;
  if (!flash && (recent || type != at::kBFloat16) && kernels::cuda::TakesAttention(KernelShape(s), qkv))
    return Route::kDevice;
#endif
  return flash ? Route::kFlash : Route::kComposed;
}

#ifdef STRATA_CUDA
kernels::cuda::DeviceDocuments OnDevice(const Documents& documents) {
  return {.starts = documents.on_device.const_data_ptr<int32_t>(),
          .count = documents.on_device.size(0) - 1,
          .longest = documents.longest};
}
#endif

}  // namespace

bool ReadsDocumentsOnDevice(const AttentionShape& shape, at::ScalarType type, at::Device device) {
  const Route route = RouteOf(shape, type, device);
  return route == Route::kFlash || route == Route::kDevice;
}

void Attention(const AttentionShape& shape, const Documents& documents, const at::Tensor& qkv, const at::Tensor& o,
               const at::Tensor& lse) {
  const std::vector<int32_t>& starts = documents.starts;
  const Route route = RouteOf(shape, qkv.scalar_type(), qkv.device());
  if (route == Route::kFlash) return CudaFlash(shape, documents, qkv, o, lse);
#ifdef STRATA_CUDA
  if (route == Route::kDevice) {
    return Launch(qkv, [&](void* stream) {
      return kernels::cuda::Attention(KernelShape(shape), OnDevice(documents), RowsOf(qkv), ResultOf(o, lse), stream);
    });
  }
#endif
  if (route == Route::kProcessor) {
    const kernels::AttentionShape s = KernelShape(shape);
    const int threads = at::get_num_threads();
    void* workspace = Workspace(kernels::AttentionWorkspace(s, DocumentsOf(starts), /*backward=*/false, threads));
    return kernels::Attention(s, DocumentsOf(starts), RowsOf(qkv), ResultOf(o, lse), workspace, threads);
  }
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    const int64_t n = starts[i + 1] - starts[i];
    if (n == 0) continue;
    Forward(shape, Split(shape, qkv.narrow(0, starts[i], n)),
            {Heads(o.narrow(0, starts[i], n), shape.num_kv_heads, shape.head_dim), lse.narrow(1, starts[i], n)});
  }
}

void AttentionOfLast(const AttentionShape& shape, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const at::Tensor& o, const at::Tensor& lse) {
  const auto heads = [&](const at::Tensor& rows) { return Heads(rows, shape.num_kv_heads, shape.head_dim); };
  Forward(shape, {.q = heads(q), .k = heads(k), .v = heads(v)}, {heads(o), lse});
}

void AttentionBackward(const AttentionShape& shape, const Documents& documents, const at::Tensor& qkv,
                       const at::Tensor& o, const at::Tensor& lse, const at::Tensor& d_o, const at::Tensor& dqkv) {
  const std::vector<int32_t>& starts = documents.starts;
  const Route route = RouteOf(shape, qkv.scalar_type(), qkv.device());
  if (route == Route::kFlash) return CudaFlashBackward(shape, documents, qkv, {o, lse}, d_o, dqkv);
#ifdef STRATA_CUDA
  if (route == Route::kDevice) {
    const at::Tensor delta = at::empty(lse.sizes(), lse.options());
    return Launch(qkv, [&](void* stream) {
      return kernels::cuda::AttentionBackward(
          KernelShape(shape), OnDevice(documents),
          {.qkv = RowsOf(qkv), .forward = ResultOf(o, lse), .d_o = RowsOf(d_o), .dqkv = RowsOf(dqkv)},
          delta.mutable_data_ptr<float>(), stream);
    });
  }
#endif
  if (route == Route::kProcessor) {
    const kernels::AttentionShape s = KernelShape(shape);
    const int threads = at::get_num_threads();
    void* workspace = Workspace(kernels::AttentionWorkspace(s, DocumentsOf(starts), /*backward=*/true, threads));
    return kernels::AttentionBackward(
        s, DocumentsOf(starts),
        {.qkv = RowsOf(qkv), .forward = ResultOf(o, lse), .d_o = RowsOf(d_o), .dqkv = RowsOf(dqkv)}, workspace,
        threads);
  }
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    const int64_t n = starts[i + 1] - starts[i];
    if (n == 0) continue;
    const auto document = [&](const at::Tensor& rows) { return rows.narrow(0, starts[i], n); };
    const Flash forward{Heads(document(o), shape.num_kv_heads, shape.head_dim), lse.narrow(1, starts[i], n)};
    BackwardDocument(shape, Split(shape, document(qkv)), forward,
                     Heads(document(d_o), shape.num_kv_heads, shape.head_dim), Split(shape, document(dqkv)));
  }
}

}  // namespace strata::model
