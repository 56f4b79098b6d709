#include "kernels/ops.h"

#include <omp.h>

#include <algorithm>
#include <vector>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/factor_ops.h"
#include "kernels/cpu/mat_mul.h"
#include "kernels/cpu/row_ops.h"
#include "kernels/cpu/widen.h"

namespace strata::kernels {
namespace {

struct Variant {
  const RowOps& rows;
  const MatMulOps& mat_mul;
  const AttentionOps& attention;
  const FactorOps& factors;
};

Variant Choose() {
  if (__builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512vl") != 0 &&
      __builtin_cpu_supports("avx512dq") != 0) {
    if (__builtin_cpu_supports("avx512bf16") != 0)
      return {.rows = Avx512RowOps(),
              .mat_mul = Avx512Bf16MatMulOps(),
              .attention = Avx512Bf16AttentionOps(),
              .factors = Avx512Bf16FactorOps()};
    return {.rows = Avx512RowOps(),
            .mat_mul = Avx512MatMulOps(),
            .attention = Avx512AttentionOps(),
            .factors = Avx512FactorOps()};
  }
  if (__builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0)
    return {
        .rows = Avx2RowOps(), .mat_mul = Avx2MatMulOps(), .attention = Avx2AttentionOps(), .factors = Avx2FactorOps()};
  return {.rows = BaselineRowOps(),
          .mat_mul = BaselineMatMulOps(),
          .attention = BaselineAttentionOps(),
          .factors = BaselineFactorOps()};
}

const Variant& Chosen() {
  static const Variant chosen = Choose();
  return chosen;
}

const RowOps& Table() { return Chosen().rows; }

// Splits [0, count) into one contiguous range per thread. Ranges are multiples of `grain`, so small jobs stay on few
// threads.
template <typename F>
void Ranges(int64_t count, int64_t grain, int threads, const F& work) {
  const int64_t parts = std::clamp<int64_t>((count + grain - 1) / grain, 1, std::max(threads, 1));
  if (parts == 1) {
    work(int64_t{0}, count);
    return;
  }
#pragma omp parallel for num_threads(parts) schedule(static)
  for (int64_t part = 0; part < parts; ++part) work(count * part / parts, count * (part + 1) / parts);
}

// work(i, thread) for each i in [0, count), handed out as threads come free.
template <typename F>
void Dynamic(int64_t count, int threads, const F& work) {
#pragma omp parallel for num_threads(std::max(threads, 1)) schedule(dynamic, 1) if (threads > 1 && count > 1)
  for (int64_t i = 0; i < count; ++i) work(i, omp_get_thread_num());
}

int64_t AlignedFloats(int64_t count) { return (count + 15) / 16 * 16; }

constexpr int64_t kRowGrain = 16;
constexpr int64_t kBlock = 16384;  // of SumSquares: fixed, so that the order of additions never depends on the threads

int64_t NumTokens(const Documents& documents) { return documents.starts[documents.count]; }

int64_t Longest(const Documents& documents) {
  int64_t longest = 0;
  for (int64_t i = 0; i < documents.count; ++i)
    longest = std::max<int64_t>(longest, documents.starts[i + 1] - documents.starts[i]);
  return longest;
}

int64_t HeadFloats(const AttentionShape& shape, const Documents& documents) {
  return AlignedFloats(shape.heads * NumTokens(documents) * shape.head_dim);
}

// work(task, the thread's own memory) for each head of each document.
template <typename F>
void ForEachHead(const AttentionShape& shape, const Documents& documents, bool backward, float* memory, int threads,
                 const F& work) {
  const int64_t own = AlignedFloats(Chosen().attention.scratch_floats(shape, Longest(documents), backward));
  Dynamic(documents.count * shape.heads, threads, [&](int64_t i, int thread) {
    const int64_t first = documents.starts[i / shape.heads];
    const AttentionTask task = {
        .first = first, .length = documents.starts[i / shape.heads + 1] - first, .head = i % shape.heads};
    work(task, memory + thread * own);
  });
}

// out[kv head, :] = sum over the query heads that share it, in order.
template <typename X>
void SumGroups(const AttentionShape& shape, const float* heads, int64_t head_stride, X* out) {
  const int64_t group = shape.heads / shape.kv_heads;
  constexpr int64_t kAtOnce = 32;
  for (int64_t first = 0; first < shape.heads; first += group, heads += group * head_stride, out += shape.head_dim) {
    for (int64_t begin = 0; begin < shape.head_dim; begin += kAtOnce) {
      const int64_t count = std::min(kAtOnce, shape.head_dim - begin);
      float sum[kAtOnce];
      std::copy_n(heads + begin, count, sum);
      for (int64_t h = 1; h < group; ++h) {
        const float* in = heads + h * head_stride + begin;
        for (int64_t i = 0; i < count; ++i) sum[i] += in[i];
      }
      for (int64_t i = 0; i < count; ++i) out[begin + i] = Narrow<X>(sum[i]);
    }
  }
}

// The gradients of token t's keys and values; `heads` lie head_stride apart.
template <typename X>
void SumHeads(const AttentionShape& shape, const float* dk, const float* dv, int64_t head_stride, int64_t t,
              const Rows& dqkv) {
  const int64_t dim = shape.head_dim;
  X* row = static_cast<X*>(dqkv.data) + t * dqkv.stride + shape.heads * dim;
  SumGroups(shape, dk + t * dim, head_stride, row);
  SumGroups(shape, dv + t * dim, head_stride, row + shape.kv_heads * dim);
}

}  // namespace

int64_t MatMulWorkspace(const Product& product, int threads) {
  const MatMulPlan plan = Chosen().mat_mul.plan(product, threads);
  return (AlignedFloats(plan.packed_floats) + std::max(threads, 1) * AlignedFloats(plan.scratch_floats)) *
         static_cast<int64_t>(sizeof(float));
}

void MatMul(const Product& product, void* workspace, int threads) {
  const MatMulOps& ops = Chosen().mat_mul;
  const MatMulPlan plan = ops.plan(product, threads);
  auto* packed = static_cast<float*>(workspace);
  float* scratch = packed + AlignedFloats(plan.packed_floats);
  const int64_t own = AlignedFloats(plan.scratch_floats);
  if (plan.packs > 0) {
    Ranges(plan.packs, 8, threads, [&](int64_t begin, int64_t end) { ops.pack(product, begin, end, packed); });
  }
  Dynamic(plan.parts, threads,
          [&](int64_t part, int thread) { ops.compute(product, packed, part, plan.parts, scratch + thread * own); });
}

int64_t FactorsWorkspace(int threads) {
  return std::max(threads, 1) * AlignedFloats(Chosen().factors.scratch_floats) * static_cast<int64_t>(sizeof(float));
}

void AccumulateFactors(const FactorGradient* gradients, int64_t count, void* workspace, int threads) {
  const FactorOps& ops = Chosen().factors;
  const int64_t own = AlignedFloats(ops.scratch_floats);
  const auto strips = [&](int64_t i) { return (gradients[i].wide.cols + ops.strip_columns - 1) / ops.strip_columns; };
  int64_t total = 0;
  for (int64_t i = 0; i < count; ++i) total += strips(i);
  Dynamic(total, threads, [&](int64_t strip, int thread) {
    int64_t i = 0;
    for (; strip >= strips(i); ++i) strip -= strips(i);
    ops.strip(gradients[i], strip * ops.strip_columns, static_cast<float*>(workspace) + thread * own);
  });
}

void Norm(const Rows& x, const NormWeights& norm, const Rows& out, float* rstd, int threads) {
  Ranges(x.rows, kRowGrain, threads,
         [&](int64_t begin, int64_t end) { Table().norm(x, nullptr, nullptr, norm, out, rstd, begin, end); });
}

void AddNorm(const Rows& x, const Rows& delta, const Rows& sum, const NormWeights& norm, const Rows& out, float* rstd,
             int threads) {
  Ranges(x.rows, kRowGrain, threads,
         [&](int64_t begin, int64_t end) { Table().norm(x, &delta, &sum, norm, out, rstd, begin, end); });
}

void NormBackward(const Rows& dy, const Rows& x, const NormWeights& norm, const float* rstd, const Rows& dx,
                  bool accumulate, int threads) {
  Ranges(x.rows, kRowGrain, threads,
         [&](int64_t begin, int64_t end) { Table().norm_backward(dy, x, norm, rstd, dx, accumulate, begin, end); });
}

void Rope(const Rows& x, int64_t heads, int64_t head_dim, const Turns& turns, bool inverse, int threads) {
  Ranges(x.rows, kRowGrain, threads,
         [&](int64_t begin, int64_t end) { Table().rope(x, heads, head_dim, turns, inverse, begin, end); });
}

int64_t AttentionWorkspace(const AttentionShape& shape, const Documents& documents, bool backward, int threads) {
  const int64_t scratch = Chosen().attention.scratch_floats(shape, Longest(documents), backward);
  const int64_t shared = backward ? 2 * HeadFloats(shape, documents) : 0;
  return (shared + std::max(threads, 1) * AlignedFloats(scratch)) * static_cast<int64_t>(sizeof(float));
}

void Attention(const AttentionShape& shape, const Documents& documents, const Rows& qkv, const AttentionResult& out,
               void* workspace, int threads) {
  ForEachHead(
      shape, documents, /*backward=*/false, static_cast<float*>(workspace), threads,
      [&](const AttentionTask& task, float* scratch) { Chosen().attention.forward(shape, task, qkv, out, scratch); });
}

void AttentionBackward(const AttentionShape& shape, const Documents& documents, const AttentionGradient& gradient,
                       void* workspace, int threads) {
  auto* dk = static_cast<float*>(workspace);
  float* dv = dk + HeadFloats(shape, documents);
  const int64_t tokens = NumTokens(documents);
  ForEachHead(shape, documents, /*backward=*/true, dv + HeadFloats(shape, documents), threads,
              [&](const AttentionTask& task, float* scratch) {
                const int64_t place = (task.head * tokens + task.first) * shape.head_dim;
                Chosen().attention.backward(shape, task, gradient, dk + place, dv + place, scratch);
              });
  const int64_t stride = tokens * shape.head_dim;
  Ranges(tokens, kRowGrain, threads, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      gradient.dqkv.type == Type::kF32 ? SumHeads<float>(shape, dk, dv, stride, t, gradient.dqkv)
                                       : SumHeads<uint16_t>(shape, dk, dv, stride, t, gradient.dqkv);
    }
  });
}

