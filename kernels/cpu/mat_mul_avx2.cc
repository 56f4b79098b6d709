#define STRATA_MAT_MUL_OPS Avx2MatMulOps
#define STRATA_ATTENTION_OPS Avx2AttentionOps
#include "kernels/cpu/mat_mul_impl.h"
// Behind it, whose tiles it is made of.
#include "kernels/cpu/attention_impl.h"
