// What the machine can do at most, measured in the same process as what is held against it.
#ifndef STRATA_TESTS_BENCH_FLOOR_H_
#define STRATA_TESTS_BENCH_FLOOR_H_

#include <c10/core/Device.h>

#include <cstdint>
#include <map>
#include <string>

#include "client/model/model_files.h"
#include "common/runtime/clock.h"

namespace strata::bench {

// GFLOP/s of matrix products on the device that is benched, best of several, by "dtype rows x depth x columns":
// LibTorch's at::mm and, on the CPU as "ours ..", the step's own kernel.
class GemmRates {
 public:
  GemmRates(const runtime::Clock& clock, at::Device device) : clock_(clock), device_(device) {}
  // Adds samples. bf16 is measured where one product shows that it is not slower than fp32: some processors need
  // seconds for a product. On a CUDA device (in a build with STRATA_CUDA) bf16 alone.
  void Measure(int threads);
  const std::map<std::string, double>& best() const { return best_; }
  // Of products in bf16 or fp32; of the latter alone.
  double Fastest(bool bf16) const;

 private:
  template <typename F>
  void Sample(const std::string& name, double flops, int repeats, const F& product);

  void MeasureCuda();

  const runtime::Clock& clock_;
  at::Device device_;
  std::map<std::string, double> best_;
  bool bf16_is_slow_ = false;
};

// The most that LibTorch's allocator has held on the device since the process began; 0 for the CPU and without
// STRATA_CUDA.
uint64_t PeakDeviceBytes(at::Device device);

// Floating-point operations that one token of a LoRA step cannot do without: the frozen linear modules forward and for
// the input's gradient (4 a weight), the same for the head where the token is a target, causal attention over documents
// of `length` tokens (2 T d a layer forward, 5 T d backward), 6 for each trained parameter.
double FlopsPerToken(const model::ModelFiles& model, double length, double supervised_share, int64_t trained);

}  // namespace strata::bench

#endif  // STRATA_TESTS_BENCH_FLOOR_H_
