#include "tests/bench/floor.h"

#include <ATen/ATen.h>
#ifdef STRATA_CUDA
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#endif

#include <algorithm>
#include <vector>

#include "client/model/gemm.h"
#include "client/model/ops.h"
#include "common/status/cat.h"
#include "kernels/ops.h"

namespace strata::bench {
namespace {

struct Size {
  int64_t rows, depth, columns;
  int repeats;
};
constexpr Size kSizes[] = {{512, 576, 1536, 12}, {2048, 2048, 2048, 3}};

double Flops(const Size& size) {
  return 2.0 * static_cast<double>(size.rows) * static_cast<double>(size.depth) * static_cast<double>(size.columns);
}

std::string NameOf(const std::string& kind, const Size& size) {
  return Cat(kind, " ", size.rows, "x", size.depth, "x", size.columns);
}

}  // namespace

template <typename F>
void GemmRates::Sample(const std::string& name, double flops, int repeats, const F& product) {
  product();
  for (int i = 0; i < repeats; ++i) {
    const absl::Duration begin = clock_.Monotonic();
    product();
    const double seconds = absl::ToDoubleSeconds(clock_.Monotonic() - begin);
    best_[name] = std::max(best_[name], flops / seconds * 1e-9);
  }
}

void GemmRates::Measure(int threads) {
  if (!device_.is_cpu()) return MeasureCuda();
  for (const Size& size : kSizes) {
    const at::Tensor x = at::ones({size.rows, size.depth}, at::kFloat);
    const at::Tensor w = at::ones({size.columns, size.depth}, at::kFloat);
    at::Tensor y = at::empty({size.rows, size.columns}, at::kFloat);
    Sample(NameOf("fp32", size), Flops(size), size.repeats, [&] { at::mm_out(y, x, w.t()); });

    const at::Tensor half = w.to(at::kBFloat16);
    const kernels::Product ours = {.x = model::RowsOf(x), .w = model::RowsOf(half), .y = model::RowsOf(y)};
    std::vector<float> workspace(static_cast<size_t>(kernels::MatMulWorkspace(ours, threads)) / sizeof(float));
    Sample(NameOf("fp32, ours, bf16 weights", size), Flops(size), size.repeats,
           [&] { kernels::MatMul(ours, workspace.data(), threads); });

    if (bf16_is_slow_) continue;
    const at::Tensor half_x = x.to(at::kBFloat16);
    at::Tensor half_y = y.to(at::kBFloat16);
    if (model::TakesColumns(at::kBFloat16, device_)) {
      const kernels::Product product = {
          .x = model::RowsOf(half_x), .w = model::RowsOf(half), .y = model::RowsOf(half_y)};
      Sample(NameOf("bf16, ours", size), Flops(size), size.repeats,
             [&] { kernels::MatMul(product, workspace.data(), threads); });
    }
    Sample(NameOf("bf16", size), Flops(size), 1, [&] { at::mm_out(half_y, half_x, half.t()); });
    bf16_is_slow_ = best_[NameOf("bf16", size)] < best_[NameOf("fp32", size)];
    if (bf16_is_slow_) continue;
    Sample(NameOf("bf16", size), Flops(size), size.repeats, [&] { at::mm_out(half_y, half_x, half.t()); });
  }
}

#ifdef STRATA_CUDA
void GemmRates::MeasureCuda() {
  constexpr Size kDeviceSizes[] = {{2048, 4096, 14336, 12}, {8192, 8192, 8192, 6}};
  constexpr int kProducts = 4;  // between two looks at the clock
  for (const Size& size : kDeviceSizes) {
    const auto options = at::TensorOptions().dtype(at::kBFloat16).device(device_);
    const at::Tensor x = at::randn({size.rows, size.depth}, options);
    const at::Tensor w = at::randn({size.columns, size.depth}, options);
    at::Tensor y = at::empty({size.rows, size.columns}, options);
    Sample(NameOf("bf16", size), Flops(size) * kProducts, size.repeats, [&] {
      for (int i = 0; i < kProducts; ++i) at::mm_out(y, x, w.t());
      c10::cuda::device_synchronize();
    });
  }
}

uint64_t PeakDeviceBytes(at::Device device) {
  if (device.is_cpu()) return 0;
  const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(device.index());
  return static_cast<uint64_t>(stats.allocated_bytes[0].peak);
}
#else
void GemmRates::MeasureCuda() {}
uint64_t PeakDeviceBytes(at::Device /*device*/) { return 0; }
#endif

double GemmRates::Fastest(bool bf16) const {
  double fastest = 0;
  for (const auto& [name, rate] : best_) {
    if (bf16 || name.starts_with("fp32")) fastest = std::max(fastest, rate);
  }
  return fastest;
}

double FlopsPerToken(const model::ModelFiles& model, double length, double supervised_share, int64_t trained) {
  const model::ModelConfig& config = model.config();
  double weights = 0;
  for (const config::ModuleShape& module : model.LinearModules()) {
    if (module.name != "lm_head") weights += static_cast<double>(module.out) * static_cast<double>(module.in);
  }
  const double head = static_cast<double>(config.hidden_size) * static_cast<double>(config.vocab_size);
  const double attention = 7 * length * static_cast<double>(config.num_heads * config.head_dim * config.num_layers);
  return 4 * weights + 4 * head * supervised_share + attention + 6 * static_cast<double>(trained);
}

}  // namespace strata::bench
