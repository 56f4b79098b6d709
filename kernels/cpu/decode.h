// Quantised weights -> fp32. In an unnamed namespace: see row_ops_impl.h.
#ifndef STRATA_KERNELS_CPU_DECODE_H_
#define STRATA_KERNELS_CPU_DECODE_H_

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

inline float ScaleOf(const Nf4& m, const CodeBooks& books, int64_t block) {
  return Rounded(books.scales[m.scales[block]] * m.scale_scales[block / kNf4ScaleBlock]) + m.offset;
}

// Values [first, first + count) of one block.
inline void DecodeNf4(const Nf4& m, const CodeBooks& books, int64_t first, int64_t count, float* out) {
  const float scale = ScaleOf(m, books, first / kNf4Block);
  if (count > 0 && first % 2 == 1) {
    *out++ = books.nf4_pairs[m.codes[first / 2]][1] * scale;
    ++first;
    --count;
  }
  const uint8_t* codes = m.codes + first / 2;
  for (int64_t i = 0; i < count / 2; ++i) {
    out[2 * i] = books.nf4_pairs[codes[i]][0] * scale;
    out[2 * i + 1] = books.nf4_pairs[codes[i]][1] * scale;
  }
  if (count % 2 == 1) out[count - 1] = books.nf4_pairs[codes[count / 2]][0] * scale;
}

// out[j] = m[row][col + j] for j < count.
inline void DecodeRow(const Rows& m, int64_t row, int64_t col, int64_t count, float* out) {
  if (m.type == Type::kInt8) {
    const int8_t* in = static_cast<const int8_t*>(m.data) + row * m.stride + col;
    const float scale = m.scales[row];
    for (int64_t j = 0; j < count; ++j) out[j] = static_cast<float>(in[j]) * scale;
    return;
  }
  const auto* part = static_cast<const Nf4*>(m.data);
  for (; row >= part->rows; ++part) row -= part->rows;
  const CodeBooks& books = Books();
  int64_t first = row * m.cols + col;
  for (const int64_t end = first + count; first < end;) {
    const int64_t block_end = (first / kNf4Block + 1) * kNf4Block;
    const int64_t length = (block_end < end ? block_end : end) - first;
    DecodeNf4(*part, books, first, length, out);
    first += length;
    out += length;
  }
}

}  // namespace
}  // namespace strata::kernels

#endif  // STRATA_KERNELS_CPU_DECODE_H_
