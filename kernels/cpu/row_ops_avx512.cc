#define STRATA_ROW_OPS Avx512RowOps
#include "kernels/cpu/row_ops_impl.h"
