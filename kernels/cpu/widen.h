// bf16 <-> fp32. In an unnamed namespace: see row_ops_impl.h.
#ifndef STRATA_KERNELS_CPU_WIDEN_H_
#define STRATA_KERNELS_CPU_WIDEN_H_

#include <cstdint>

namespace strata::kernels {
namespace {  // NOLINT(google-build-namespaces)

inline float Widen(float x) { return x; }
inline float Widen(uint16_t x) { return __builtin_bit_cast(float, static_cast<uint32_t>(x) << 16); }

// To the nearest, even on a tie.
template <typename T>
inline T Narrow(float x);
template <>
inline float Narrow<float>(float x) {
  return x;
}
template <>
inline uint16_t Narrow<uint16_t>(float x) {
  const auto bits = __builtin_bit_cast(uint32_t, x);
  const uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  const uint32_t quiet = (bits >> 16) | 0x40;  // a NaN must not round to infinity
  return static_cast<uint16_t>((bits & 0x7FFFFFFF) > 0x7F800000 ? quiet : rounded);
}

}  // namespace
}  // namespace strata::kernels

#endif  // STRATA_KERNELS_CPU_WIDEN_H_
