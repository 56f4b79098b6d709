// bf16 -> fp32. In an unnamed namespace: see row_ops_impl.h.
#ifndef STRATA_KERNELS_CPU_WIDEN_H_
#define STRATA_KERNELS_CPU_WIDEN_H_

#include <cstdint>

namespace strata::kernels {
namespace {  // NOLINT(google-build-namespaces)

inline float Widen(float x) { return x; }
inline float Widen(uint16_t x) { return __builtin_bit_cast(float, static_cast<uint32_t>(x) << 16); }

}  // namespace
}  // namespace strata::kernels

#endif  // STRATA_KERNELS_CPU_WIDEN_H_
