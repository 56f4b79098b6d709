#include "kernels/cpu/tile_matmul.h"

#include <immintrin.h>
#include <string.h>  // NOLINT(modernize-deprecated-headers): nothing inline from std:: may be compiled with these instructions

namespace strata::kernels {
namespace {

constexpr int64_t kStrip = 32;   // rows of y at once: two tiles
constexpr int64_t kPanel = 32;   // columns of y at once: two tiles
constexpr int64_t kStep = 32;    // depth of a tile
constexpr int64_t kChunk = 256;  // columns of b packed at once
constexpr int64_t kDepth =
    1536;  // rows of b packed at once; with kChunk 768 KiB, which leaves room in the L2 for a's strip and y

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

inline int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t RoundUp(int64_t value, int64_t to) { return (value + to - 1) / to * to; }
inline int64_t Depth(int64_t k) {
  const int64_t parts = (k + kDepth - 1) / kDepth;
  return RoundUp((k + parts - 1) / parts, kStep);
}

// 16 rows of 16 double words, transposed in registers.
inline void Transpose(__m512i r[16]) {
  __m512i t[16];
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xDD);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xDD);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xDD);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xDD);
  }
}

inline __mmask32 Mask32(int64_t count) { return count >= 32 ? 0xFFFFFFFFU : count <= 0 ? 0U : (1U << count) - 1U; }

