#include "client/model/gemm.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "client/model/arena.h"

namespace strata::model {
namespace {

constexpr int64_t kWidenedElements = int64_t{1} << 20;

void Multiply(const at::Tensor& y, const at::Tensor& x, const at::Tensor& w, bool accumulate) {
  at::Tensor out = y;
  if (accumulate) {
    out.addmm_(x, w);
  } else {
    at::mm_out(out, x, w);
  }
}

bool Mixed(const at::Tensor& x, const at::Tensor& w) { return x.scalar_type() != w.scalar_type(); }

// Calls use(first row, block in fp32) for the rows of `w`, some at a time. The buffer is the thread's own and stays.
template <typename F>
void ForWidenedBlocks(const at::Tensor& w, const F& use) {
  thread_local at::Tensor buffer;
  const int64_t cols = w.size(1);
  const int64_t block = std::max<int64_t>(kWidenedElements / cols, 1);
  const int64_t needed = std::min(block, w.size(0)) * cols;
  if (!buffer.defined() || buffer.numel() < needed) {
    const int64_t count = std::max(needed, kWidenedElements);
    buffer = AllocateBytes(static_cast<size_t>(count) * sizeof(float), at::kCPU).view(at::kFloat);
  }
  for (int64_t first = 0; first < w.size(0); first += block) {
    const int64_t rows = std::min(block, w.size(0) - first);
    const at::Tensor wide = buffer.narrow(0, 0, rows * cols).view({rows, cols});
    wide.copy_(w.narrow(0, first, rows));
    use(first, wide);
  }
}

}  // namespace

void MatMulNT(const at::Tensor& y, const at::Tensor& x, const at::Tensor& w, bool accumulate) {
  if (!Mixed(x, w)) return Multiply(y, x, w.t(), accumulate);
  ForWidenedBlocks(w, [&](int64_t first, const at::Tensor& wide) {
    Multiply(y.narrow(1, first, wide.size(0)), x, wide.t(), accumulate);
  });
}

void MatMulNN(const at::Tensor& y, const at::Tensor& x, const at::Tensor& w, bool accumulate) {
  if (!Mixed(x, w)) return Multiply(y, x, w, accumulate);
  ForWidenedBlocks(w, [&](int64_t first, const at::Tensor& wide) {
    Multiply(y, x.narrow(1, first, wide.size(0)), wide, accumulate || first > 0);
  });
}

void AccumulateTN(const at::Tensor& y, const at::Tensor& a, const at::Tensor& b, double scale) {
  at::Tensor out = y;
  if (a.scalar_type() == at::kFloat) {
    out.addmm_(a.t(), b, 1, scale);
  } else {
    out.add_(at::mm(a.t(), b), scale);
  }
}

}  // namespace strata::model
