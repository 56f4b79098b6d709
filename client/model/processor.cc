#include "client/model/processor.h"

#include <cpuid.h>

#include <cstdlib>

namespace strata::model {
namespace {

struct Features {
  bool amx_bf16 = false, avx512_bf16 = false, amd = false;
  bool palette = false;  // leaf 0x1D describes the tiles
};

Features ReadFeatures() {
  Features features;
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  if (__get_cpuid(0, &a, &b, &c, &d) != 0) features.amd = b == signature_AMD_ebx;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) != 0) features.amx_bf16 = (d >> 22 & 1) != 0 && (d >> 24 & 1) != 0;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d) != 0) features.avx512_bf16 = (a >> 5 & 1) != 0;
  if (__get_cpuid_count(0x1D, 0, &a, &b, &c, &d) != 0) features.palette = a != 0;
  return features;
}

Bf16Gemm Probe() {
  const Features features = ReadFeatures();
  const bool amx = features.amx_bf16 && features.palette;
  if (features.amx_bf16 && !features.palette) {
    setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_FP16", /*overwrite=*/0);  // NOLINT(concurrency-mt-unsafe): see the header
  }
  return amx || (features.amd && features.avx512_bf16) ? Bf16Gemm::kNative : Bf16Gemm::kWidened;
}

}  // namespace

Bf16Gemm PrepareProcessor() {
  static const Bf16Gemm answer = Probe();
  return answer;
}

}  // namespace strata::model
