#define STRATA_MAT_MUL_OPS Avx512MatMulOps
#define STRATA_ATTENTION_OPS Avx512AttentionOps
#include "kernels/cpu/mat_mul_impl.h"
// Behind it, whose tiles it is made of.
#include "kernels/cpu/attention_impl.h"
