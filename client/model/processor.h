// What this processor really can do for bf16. Call before anything of LibTorch computes.
#ifndef STRATA_CLIENT_MODEL_PROCESSOR_H_
#define STRATA_CLIENT_MODEL_PROCESSOR_H_

namespace strata::model {

// How matrices kept in bf16 are multiplied fastest here.
enum class Bf16Gemm {
  kNative,   // bf16 operands through ATen: AMX, or AVX512-BF16 at twice the fp32 rate (AMD)
  kWidened,  // operands widened to fp32, fp32 GEMM: where vdpbf16ps is no faster than FMA (Intel without usable AMX:
             // 147 against 250 GFLOP/s measured on 2 cores), or absent
};

// Some machines announce AMX and end oneDNN's AMX kernels with SIGILL. Where the processor announces it, tries a small
// bf16 product in a forked child and, if that is killed, sets ONEDNN_MAX_CPU_ISA to AVX512_CORE_FP16 (unless it is set).
// Idempotent; must first be called while there is one thread, before oneDNN's first use. The answer depends on the machine
// alone, so that it always takes the same path.
Bf16Gemm PrepareProcessor();

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_PROCESSOR_H_
