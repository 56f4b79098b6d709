// Quantised weights -> fp32. In an unnamed namespace: see row_ops_impl.h.
#ifndef STRATA_KERNELS_CPU_DECODE_H_
#define STRATA_KERNELS_CPU_DECODE_H_

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cstdint>

#include "kernels/cpu/code_books.h"
#include "kernels/ops.h"

namespace strata::kernels {
namespace {  // NOLINT(google-build-namespaces)

// The reference rounds this product before it adds to it; fused into one operation the sum would be another.
inline float Rounded(float product) {
  __asm__("" : "+x"(product));
  return product;
}

inline float ScaleOf(const Nf4& m, const float* book, int64_t block) {
  return Rounded(book[m.scales[block]] * m.scale_scales[block / kNf4ScaleBlock]) + m.offset;
}

#if defined(__AVX2__)
// Byte k of each of the 16 values: a shuffle of bytes looks up 32 codes at once, one of floats but eight.
struct Nf4Bytes4 {
  alignas(16) uint8_t of[4][16] = {};
};
constexpr Nf4Bytes4 BytesOfValues() {
  Nf4Bytes4 bytes;
  for (int code = 0; code < 16; ++code) {
    const auto bits = __builtin_bit_cast(uint32_t, kNf4Values[code]);
    for (int k = 0; k < 4; ++k) bytes.of[k][code] = static_cast<uint8_t>(bits >> (8 * k));
  }
  return bytes;
}
inline constexpr Nf4Bytes4 kNf4Bytes = BytesOfValues();

inline __m256i LookUp(int byte, __m256i codes) {
  const __m128i table = _mm_load_si128(reinterpret_cast<const __m128i*>(kNf4Bytes.of[byte]));
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), codes);
}

// Four bytes of codes: each lane shifts its own to its end; the lower three bits choose in a half of the values, the
// fourth the half.
inline __m256 DecodeEight(const uint8_t* codes) {
  int32_t word = 0;
  __builtin_memcpy(&word, codes, sizeof(word));
  const __m256i code = _mm256_srlv_epi32(_mm256_set1_epi32(word), _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24));
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(_mm256_loadu_ps(kNf4Values), code),
                          _mm256_permutevar8x32_ps(_mm256_loadu_ps(kNf4Values + 8), code),
                          _mm256_castsi256_ps(_mm256_slli_epi32(code, 28)));
}

// 32 values from 16 bytes of codes. Each half of the vectors has 16 of them until they are stored.
inline void DecodeThirtyTwo(const uint8_t* codes, __m256 scale, float* out) {
  const __m128i both = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
  const __m128i low = _mm_set1_epi8(15);
  const __m128i first = _mm_and_si128(_mm_srli_epi16(both, 4), low);
  const __m128i second = _mm_and_si128(both, low);
  const __m256i order = _mm256_set_m128i(_mm_unpackhi_epi8(first, second), _mm_unpacklo_epi8(first, second));
  const __m256i b0 = LookUp(0, order), b1 = LookUp(1, order), b2 = LookUp(2, order), b3 = LookUp(3, order);
  const __m256i low_left = _mm256_unpacklo_epi8(b0, b1), low_right = _mm256_unpackhi_epi8(b0, b1);
  const __m256i high_left = _mm256_unpacklo_epi8(b2, b3), high_right = _mm256_unpackhi_epi8(b2, b3);
  const auto scaled = [scale](__m256i bits) { return _mm256_mul_ps(_mm256_castsi256_ps(bits), scale); };
  const __m256 v0 = scaled(_mm256_unpacklo_epi16(low_left, high_left));
  const __m256 v1 = scaled(_mm256_unpackhi_epi16(low_left, high_left));
  const __m256 v2 = scaled(_mm256_unpacklo_epi16(low_right, high_right));
  const __m256 v3 = scaled(_mm256_unpackhi_epi16(low_right, high_right));
  _mm256_storeu_ps(out, _mm256_permute2f128_ps(v0, v1, 0x20));
  _mm256_storeu_ps(out + 8, _mm256_permute2f128_ps(v2, v3, 0x20));
  _mm256_storeu_ps(out + 16, _mm256_permute2f128_ps(v0, v1, 0x31));
  _mm256_storeu_ps(out + 24, _mm256_permute2f128_ps(v2, v3, 0x31));
}
#endif

#if defined(__AVX512F__)
// Eight bytes of codes, whose halves fall into neighbouring lanes: one instruction looks up 16 values.
inline void DecodeSixteen(const uint8_t* codes, __m512 scale, float* out) {
  const __m512i bytes = _mm512_maskz_cvtepu8_epi64(0xff, _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes)));
  const __m512i order = bytes >> 4 | bytes << 32;  // four bits of a lane count
  _mm512_storeu_ps(out, scale * _mm512_maskz_permutexvar_ps(0xffff, order, _mm512_loadu_ps(kNf4Values)));
}
#endif

// Values [first, end) of one block.
inline void DecodeNf4(const Nf4& m, float scale, int64_t first, int64_t end, float* out) {
#if defined(__AVX512F__)
  for (; first % 2 == 0 && first + 16 <= end; first += 16, out += 16)
    DecodeSixteen(m.codes + first / 2, _mm512_set1_ps(scale), out);
#elif defined(__AVX2__)
  for (; first % 2 == 0 && first + 32 <= end; first += 32, out += 32)
    DecodeThirtyTwo(m.codes + first / 2, _mm256_set1_ps(scale), out);
#endif
#if defined(__AVX2__)
  for (; first % 2 == 0 && first + 8 <= end; first += 8, out += 8)
    _mm256_storeu_ps(out, _mm256_mul_ps(DecodeEight(m.codes + first / 2), _mm256_set1_ps(scale)));
#endif
  for (; first < end; ++first) {
    const uint8_t byte = m.codes[first / 2];
    *out++ = kNf4Values[first % 2 == 0 ? byte >> 4 : byte & 15] * scale;
  }
}

// out[j] = m[row][col + j] for j < count. `book`: ScaleBook().
inline void DecodeRow(const Rows& m, const float* book, int64_t row, int64_t col, int64_t count, float* out) {
  if (m.type == Type::kInt8) {
    const int8_t* in = static_cast<const int8_t*>(m.data) + row * m.stride + col;
    const float scale = m.scales[row];
    for (int64_t j = 0; j < count; ++j) out[j] = static_cast<float>(in[j]) * scale;
    return;
  }
  const auto* part = static_cast<const Nf4*>(m.data);
  for (; row >= part->rows; ++part) row -= part->rows;
  int64_t first = row * m.cols + col;
  for (const int64_t end = first + count; first < end;) {
    const int64_t block = first / kNf4Block;
    const int64_t block_end = (block + 1) * kNf4Block;
    const int64_t stop = block_end < end ? block_end : end;
    DecodeNf4(*part, ScaleOf(*part, book, block), first, stop, out);
    out += stop - first;
    first = stop;
  }
}

}  // namespace
}  // namespace strata::kernels

#endif  // STRATA_KERNELS_CPU_DECODE_H_