// Rows p = 0..15 of double words (source[2p][c], source[2p + 1][c]), c = 0..15: depth runs down the source, `depth` and
// `cols` of it exist.
inline void LoadPairs(const uint16_t* source, int64_t stride, int64_t depth, int64_t cols, __m512i out[16]) {
  alignas(64) static constexpr uint16_t kOrder[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                      8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i order = _mm512_load_si512(kOrder);
  const __mmask32 mask = Mask32(Min(cols, 16));
  for (int64_t p = 0; p < 16; ++p) {
    const __m512i even =
        2 * p < depth ? _mm512_maskz_loadu_epi16(mask, source + 2 * p * stride) : _mm512_setzero_si512();
    const __m512i odd =
        2 * p + 1 < depth ? _mm512_maskz_loadu_epi16(mask, source + (2 * p + 1) * stride) : _mm512_setzero_si512();
    out[p] = _mm512_permutex2var_epi16(even, order, odd);
  }
}

// Rows r = 0..15 of 32 elements source[r][0..32), `rows` and `depth` of which exist.
inline void LoadRows(const uint16_t* source, int64_t stride, int64_t rows, int64_t depth, __m512i out[16]) {
  const __mmask32 mask = Mask32(depth);
  for (int64_t r = 0; r < 16; ++r)
    out[r] = r < rows ? _mm512_maskz_loadu_epi16(mask, source + r * stride) : _mm512_setzero_si512();
}

// b[k0 .. k0 + depth)[n0 .. n0 + cols) as tiles: panel by panel, step by step, left and right tile of 1 KiB each.
void PackB(const TileJob& job, int64_t k0, int64_t depth, int64_t n0, int64_t cols, uint16_t* out) {
  for (int64_t n = 0; n < cols; n += 16) {
    uint16_t* tile = out + n / kPanel * kPanel * RoundUp(depth, kStep) + n % kPanel / 16 * 512;
    for (int64_t k = 0; k < depth; k += kStep, tile += 1024) {
      __m512i r[16];
      if (job.b_transposed) {
        LoadRows(job.b + (n0 + n) * job.b_stride + k0 + k, job.b_stride, cols - n, depth - k, r);
        Transpose(r);
      } else {
        LoadPairs(job.b + (k0 + k) * job.b_stride + n0 + n, job.b_stride, depth - k, cols - n, r);
      }
      for (int64_t p = 0; p < 16; ++p) _mm512_store_si512(tile + p * 32, r[p]);
    }
  }
}

// a[m0 .. m0 + rows)[k0 .. k0 + depth) as 32 rows of RoundUp(depth, 32), zeros where there is nothing.
void PackA(const TileJob& job, int64_t m0, int64_t rows, int64_t k0, int64_t depth, uint16_t* out) {
  const int64_t stride = RoundUp(depth, kStep);
  for (int64_t m = 0; m < kStrip; m += 16) {
    for (int64_t k = 0; k < depth; k += kStep) {
      __m512i r[16];
      if (job.a_transposed) {
        LoadPairs(job.a + (k0 + k) * job.a_stride + m0 + m, job.a_stride, depth - k, rows - m, r);
        Transpose(r);
      } else {
        LoadRows(job.a + (m0 + m) * job.a_stride + k0 + k, job.a_stride, rows - m, depth - k, r);
      }
      for (int64_t i = 0; i < 16; ++i) _mm512_store_si512(out + (m + i) * stride + k, r[i]);
    }
  }
}

// y's tiles 0 (top left), 1 (top right), 2, 3 over `steps` tiles of depth. kRows, kCols: how many tiles there are each
// way.
template <int kRows, int kCols>
inline void Multiply(const uint16_t* a, int64_t a_stride, const uint16_t* b, int64_t steps, float* c, int64_t c_stride,
                     bool resume) {
  const auto c_bytes = static_cast<long>(c_stride * 4);
  const auto a_bytes = static_cast<long>(a_stride * 2);
  if (resume) {
    _tile_loadd(0, c, c_bytes);
    if (kCols > 1) _tile_loadd(1, c + 16, c_bytes);
    if (kRows > 1) _tile_loadd(2, c + 16 * c_stride, c_bytes);
    if (kRows > 1 && kCols > 1) _tile_loadd(3, c + 16 * c_stride + 16, c_bytes);
  } else {
    _tile_zero(0);
    if (kCols > 1) _tile_zero(1);
    if (kRows > 1) _tile_zero(2);
    if (kRows > 1 && kCols > 1) _tile_zero(3);
  }
  for (int64_t step = 0; step < steps; ++step, a += kStep, b += 1024) {
    _tile_loadd(4, a, a_bytes);
    _tile_loadd(6, b, 64);
    _tile_dpbf16ps(0, 4, 6);
    if (kCols > 1) {
      _tile_loadd(7, b + 512, 64);
      _tile_dpbf16ps(1, 4, 7);
    }
    if (kRows > 1) {
      _tile_loadd(5, a + 16 * a_stride, a_bytes);
      _tile_dpbf16ps(2, 5, 6);
      if (kCols > 1) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, c, c_bytes);
  if (kCols > 1) _tile_stored(1, c + 16, c_bytes);
  if (kRows > 1) _tile_stored(2, c + 16 * c_stride, c_bytes);
  if (kRows > 1 && kCols > 1) _tile_stored(3, c + 16 * c_stride + 16, c_bytes);
}

inline void MultiplyBlock(const uint16_t* a, int64_t a_stride, const uint16_t* b, int64_t steps, float* c,
                          int64_t c_stride, bool resume, int64_t rows, int64_t cols) {
  if (rows > 16) {
    cols > 16 ? Multiply<2, 2>(a, a_stride, b, steps, c, c_stride, resume)
              : Multiply<2, 1>(a, a_stride, b, steps, c, c_stride, resume);
  } else {
    cols > 16 ? Multiply<1, 2>(a, a_stride, b, steps, c, c_stride, resume)
              : Multiply<1, 1>(a, a_stride, b, steps, c, c_stride, resume);
  }
}

// Writes a finished block of fp32 sums into y.
void Finish(const TileJob& job, const float* c, int64_t c_stride, int64_t m0, int64_t rows, int64_t n0, int64_t cols) {
  const __m512 scale = _mm512_set1_ps(job.scale);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < cols; j += 16) {
      const auto mask = static_cast<__mmask16>(Mask32(Min(cols - j, 16)));
      __m512 value = _mm512_mul_ps(_mm512_loadu_ps(c + i * c_stride + j), scale);
      const int64_t at = (m0 + i) * job.y_stride + n0 + j;
      if (job.y_f32) {
        float* y = static_cast<float*>(job.y) + at;
        if (job.accumulate) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, y));
        _mm512_mask_storeu_ps(y, mask, value);
        continue;
      }
      uint16_t* y = static_cast<uint16_t*>(job.y) + at;
      if (job.accumulate) {
        const __m512i old = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, y));
        value = _mm512_add_ps(value, _mm512_castsi512_ps(_mm512_slli_epi32(old, 16)));
      }
      _mm256_mask_storeu_epi16(y, mask, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value)));
    }
  }
}

