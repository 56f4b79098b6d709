// A vector of the instruction set that the including .cc is compiled for, and rows that are read by it. Internal
// linkage as in row_ops_impl.h.
#ifndef STRATA_KERNELS_CPU_VECTORS_IMPL_H_
#define STRATA_KERNELS_CPU_VECTORS_IMPL_H_

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cstdint>

#include "kernels/ops.h"

// NOLINTBEGIN(misc-definitions-in-headers,modernize-use-using,google-build-namespaces): as in mat_mul_impl.h
namespace strata::kernels {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(kLanes * sizeof(float))));
typedef float VecAt __attribute__((vector_size(kLanes * sizeof(float)), aligned(alignof(float)), may_alias));
typedef uint16_t HalfAt __attribute__((vector_size(kLanes * sizeof(uint16_t)), aligned(alignof(uint16_t)), may_alias));
typedef uint32_t Bits __attribute__((vector_size(kLanes * sizeof(uint32_t))));

constexpr int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t RoundUp(int64_t a, int64_t b) { return DivideUp(a, b) * b; }
inline int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t Most(int64_t a, int64_t b) { return a > b ? a : b; }

inline Vec Load(const float* p) { return *reinterpret_cast<const VecAt*>(p); }
// Of a general conversion GCC makes four instructions, where AVX has one.
inline Vec Load(const uint16_t* p) {
#if defined(__AVX512F__)
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return reinterpret_cast<Vec>(reinterpret_cast<Bits>(_mm512_maskz_cvtepu16_epi32(0xffff, half)) << 16);
#elif defined(__AVX2__)
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return reinterpret_cast<Vec>(reinterpret_cast<Bits>(_mm256_cvtepu16_epi32(half)) << 16);
#else
  return reinterpret_cast<Vec>(__builtin_convertvector(*reinterpret_cast<const HalfAt*>(p), Bits) << 16);
#endif
}
inline void Store(float* p, Vec v) { *reinterpret_cast<VecAt*>(p) = v; }

// Each lane to the nearest bf16, in the upper half of its 32 bits; what the lower half holds means nothing.
inline Bits RoundedBits(Vec v) {
  const auto bits = reinterpret_cast<Bits>(v);
  const Bits rounded = bits + 0x7FFF + (bits >> 16 & 1);
  return (bits & 0x7FFFFFFF) > 0x7F800000 ? bits | 0x400000 : rounded;
}
inline void Store(uint16_t* p, Vec v) {
  *reinterpret_cast<HalfAt*>(p) = __builtin_convertvector(RoundedBits(v) >> 16, HalfAt);
}

template <typename T>
inline T* Row(const Rows& m, int64_t row) {
  return static_cast<T*>(m.data) + row * m.stride;
}

}  // namespace
}  // namespace strata::kernels
// NOLINTEND(misc-definitions-in-headers,modernize-use-using,google-build-namespaces)

#endif  // STRATA_KERNELS_CPU_VECTORS_IMPL_H_
