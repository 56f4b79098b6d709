#define STRATA_ROW_OPS BaselineRowOps
#include "kernels/cpu/row_ops_impl.h"
