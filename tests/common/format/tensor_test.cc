#include "common/format/tensor.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "tests/common/format/test_files.h"

namespace strata::format {
namespace {

// The value of a half from its definition.
double HalfByDefinition(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int mantissa = bits & 1023;
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

TEST(Half, EveryValueWidensToItsDefinitionAndComesBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = HalfToFloat(static_cast<uint16_t>(bits));
    const uint32_t exponent = (bits >> 10) & 31;
    if (exponent == 31) {
      EXPECT_EQ(std::isnan(value), (bits & 1023) != 0) << bits;
      EXPECT_EQ(std::isinf(value), (bits & 1023) == 0) << bits;
    } else {
      ASSERT_EQ(value, HalfByDefinition(static_cast<uint16_t>(bits))) << bits;
    }
    ASSERT_EQ(std::signbit(value), (bits & 0x8000) != 0) << bits;
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(HalfToFloat(FloatToHalf(value))));
    } else {
      ASSERT_EQ(FloatToHalf(value), bits);
    }
  }
}

TEST(Half, RoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x7bff; ++bits) {
    const double low = HalfByDefinition(static_cast<uint16_t>(bits));
    const double high = HalfByDefinition(static_cast<uint16_t>(bits + 1));
    const auto middle = static_cast<float>((low + high) / 2);
    ASSERT_EQ(static_cast<double>(middle), (low + high) / 2);
    ASSERT_EQ(FloatToHalf(middle), bits % 2 == 0 ? bits : bits + 1);
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, 0.0F)), bits);
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, 1e9F)), bits + 1);
  }
  EXPECT_EQ(FloatToHalf(65519.99F), 0x7bff);
  EXPECT_EQ(FloatToHalf(65520.0F), 0x7c00);
  EXPECT_EQ(FloatToHalf(-1e30F), 0xfc00);
  EXPECT_EQ(FloatToHalf(-1e-30F), 0x8000);
}

TEST(BF16, RoundsToNearestEvenAndKeepsNaN) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = BF16ToFloat(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(BF16ToFloat(FloatToBF16(value))));
    } else {
      ASSERT_EQ(FloatToBF16(value), bits);
    }
  }
  EXPECT_EQ(FloatToBF16(std::bit_cast<float>(0x3f808000U)), 0x3f80);
  EXPECT_EQ(FloatToBF16(std::bit_cast<float>(0x3f818000U)), 0x3f82);
  EXPECT_EQ(FloatToBF16(std::bit_cast<float>(0x3f808001U)), 0x3f81);
  EXPECT_EQ(FloatToBF16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_TRUE(std::isnan(BF16ToFloat(FloatToBF16(std::bit_cast<float>(0x7f800001U)))));
}

TEST(Widening, ReadsUnalignedBytesOfEveryFloatingType) {
  const std::vector<double> values = {0, -0.0, 1.5, -2.25, 1e-3, 65504};
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kF16, DType::kBF16}) {
    std::string bytes = "x";
    std::vector<float> expected;
    for (const double v : values) {
      const auto f = static_cast<float>(v);
      if (dtype == DType::kF64) Put(bytes, v);
      if (dtype == DType::kF32) Put(bytes, f);
      if (dtype == DType::kF16) Put(bytes, FloatToHalf(f));
      if (dtype == DType::kBF16) Put(bytes, FloatToBF16(f));
      expected.push_back(dtype == DType::kF16    ? HalfToFloat(FloatToHalf(f))
                         : dtype == DType::kBF16 ? BF16ToFloat(FloatToBF16(f))
                                                 : f);
    }
    const TensorView tensor{.name = "t", .dtype = dtype, .shape = {2, 3}, .data = AsBytes(bytes).subspan(1)};
    std::vector<float> floats(6);
    std::vector<double> doubles(6);
    ASSERT_TRUE(ToFloat(tensor, floats).ok());
    ASSERT_TRUE(ToDouble(tensor, doubles).ok());
    EXPECT_EQ(floats, expected);
    EXPECT_EQ(dtype == DType::kF64, doubles == values);
    floats.resize(5);
    EXPECT_EQ(ToFloat(tensor, floats).code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(Widening, RefusesIntegers) {
  const std::string bytes(8, '\0');
  std::vector<float> out(1);
  const absl::Status status = ToFloat({.name = "ids", .dtype = DType::kI64, .shape = {1}, .data = AsBytes(bytes)}, out);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("I64"), absl::string_view::npos);
}

TEST(DTypes, NamesGoBothWays) {
  for (int i = 0; i < 10; ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(ParseDType(DTypeName(dtype)).value(), dtype);
  }
  EXPECT_EQ(ParseDType("F8_E4M3").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace strata::format
