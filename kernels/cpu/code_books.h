// What the codes of quantised weights stand for; as bitsandbytes has it.
#ifndef STRATA_KERNELS_CPU_CODE_BOOKS_H_
#define STRATA_KERNELS_CPU_CODE_BOOKS_H_

#include <cstdint>

namespace strata::kernels {

// Quantiles of the normal distribution, scaled to [-1, 1] (arXiv 2305.14314).
inline constexpr float kNf4Values[16] = {
    -1,
    -0.6961928009986877F,
    -0.5250730514526367F,
    -0.39491748809814453F,
    -0.28444138169288635F,
    -0.18477343022823334F,
    -0.09105003625154495F,
    0,
    0.07958029955625534F,
    0.16093020141124725F,
    0.24611230194568634F,
    0.33791524171829224F,
    0.44070982933044434F,
    0.5626170039176941F,
    0.7229568362236023F,
    1,
};

// 256 values for scales, ascending in [-1, 1]: finer near zero by a power of ten at a time.
const float* ScaleBook();

}  // namespace strata::kernels

#endif  // STRATA_KERNELS_CPU_CODE_BOOKS_H_
