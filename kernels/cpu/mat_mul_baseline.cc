#define STRATA_MAT_MUL_OPS BaselineMatMulOps
#define STRATA_ATTENTION_OPS BaselineAttentionOps
#include "kernels/cpu/mat_mul_impl.h"
// Behind it, whose tiles it is made of.
#include "kernels/cpu/attention_impl.h"
