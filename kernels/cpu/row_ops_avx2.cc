#define STRATA_ROW_OPS Avx2RowOps
#include "kernels/cpu/row_ops_impl.h"
