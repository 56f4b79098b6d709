#define STRATA_MAT_MUL_OPS BaselineMatMulOps
#include "kernels/cpu/mat_mul_impl.h"
