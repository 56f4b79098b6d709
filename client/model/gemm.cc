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

void MatMul(const at::Tensor& y, const at::Tensor& x, const Operand& w, bool by_rows, bool accumulate) {
  if (!TakesColumns(x.scalar_type(), x.device())) {
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

// Zero at first; steps follow one another on a device's current stream.
void* FactorWorkspace(at::Device device) {
  static std::map<c10::DeviceIndex, at::Tensor> buffers;
  static absl::Mutex mutex;
  const absl::MutexLock lock(&mutex);
  at::Tensor& buffer = buffers[device.index()];
  if (!buffer.defined()) {
    buffer = at::zeros({cuda::kFactorWorkspace}, at::TensorOptions().dtype(at::kByte).device(device));
  }
  return buffer.mutable_data_ptr();
}

// Takes as many as one launch does, if the kernel can; returns how many.
size_t AccumulateSome(std::span<const FactorProduct> products) {
  const at::Device device = products[0].a.device();
  if (!device.is_cuda() || at::cuda::getDeviceProperties(device.index())->major < 8) return 0;
  std::array<kernels::FactorGradient, cuda::kMostFactorTasks> tasks;
  size_t count = 0;
  while (count < tasks.size() && count < products.size()) {
    tasks[count] = GradientOf(products[count]);
    if (!cuda::TakesFactors(tasks[count])) break;
    ++count;
  }
  if (count == 0) return 0;
  Launch(products[0].a, [&](void* stream) {
    return cuda::AccumulateFactors(tasks.data(), static_cast<int64_t>(count), FactorWorkspace(device), stream);
  });
  return count;
}
#endif

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
