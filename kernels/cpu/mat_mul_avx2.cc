#define STRATA_MAT_MUL_OPS Avx2MatMulOps
#include "kernels/cpu/mat_mul_impl.h"
