#include "common/runtime/random.h"

#include <bit>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>

#include "common/secure/digest.h"

namespace strata::runtime {
namespace {

constexpr uint32_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
constexpr int kRounds = 10;

void AppendLittleEndian(std::string& out, uint64_t value) {
  for (int i = 0; i < 8; ++i) out.push_back(static_cast<char>((value >> (8 * i)) & 0xFF));
}

uint64_t DeriveKey(const RandomKey& key) {
  std::string text;
  AppendLittleEndian(text, key.purpose.size());
  text.append(key.purpose);
  AppendLittleEndian(text, key.seed);
  AppendLittleEndian(text, key.round);
  AppendLittleEndian(text, key.site.size());
  text.append(key.site);
  const std::string digest = secure::Sha256(std::string_view(text));
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = (value << 8) | static_cast<uint8_t>(digest[static_cast<size_t>(i)]);
  return value;
}

// ln(1 + x) / x on [sqrt(1/2) - 1, sqrt(2) - 1]: interpolation at Chebyshev nodes, relative error below 5e-13.
constexpr std::array<double, 15> kLogSeries = {
    0x1.00000000003d2p+0,  -0x1.ffffffffbe94ep-2, 0x1.5555555191743p-2,  -0x1.0000004a692d7p-2, 0x1.99999eb52a0abp-3,
    -0x1.5555271e49d97p-3, 0x1.2490f1832168bp-3,  -0x1.0005a3607488fp-3, 0x1.c7737f21fde3ep-4,  -0x1.99151feb20f1cp-4,
    0x1.6ec333b6e3300p-4,  -0x1.54aea122c9debp-4, 0x1.666aa6302fb3fp-4,  -0x1.5ad81ea89aee3p-4, 0x1.5e07203fdaa55p-5};
constexpr double kLn2 = 0x1.62e42fefa39efp-1;

// -ln(n * 2^-32) for n in [1, 2^32], by integer normalisation and the series.
double NegativeLog(uint64_t n) {
  const int exponent = std::bit_width(n) - 1;
  // Exact: n has at most 33 bits, and scaling by a power of two is exact.
  double mantissa = static_cast<double>(n) * std::bit_cast<double>(static_cast<uint64_t>(1023 - exponent) << 52);
  int power = exponent - 32;
  if (mantissa > 0x1.6a09e667f3bcdp+0) {  // sqrt(2)
    mantissa *= 0.5;
    ++power;
  }
  const double x = mantissa - 1.0;
  double series = 0;
  for (size_t i = kLogSeries.size(); i-- > 0;) series = series * x + kLogSeries[i];
  return -(static_cast<double>(power) * kLn2 + series * x);
}

// cos and sin of 2 pi * word * 2^-32: octant by integer bits, Taylor series on [0, pi/4] (remainder below 4e-13).
std::pair<double, double> CosSin(uint32_t word) {
  const uint32_t octant = word >> 29;
  uint32_t rest = word & 0x1FFFFFFF;
  if ((octant & 1) != 0) rest = 0x20000000 - rest;
  const double x = static_cast<double>(rest) * 0x1.921fb54442d18p-30;  // (pi / 4) * 2^-29 * rest
  const double y = x * x;
  const double sine =
      x *
      (1.0 + y * (-0x1.5555555555555p-3 +
                  y * (0x1.1111111111111p-7 +
                       y * (-0x1.a01a01a01a01ap-13 +
                            y * (0x1.71de3a556c734p-19 + y * (-0x1.ae64567f544e4p-26 + y * 0x1.6124613a86d09p-33))))));
  const double cosine =
      1.0 +
      y * (-0.5 + y * (0x1.5555555555555p-5 +
                       y * (-0x1.6c16c16c16c17p-10 +
                            y * (0x1.a01a01a01a01ap-16 + y * (-0x1.27e4fb7789f5cp-22 + y * 0x1.1eed8eff8d898p-29)))));
  switch (octant) {
    case 0:
      return {cosine, sine};
    case 1:
      return {sine, cosine};
    case 2:
      return {-sine, cosine};
    case 3:
      return {-cosine, sine};
    case 4:
      return {-cosine, -sine};
    case 5:
      return {-sine, -cosine};
    case 6:
      return {sine, -cosine};
    default:
      return {cosine, -sine};
  }
}

}  // namespace

Philox::Philox(const RandomKey& key) : key_(DeriveKey(key)) {}

std::array<uint32_t, 4> Philox::Block(uint64_t counter_low, uint64_t counter_high) const {
  std::array<uint32_t, 4> c = {static_cast<uint32_t>(counter_low), static_cast<uint32_t>(counter_low >> 32),
                               static_cast<uint32_t>(counter_high), static_cast<uint32_t>(counter_high >> 32)};
  auto k0 = static_cast<uint32_t>(key_);
  auto k1 = static_cast<uint32_t>(key_ >> 32);
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(kMultiplier0) * c[0];
    const uint64_t product1 = static_cast<uint64_t>(kMultiplier1) * c[2];
    c = {static_cast<uint32_t>(product1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(product1),
         static_cast<uint32_t>(product0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(product0)};
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
  return c;
}

uint32_t Philox::Word(uint64_t index) const { return Block(index / 4)[index % 4]; }

float Philox::Uniform(uint64_t index) const { return static_cast<float>(Word(index) >> 8) * 0x1p-24F; }

float Philox::Normal(uint64_t index) const {
  const std::array<uint32_t, 4> block = Block(index / 4);
  const size_t pair = index % 4 / 2 * 2;
  const double radius = std::sqrt(2.0 * NegativeLog(uint64_t{block[pair]} + 1));
  const auto [cosine, sine] = CosSin(block[pair + 1]);
  return static_cast<float>(radius * (index % 2 == 0 ? cosine : sine));
}

uint64_t Philox::Below(uint64_t index, uint64_t bound) const {
  // Lemire's multiply-and-reject. Attempt k of element i is the block (i, k + 1): never a block of Word.
  const uint64_t threshold = (0 - bound) % bound;
  for (uint64_t attempt = 1;; ++attempt) {
    const std::array<uint32_t, 4> block = Block(index, attempt);
    const uint64_t random = (static_cast<uint64_t>(block[1]) << 32) | block[0];
    __extension__ using Wide = unsigned __int128;
    const Wide product = static_cast<Wide>(random) * bound;
    if (static_cast<uint64_t>(product) >= threshold) return static_cast<uint64_t>(product >> 64);
  }
}

void Philox::Permutation(std::span<uint32_t> values) const {
  std::iota(values.begin(), values.end(), 0U);
  for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[Below(i - 1, i)]);
}

}  // namespace strata::runtime
