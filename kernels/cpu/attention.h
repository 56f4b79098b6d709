// Single-thread parts of attention behind kernels/ops.h, compiled once per instruction set.
#ifndef STRATA_KERNELS_CPU_ATTENTION_H_
#define STRATA_KERNELS_CPU_ATTENTION_H_

#include <cstdint>

#include "kernels/ops.h"

namespace strata::kernels {

// One head of one document; documents of any length.
struct AttentionTask {
  int64_t first = 0, length = 0;  // tokens of the document
  int64_t head = 0;
};

struct AttentionOps {
  // Floats of scratch memory for documents of up to `length` tokens.
  int64_t (*scratch_floats)(const AttentionShape& shape, int64_t length, bool backward);
  void (*forward)(const AttentionShape& shape, const AttentionTask& task, const Rows& qkv, const AttentionResult& out,
                  float* scratch);
  // dq goes into dqkv; dk and dv [length, head_dim] of this head alone.
  void (*backward)(const AttentionShape& shape, const AttentionTask& task, const AttentionGradient& gradient, float* dk,
                   float* dv, float* scratch);
};

const AttentionOps& BaselineAttentionOps();
const AttentionOps& Avx2AttentionOps();        // x86-64-v3
const AttentionOps& Avx512AttentionOps();      // x86-64-v4
const AttentionOps& Avx512Bf16AttentionOps();  // and AVX512-BF16

}  // namespace strata::kernels

#endif  // STRATA_KERNELS_CPU_ATTENTION_H_
