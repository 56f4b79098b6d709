#include "client/model/processor.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <cpuid.h>
#include <malloc.h>

#include <cstdlib>

#include "common/runtime/process.h"

namespace strata::model {
namespace {

struct Features {
  bool amx_bf16 = false, avx512_bf16 = false, amd = false;
};

Features ReadFeatures() {
  Features features;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(0, &a, &b, &c, &d) != 0) features.amd = b == signature_AMD_ebx;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) != 0) features.amx_bf16 = (d >> 22 & 1) != 0 && (d >> 24 & 1) != 0;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d) != 0) features.avx512_bf16 = (a >> 5 & 1) != 0;
  return features;
}

void TryProduct() {
  at::set_num_threads(1);
  const at::Tensor a = at::ones({128, 576}, at::kBFloat16), b = at::ones({576, 192}, at::kBFloat16);
  const at::Tensor c = at::mm(a, b);
  if (c.size(1) != b.size(1)) std::abort();
}

// Temporaries of LibTorch's ops stay with the process: handing their pages back after each op and clearing them again
// costs a few percent of a step.
void KeepFreedMemory() {
  mallopt(M_MMAP_THRESHOLD, 32 << 20);   // NOLINT(concurrency-mt-unsafe): one thread
  mallopt(M_TRIM_THRESHOLD, 256 << 20);  // NOLINT(concurrency-mt-unsafe): one thread
}

Bf16Gemm Probe() {
  KeepFreedMemory();
  const Features features = ReadFeatures();
  const bool overridden = !runtime::EnvironmentVariable("ONEDNN_MAX_CPU_ISA").empty();
  bool amx = features.amx_bf16 && !overridden;
  if (amx && !runtime::SurvivesInChild(TryProduct)) {
    setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_FP16", /*overwrite=*/0);  // NOLINT(concurrency-mt-unsafe): one thread
    amx = false;
  }
  if (amx) return Bf16Gemm::kLibrary;
  return features.amd && features.avx512_bf16 ? Bf16Gemm::kKernels : Bf16Gemm::kWidened;
}

}  // namespace

Bf16Gemm PrepareProcessor() {
  static const Bf16Gemm answer = Probe();
  return answer;
}

at::ScalarType ActivationType(const config::Precision& precision, bool on_cuda) {
  const Bf16Gemm gemm = PrepareProcessor();
  if (precision.compute == config::ComputeDType::kFp32) return at::kFloat;
  if (precision.compute == config::ComputeDType::kFp16) return at::kHalf;
  const bool fast = gemm == Bf16Gemm::kKernels || (gemm == Bf16Gemm::kLibrary && !precision.quantised());
  return on_cuda || fast ? at::kBFloat16 : at::kFloat;
}

}  // namespace strata::model
