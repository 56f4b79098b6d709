#define STRATA_MAT_MUL_OPS Avx512MatMulOps
#include "kernels/cpu/mat_mul_impl.h"