void Activate(Unit unit, const Rows& in, const Rows& out, int threads) {
  Ranges(out.rows, kRowGrain, threads,
         [&](int64_t begin, int64_t end) { Table().activate(unit, in, out, begin, end); });
}

void ActivateBackward(Unit unit, const Rows& in, const Rows& dout, int threads) {
  Ranges(dout.rows, kRowGrain, threads,
         [&](int64_t begin, int64_t end) { Table().activate_backward(unit, in, dout, begin, end); });
}

void Dropout(const Rows& x, uint64_t key, double probability, const Rows& out, int threads) {
  Ranges(x.rows, kRowGrain, threads,
         [&](int64_t begin, int64_t end) { Table().dropout(x, key, probability, out, begin, end); });
}

void AddBias(const Rows& x, const float* bias, int threads) {
  Ranges(x.rows, kRowGrain, threads, [&](int64_t begin, int64_t end) { Table().add_bias(x, bias, begin, end); });
}

void Add(const Rows& x, const Rows& delta, int threads) {
  Ranges(x.rows, kRowGrain, threads, [&](int64_t begin, int64_t end) { Table().add(x, delta, begin, end); });
}

void CrossEntropy(const Rows& logits, const int32_t* targets, const LossOptions& options, float* nll, int threads) {
  Ranges(logits.rows, 1, threads,
         [&](int64_t begin, int64_t end) { Table().cross_entropy(logits, targets, options, nll, begin, end); });
}

double SumSquares(const float* values, int64_t count, int threads) {
  const int64_t blocks = (count + kBlock - 1) / kBlock;
  std::vector<double> sums(static_cast<size_t>(blocks));
  Ranges(blocks, 8, threads, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b)
      sums[static_cast<size_t>(b)] = Table().sum_squares(values + b * kBlock, std::min(kBlock, count - b * kBlock));
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

void AdamW(float* p, float* gradient, float* m, float* v, int64_t count, const AdamWStep& step, int threads) {
  Ranges(count, kBlock, threads, [&](int64_t begin, int64_t end) {
    Table().adamw(p + begin, gradient + begin, m + begin, v + begin, end - begin, step);
  });
}

void RoundToBf16(const float* source, uint16_t* out, int64_t count) { Table().round_to_bf16(source, out, count); }

}  // namespace strata::kernels
