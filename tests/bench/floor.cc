#include "tests/bench/floor.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

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
  for (const Size& size : kSizes) {
    const at::Tensor x = at::ones({size.rows, size.depth}, at::kFloat);
    const at::Tensor w = at::ones({size.columns, size.depth}, at::kFloat);
    at::Tensor y = at::empty({size.rows, size.columns}, at::kFloat);
    Sample(NameOf("fp32", size), Flops(size), size.repeats, [&] { at::mm_out(y, x, w.t()); });

    const at::Tensor half = w.to(at::kBFloat16);
    const kernels::Product ours = {.x = model::RowsOf(x), .w = model::RowsOf(half), .y = model::RowsOf(y)};
    std::vector<float> workspace(static_cast<size_t>(kernels::MatMulWorkspace(ours, threads)) / sizeof(float));
    Sample(NameOf("ours, bf16 weights", size), Flops(size), size.repeats,
           [&] { kernels::MatMul(ours, workspace.data(), threads); });

    if (bf16_is_slow_) continue;
    const at::Tensor half_x = x.to(at::kBFloat16);
    at::Tensor half_y = y.to(at::kBFloat16);
    Sample(NameOf("bf16", size), Flops(size), 1, [&] { at::mm_out(half_y, half_x, half.t()); });
    bf16_is_slow_ = best_[NameOf("bf16", size)] < best_[NameOf("fp32", size)];
    if (bf16_is_slow_) continue;
    Sample(NameOf("bf16", size), Flops(size), size.repeats, [&] { at::mm_out(half_y, half_x, half.t()); });
  }
}

double GemmRates::Fastest() const {
  double fastest = 0;
  for (const auto& [name, rate] : best_) fastest = std::max(fastest, rate);
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
