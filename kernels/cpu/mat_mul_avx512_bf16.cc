#define STRATA_MAT_MUL_OPS Avx512Bf16MatMulOps
#define STRATA_ATTENTION_OPS Avx512Bf16AttentionOps
#define STRATA_FACTOR_OPS Avx512Bf16FactorOps
#include "kernels/cpu/attention_impl.h"
#include "kernels/cpu/factors_impl.h"
#include "kernels/cpu/mat_mul_impl.h"