// Carved from the caller's scratch: packed b, a packed strip of a, the sums.
struct Scratch {
  uint16_t* b;
  uint16_t* a;
  float* c;
};

size_t PackedBytes(const TileJob& job) {
  return static_cast<size_t>(Depth(job.k) * RoundUp(Min(job.n, kChunk), kPanel)) * 2;
}
size_t StripBytes(const TileJob& job) { return static_cast<size_t>(Depth(job.k) * kStrip) * 2; }
bool Resumes(const TileJob& job) { return Depth(job.k) < job.k; }
int64_t SumStride(const TileJob& job) { return Resumes(job) ? RoundUp(Min(job.n, kChunk), kPanel) : kPanel; }

void RunChunk(const TileJob& job, const Scratch& scratch, int64_t n0, int64_t cols, int64_t k0) {
  const int64_t depth = Min(Depth(job.k), job.k - k0);
  const int64_t padded = RoundUp(depth, kStep);
  const bool last = k0 + depth == job.k;
  const int64_t c_stride = SumStride(job);
  PackB(job, k0, depth, n0, cols, scratch.b);
  for (int64_t m = 0; m < job.m; m += kStrip) {
    const int64_t rows = Min(kStrip, job.m - m);
    const uint16_t* a = job.a + m * job.a_stride + k0;
    int64_t a_stride = job.a_stride;
    if (job.a_transposed || depth % kStep != 0 || rows % 16 != 0) {
      PackA(job, m, rows, k0, depth, scratch.a);
      a = scratch.a;
      a_stride = padded;
    }
    for (int64_t n = 0; n < cols; n += kPanel) {
      float* c = Resumes(job) ? scratch.c + m * c_stride + n : scratch.c;
      const int64_t width = Min(kPanel, cols - n);
      MultiplyBlock(a, a_stride, scratch.b + n * padded, padded / kStep, c, c_stride, k0 > 0, rows, width);
      if (last) Finish(job, c, c_stride, m, rows, n0 + n, width);
    }
  }
}

}  // namespace

size_t TileScratchBytes(const TileJob& job) {
  const int64_t sum_rows = Resumes(job) ? RoundUp(job.m, kStrip) : kStrip;
  return PackedBytes(job) + StripBytes(job) + static_cast<size_t>(sum_rows * SumStride(job)) * 4;
}

void ConfigureTiles() {
  // Static: GCC's intrinsic declares to read eight bytes of it, and would drop the stores of a local's others.
  static constexpr TileConfig kConfig;
  _tile_loadconfig(&kConfig);
}

void ReleaseTiles() { _tile_release(); }

void RunTiles(const TileJob& job, void* memory) {
  auto* bytes = static_cast<char*>(memory);
  const Scratch scratch = {.b = reinterpret_cast<uint16_t*>(bytes),
                           .a = reinterpret_cast<uint16_t*>(bytes + PackedBytes(job)),
                           .c = reinterpret_cast<float*>(bytes + PackedBytes(job) + StripBytes(job))};
  for (int64_t n = 0; n < job.n; n += kChunk) {
    for (int64_t k = 0; k < job.k; k += Depth(job.k)) RunChunk(job, scratch, n, Min(kChunk, job.n - n), k);
  }
}

}  // namespace strata::kernels
