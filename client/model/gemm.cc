#include "client/model/gemm.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <map>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "client/model/arena.h"
#include "client/model/ops.h"
#include "client/model/processor.h"
#ifdef STRATA_CUDA
#include <ATen/cuda/CUDAContext.h>

#include "client/model/cuda_launch.h"
#include "kernels/cuda_ops.h"
#endif

namespace strata::model {
namespace {

thread_local bool few_rows = false;

// Rows or columns of a tile come in multiples of so many: pieces stay aligned, and blocks of quantised values whole.
[[maybe_unused]] constexpr int64_t kDecodedStep = 64;

void Multiply(const at::Tensor& y, const at::Tensor& x, const at::Tensor& w, bool accumulate) {
  at::Tensor out = y;
  if (accumulate) {
    out.addmm_(x, w);
  } else {
    at::mm_out(out, x, w);
  }
}

void Run(const kernels::Product& product) {
  const int threads = at::get_num_threads();
  kernels::MatMul(product, Workspace(kernels::MatMulWorkspace(product, threads)), threads);
}

kernels::FactorGradient GradientOf(const FactorProduct& p) {
  const bool wide_a = p.a.size(1) >= p.b.size(1);  // dB; else dA
  return {.wide = RowsOf(wide_a ? p.a : p.b),
          .narrow = RowsOf(wide_a ? p.b : p.a),
          .out = p.y.mutable_data_ptr<float>(),
          .wide_step = wide_a ? p.y.stride(0) : 1,
          .narrow_step = wide_a ? 1 : p.y.stride(0),
          .scale = static_cast<float>(p.scale)};
}

bool OnProcessor(const FactorProduct& p) { return TakesColumns(p.a.scalar_type(), p.a.device()); }

void AccumulateOnProcessor(std::span<const FactorProduct> products) {
  std::vector<kernels::FactorGradient> gradients;
  for (const FactorProduct& p : products) gradients.push_back(GradientOf(p));
  const int threads = at::get_num_threads();
  kernels::AccumulateFactors(gradients.data(), static_cast<int64_t>(gradients.size()),
                             Workspace(kernels::FactorsWorkspace(threads)), threads);
}

#ifdef STRATA_CUDA
namespace cuda = kernels::cuda;

// Memory of a device that its steps share; they follow one another on its current stream. One place for good: recorded
// steps remember it.
void* DecodedMemory(at::Device device) {
  static absl::Mutex mutex;
  static std::map<c10::DeviceIndex, at::Tensor> buffers;
  const absl::MutexLock lock(&mutex);
  at::Tensor& buffer = buffers[device.index()];
  if (!buffer.defined()) buffer = at::empty({kDecodedBytes}, at::TensorOptions().dtype(at::kByte).device(device));
  return buffer.mutable_data_ptr();
}

// The product with a weight of another type than x's, which is decoded tile by tile: rows of w where these make columns
// of y, columns of w where they are summed over, so that no sum is cut.
void MultiplyDecoded(const at::Tensor& y, const at::Tensor& x, const kernels::Rows& w, bool by_rows, bool accumulate) {
  void* memory = DecodedMemory(x.device());
  const int64_t inner = by_rows ? w.cols : w.rows, outer = by_rows ? w.rows : w.cols;
  const auto size = static_cast<int64_t>(x.element_size());
  const int64_t fitting = std::max<int64_t>(kDecodedBytes / size / inner, 1);
  const int64_t step = fitting < kDecodedStep ? fitting : fitting / kDecodedStep * kDecodedStep;
  for (int64_t first = 0; first < outer; first += step) {
    const int64_t count = std::min(step, outer - first);
    const std::array<int64_t, 2> shape = {by_rows ? count : inner, by_rows ? inner : count};
    const at::Tensor tile = at::for_blob(memory, shape).options(x.options()).target_device(x.device()).make_tensor();
    Launch(x, [&](void* stream) {
      return cuda::Decode(w, by_rows ? first : 0, by_rows ? 0 : first, RowsOf(tile), stream);
    });
    Multiply(y.narrow(1, first, count), x, by_rows ? tile.t() : tile, accumulate);
  }
}

// Takes as many as one launch does, if the kernel can; returns how many.
size_t AccumulateSome(std::span<const FactorProduct> products) {
  const at::Device device = products[0].a.device();
  if (!device.is_cuda()) return 0;
  const int needed = products[0].a.scalar_type() == at::kHalf ? 7 : 8;
  if (at::cuda::getDeviceProperties(device.index())->major < needed) return 0;
  std::array<kernels::FactorGradient, cuda::kMostFactorTasks> tasks;
  size_t count = 0;
  while (count < tasks.size() && count < products.size()) {
    tasks[count] = GradientOf(products[count]);
    if (!cuda::TakesFactors(tasks[count])) break;
    ++count;
  }
  if (count == 0) return 0;
  Launch(products[0].a,
         [&](void* stream) { return cuda::AccumulateFactors(tasks.data(), static_cast<int64_t>(count), stream); });
  return count;
}

// Takes as many as one launch does, if the kernel can; returns how many.
size_t MultiplySome(std::span<const NarrowProduct> products, bool by_rows) {
  if (!HasNarrowKernel(products[0].x.scalar_type(), products[0].x.device())) return 0;
  std::array<cuda::NarrowProduct, cuda::kMostNarrowProducts> tasks;
  size_t count = 0;
  while (count < tasks.size() && count < products.size()) {
    const NarrowProduct& p = products[count];
    tasks[count] = {.x = RowsOf(p.x),
                    .w = RowsOf(p.w),
                    .out = RowsOf(p.y),
                    .copy = p.copy.defined() ? RowsOf(p.copy) : kernels::Rows()};
    if (!cuda::TakesNarrowProduct(tasks[count])) break;
    ++count;
  }
  if (count == 0) return 0;
  Launch(products[0].x, [&](void* stream) {
    return cuda::MultiplyNarrow(tasks.data(), static_cast<int64_t>(count), by_rows, stream);
  });
  return count;
}
#endif

void MatMul(const at::Tensor& y, const at::Tensor& x, const Operand& w, bool by_rows, bool accumulate) {
  if (!TakesColumns(x.scalar_type(), x.device())) {
#ifdef STRATA_CUDA
    if (x.is_cuda() && w.rows.type != TypeOf(x.scalar_type()))
      return MultiplyDecoded(y, x, w.rows, by_rows, accumulate);
    if (!accumulate) {
      const NarrowProduct product = {y, x, w.matrix};
      if (MultiplySome({&product, 1}, by_rows) > 0) return;
    }
#endif
    Multiply(y, x, by_rows ? w.matrix.t() : w.matrix, accumulate);
  } else if (x.size(0) > 0) {
    Run({.x = RowsOf(x),
         .w = w.rows,
         .y = RowsOf(y),
         .added = w.added.data(),
         .num_added = static_cast<int64_t>(w.added.size()),
         .beside = w.beside.data(),
         .num_beside = static_cast<int64_t>(w.beside.size()),
         .by_rows = by_rows,
         .accumulate = accumulate,
         .few_rows = few_rows});
  }
}

}  // namespace

Operand::Operand(const at::Tensor& m) : matrix(m), rows(RowsOf(m)) {}

FewRows::FewRows(bool few) : before_(few_rows) { few_rows = few; }
FewRows::~FewRows() { few_rows = before_; }

bool TakesColumns(at::ScalarType type, at::Device device) {
  if (!device.is_cpu()) return false;
  return type == at::kFloat || (type == at::kBFloat16 && PrepareProcessor() == Bf16Gemm::kKernels);
}

bool FoldsFactors(at::ScalarType type, at::Device device) { return type == at::kFloat && device.is_cpu(); }

void MatMulNT(const at::Tensor& y, const at::Tensor& x, const Operand& w, bool accumulate) {
  MatMul(y, x, w, /*by_rows=*/true, accumulate);
}

void MatMulNN(const at::Tensor& y, const at::Tensor& x, const Operand& w, bool accumulate) {
  MatMul(y, x, w, /*by_rows=*/false, accumulate);
}

bool HasNarrowKernel([[maybe_unused]] at::ScalarType type, [[maybe_unused]] at::Device device) {
#ifdef STRATA_CUDA
  return device.is_cuda() && (type == at::kBFloat16 || type == at::kHalf) &&
         at::cuda::getDeviceProperties(device.index())->major == cuda::kNarrowMajor;
#else
  return false;
#endif
}

void MultiplyNarrow(std::span<const NarrowProduct> products, bool by_rows) {
  size_t done = 0;
  while (done < products.size()) {
#ifdef STRATA_CUDA
    if (const size_t taken = MultiplySome(products.subspan(done), by_rows); taken > 0) {
      done += taken;
      continue;
    }
#endif
    const NarrowProduct& p = products[done++];
    MatMul(p.y, p.x, p.w, by_rows, false);
    if (p.copy.defined()) CopyRows(p.y, p.copy);
  }
}

void AccumulateTN(const at::Tensor& y, const at::Tensor& a, const at::Tensor& b, double scale) {
  const FactorProduct product = {y, a, b, scale};
  if (OnProcessor(product)) return AccumulateOnProcessor({&product, 1});
  at::Tensor out = y;
  if (a.is_cuda() && a.scalar_type() != at::kFloat) {
    at::addmm_out(out, y, a.t(), b, at::kFloat, 1, scale);
  } else {
    out.add_(at::mm(a.t(), b), scale);
  }
}

void AccumulateEach(std::span<const FactorProduct> products) {
  if (!products.empty() && OnProcessor(products[0])) return AccumulateOnProcessor(products);
  size_t done = 0;
  while (done < products.size()) {
#ifdef STRATA_CUDA
    if (const size_t taken = AccumulateSome(products.subspan(done)); taken > 0) {
      done += taken;
      continue;
    }
#endif
    const FactorProduct& p = products[done++];
    AccumulateTN(p.y, p.a, p.b, p.scale);
  }
}

}  // namespace strata::model
