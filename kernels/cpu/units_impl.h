// What packed operands of a product are made of: units of 32 bits, each an fp32 number or, where the processor
// multiplies bf16, two bf16 neighbours along the depth. Internal linkage as in row_ops_impl.h.
#ifndef STRATA_KERNELS_CPU_UNITS_IMPL_H_
#define STRATA_KERNELS_CPU_UNITS_IMPL_H_

#include <type_traits>

#include "kernels/cpu/vectors_impl.h"
#include "kernels/cpu/widen.h"

// NOLINTBEGIN(misc-definitions-in-headers,google-build-namespaces): as in mat_mul_impl.h
namespace strata::kernels {
namespace {

// The first neighbour in the lower half.
struct Pair {
  uint32_t bits = 0;
};

// Of a product whose x has elements of type X.
#if defined(__AVX512BF16__)
constexpr bool kHasPairs = true;
#else
constexpr bool kHasPairs = false;
#endif
template <typename X>
using UnitOf = std::conditional_t<kHasPairs && std::is_same_v<X, uint16_t>, Pair, float>;

// Elements of the depth in a unit.
template <typename U>
constexpr int64_t kPerUnit = std::is_same_v<U, Pair> ? 2 : 1;
template <typename U>
constexpr int64_t UnitsOf(int64_t depth) {
  return DivideUp(depth, kPerUnit<U>);
}

template <typename U>
inline U ReadUnit(const void* at) {
  U unit;
  __builtin_memcpy(&unit, at, sizeof(unit));
  return unit;
}
template <typename U>
inline void WriteUnit(float* at, U unit) {
  __builtin_memcpy(at, &unit, sizeof(unit));
}

// The unit that begins at `in`, of whose elements `left` exist.
template <typename U, typename T>
inline U UnitAt(const T* in, int64_t left) {
  if constexpr (std::is_same_v<U, float>) {
    return Widen(*in);
  } else {
    const auto half = [](T x) { return static_cast<uint32_t>(Narrow<uint16_t>(Widen(x))); };
    return {.bits = half(in[0]) | (left > 1 ? half(in[1]) << 16 : 0)};
  }
}

// kLanes units along a row, from `in` on.
template <typename U>
inline Vec LoadUnits(const float* in);
template <>
inline Vec LoadUnits<float>(const float* in) {
  return Load(in);
}
template <typename U>
inline Vec LoadUnits(const uint16_t* in);
template <>
inline Vec LoadUnits<float>(const uint16_t* in) {
  return Load(in);
}

// kLanes units that each begin in one row and, where they are pairs, end in the `next`.
template <typename U, typename T>
inline Vec LoadColumns(const T* in, const T* /*next*/) {
  static_assert(std::is_same_v<U, float>);
  return Load(in);
}

// sum + x b, with the products of a pair added up.
inline Vec MultiplyAdd(float x, Vec b, Vec sum) { return sum + x * b; }
template <typename U>
inline Vec MultiplyLanes(Vec a, Vec b, Vec sum);
template <>
inline Vec MultiplyLanes<float>(Vec a, Vec b, Vec sum) {
  return sum + a * b;
}

#if defined(__AVX512BF16__)
template <>
inline Vec LoadUnits<Pair>(const uint16_t* in) {
  return Load(reinterpret_cast<const float*>(in));
}
template <>
inline Vec LoadUnits<Pair>(const float* in) {
  return reinterpret_cast<Vec>(_mm512_cvtne2ps_pbh(Load(in + kLanes), Load(in)));
}
template <>
inline Vec LoadColumns<Pair, uint16_t>(const uint16_t* in, const uint16_t* next) {
  const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in));
  const auto low = reinterpret_cast<Bits>(_mm512_maskz_cvtepu16_epi32(0xffff, first));
  return reinterpret_cast<Vec>(low | reinterpret_cast<Bits>(Load(next)));
}
template <>
inline Vec LoadColumns<Pair, float>(const float* in, const float* next) {
  return reinterpret_cast<Vec>(RoundedBits(Load(in)) >> 16 | (RoundedBits(Load(next)) & 0xFFFF0000));
}
template <>
inline Vec MultiplyLanes<Pair>(Vec a, Vec b, Vec sum) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}
inline Vec MultiplyAdd(Pair x, Vec b, Vec sum) {
  return MultiplyLanes<Pair>(reinterpret_cast<Vec>(_mm512_set1_epi32(static_cast<int>(x.bits))), b, sum);
}
#endif

}  // namespace
}  // namespace strata::kernels
// NOLINTEND(misc-definitions-in-headers,google-build-namespaces)

#endif  // STRATA_KERNELS_CPU_UNITS_IMPL_H_
