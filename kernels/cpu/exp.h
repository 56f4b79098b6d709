// exp and tanh in fp32 for loops that the compiler turns into vectors. In an unnamed namespace: see row_ops_impl.h.
#ifndef STRATA_KERNELS_CPU_EXP_H_
#define STRATA_KERNELS_CPU_EXP_H_

#include <cstdint>

namespace strata::kernels {
namespace {  // NOLINT(google-build-namespaces)

// exp for finite x, relative error below 2e-7; 0 below -87.3, saturates above 88.
inline float Exp(float x) {
  const float clamped = x > 88.0F ? 88.0F : (x < -87.3F ? -87.3F : x);
  const float shifted = clamped * 1.44269504F + 12582912.0F;  // 1.5 * 2^23: the sum's low bits are the rounded exponent
  const float n = shifted - 12582912.0F;
  const float r = (clamped - n * 0.693359375F) - n * -2.12194440e-4F;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * r * r + r + 1.0F;
  const uint32_t scale = (__builtin_bit_cast(uint32_t, shifted) << 23) + 0x3F800000U;
  const float value = p * __builtin_bit_cast(float, scale);
  return x < -87.3F ? 0.0F : value;
}

// tanh within 2e-7 relative: a polynomial near 0, where 1 - 2 / (e^2x + 1) would cancel.
inline float Tanh(float x) {
  const float z = x * x;
  float p = -5.70498872745e-3F;
  p = p * z + 2.06390887954e-2F;
  p = p * z - 5.37397155531e-2F;
  p = p * z + 1.33314422036e-1F;
  p = p * z - 3.33332819422e-1F;
  const float near = p * z * x + x;
  const float far = 1.0F - 2.0F / (Exp(2.0F * x) + 1.0F);
  return z < 0.390625F ? near : far;
}

}  // namespace
}  // namespace strata::kernels

#endif  // STRATA_KERNELS_CPU_EXP_H_
