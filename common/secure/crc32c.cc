#include <array>
#include <cstdint>
#include <cstring>

#include "common/secure/digest.h"

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace strata::secure {
namespace {

constexpr uint32_t kPolynomial = 0x82F63B78;  // Castagnoli, bit-reflected

// bytewise[k][v]: the register that byte v leaves behind after k further zero bytes (slicing by 8).
constexpr std::array<std::array<uint32_t, 256>, 8> MakeSlices() {
  std::array<std::array<uint32_t, 256>, 8> slices{};
  for (uint32_t v = 0; v < 256; ++v) {
    uint32_t crc = v;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomial : 0);
    slices[0][v] = crc;
  }
  for (size_t k = 1; k < 8; ++k) {
    for (size_t v = 0; v < 256; ++v) {
      slices[k][v] = (slices[k - 1][v] >> 8) ^ slices[0][slices[k - 1][v] & 255];
    }
  }
  return slices;
}
constexpr auto kSlices = MakeSlices();

uint64_t Load64(const std::byte* p) {
  uint64_t word = 0;
  std::memcpy(&word, p, sizeof(word));
  return word;
}

// Works on the bare register: no inversion before or after.
uint32_t ExtendByTable(uint32_t crc, const std::byte* p, size_t n) {
  for (; n >= 8; n -= 8, p += 8) {
    const uint64_t word = Load64(p) ^ crc;
    crc = 0;
    for (size_t i = 0; i < 8; ++i) crc ^= kSlices[7 - i][(word >> (8 * i)) & 255];
  }
  for (; n > 0; --n, ++p) crc = (crc >> 8) ^ kSlices[0][(crc ^ static_cast<uint32_t>(*p)) & 255];
  return crc;
}

#if defined(__x86_64__)

// The instruction has a latency of 3 and a throughput of 1: three lanes of this many bytes run side by side and are
// joined by shifting a lane's register over the zeros of what follows it.
constexpr size_t kLane = 1024;

using ShiftTable = std::array<std::array<uint32_t, 256>, 4>;

// The register after kLane zero bytes is linear in the register before: one table per byte of it.
ShiftTable MakeShift() {
  const std::array<std::byte, kLane> zeros{};
  std::array<uint32_t, 32> columns{};
  for (size_t bit = 0; bit < 32; ++bit) columns[bit] = ExtendByTable(uint32_t{1} << bit, zeros.data(), zeros.size());
  ShiftTable table{};
  for (size_t byte = 0; byte < 4; ++byte) {
    for (size_t v = 0; v < 256; ++v) {
      for (size_t bit = 0; bit < 8; ++bit) {
        if ((v >> bit & 1) != 0) table[byte][v] ^= columns[8 * byte + bit];
      }
    }
  }
  return table;
}

uint32_t Shift(const ShiftTable& table, uint32_t crc) {
  return table[0][crc & 255] ^ table[1][crc >> 8 & 255] ^ table[2][crc >> 16 & 255] ^ table[3][crc >> 24];
}

__attribute__((target("sse4.2"))) uint32_t ExtendByInstruction(uint32_t crc, const std::byte* p, size_t n) {
  static const ShiftTable table = MakeShift();
  for (; n >= 3 * kLane; n -= 3 * kLane, p += 3 * kLane) {
    uint64_t a = crc;
    uint64_t b = 0;
    uint64_t c = 0;
    for (size_t i = 0; i < kLane; i += 8) {
      a = _mm_crc32_u64(a, Load64(p + i));
      b = _mm_crc32_u64(b, Load64(p + kLane + i));
      c = _mm_crc32_u64(c, Load64(p + 2 * kLane + i));
    }
    crc = Shift(table, static_cast<uint32_t>(a)) ^ static_cast<uint32_t>(b);
    crc = Shift(table, crc) ^ static_cast<uint32_t>(c);
  }
  uint64_t wide = crc;
  for (; n >= 8; n -= 8, p += 8) wide = _mm_crc32_u64(wide, Load64(p));
  crc = static_cast<uint32_t>(wide);
  for (; n > 0; --n, ++p) crc = _mm_crc32_u8(crc, static_cast<uint8_t>(*p));
  return crc;
}

#endif

}  // namespace

uint32_t Crc32cPortable(std::span<const std::byte> data, uint32_t crc) {
  return ~ExtendByTable(~crc, data.data(), data.size());
}

uint32_t Crc32c(std::span<const std::byte> data, uint32_t crc) {
#if defined(__x86_64__)
  static const bool has_instruction = __builtin_cpu_supports("sse4.2") != 0;
  if (has_instruction) return ~ExtendByInstruction(~crc, data.data(), data.size());
#endif
  return Crc32cPortable(data, crc);
}

}  // namespace strata::secure
