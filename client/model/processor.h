// What this processor really can do for bf16. Call before anything of LibTorch computes.
#ifndef STRATA_CLIENT_MODEL_PROCESSOR_H_
#define STRATA_CLIENT_MODEL_PROCESSOR_H_

#include <c10/core/ScalarType.h>

#include "common/config/precision.h"

namespace strata::model {

// How matrices kept in bf16 are multiplied fastest here.
enum class Bf16Gemm {
  kLibrary,  // bf16 operands through ATen: AMX
  kKernels,  // bf16 operands in our own kernels: AVX512-BF16 at twice the fp32 rate (AMD)
  kWidened,  // weights widened to fp32 as they are read, everything else in fp32: where vdpbf16ps is no faster than FMA
             // (Intel without usable AMX: 147 against 250 GFLOP/s measured on 2 cores), or absent
};

// Some hypervisors announce AMX but blank CPUID leaf 0x1D, which describes the tiles: oneDNN then configures none and
// its AMX kernels end with SIGILL. In that case sets ONEDNN_MAX_CPU_ISA to AVX512_CORE_FP16 (unless it is set).
// Idempotent; call before oneDNN's first use, best while there is one thread. The answer depends on the machine alone,
// so that it always takes the same path.
Bf16Gemm PrepareProcessor();

// What a pass has its activations in: what is asked for; on a processor fp32 where bf16 products are not fast, or where
// those that are read no quantised weights.
at::ScalarType ActivationType(const config::Precision& precision, bool on_cuda);

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_PROCESSOR_H_
