#define STRATA_MAT_MUL_OPS BaselineMatMulOps
#define STRATA_ATTENTION_OPS BaselineAttentionOps
#define STRATA_FACTOR_OPS BaselineFactorOps
#include "kernels/cpu/attention_impl.h"
#include "kernels/cpu/factors_impl.h"
#include "kernels/cpu/mat_mul_impl.h"
