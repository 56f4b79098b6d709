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
#endif

// Values [first, end) of one block.
inline void DecodeNf4(const Nf4& m, float scale, int64_t first, int64_t end, float* out) {
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
