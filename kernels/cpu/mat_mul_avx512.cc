#define STRATA_MAT_MUL_OPS Avx512MatMulOps
#define STRATA_ATTENTION_OPS Avx512AttentionOps
#define STRATA_FACTOR_OPS Avx512FactorOps
#include "kernels/cpu/attention_impl.h"
#include "kernels/cpu/factors_impl.h"
#include "kernels/cpu/mat_mul_impl.h"
