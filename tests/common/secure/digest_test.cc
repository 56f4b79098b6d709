#include "common/secure/digest.h"

#include <array>
#include <string>
#include <utility>

#include "gtest/gtest.h"

namespace strata::secure {
namespace {

std::span<const std::byte> Bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

// A fixed sequence without structure that a CRC could miss.
std::string Pattern(size_t n) {
  std::string text(n, '\0');
  uint32_t state = 12345;
  for (char& c : text) {
    state = state * 1664525 + 1013904223;
    c = static_cast<char>(state >> 24);
  }
  return text;
}

TEST(Sha256Test, KnownAnswersOfFips180) {
  EXPECT_EQ(ToHex(Sha256("")), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(ToHex(Sha256("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(ToHex(Sha256(std::string(1000000, 'a'))),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256Test, StreamInPiecesEqualsTheWhole) {
  const std::string text = Pattern(10000);
  for (const size_t piece : {size_t{1}, size_t{63}, size_t{64}, size_t{65}, size_t{4096}}) {
    Sha256Stream stream;
    for (size_t i = 0; i < text.size(); i += piece) stream.Update(Bytes(std::string_view(text).substr(i, piece)));
    stream.Update({});
    Sha256Stream moved = std::move(stream);
    EXPECT_EQ(moved.Finish(), Sha256(text)) << piece;
  }
}

TEST(HexTest, RoundTripAndRefusals) {
  std::string all;
  for (int i = 0; i < 256; ++i) all.push_back(static_cast<char>(i));
  EXPECT_EQ(FromHex(ToHex(all)), all);
  EXPECT_EQ(FromHex("0aFf"), std::string("\x0a\xff", 2));
  EXPECT_EQ(FromHex("abc"), "");
  EXPECT_EQ(FromHex("0g"), "");
}

// RFC 3720, appendix B.4.
TEST(Crc32cTest, KnownAnswers) {
  std::array<std::byte, 32> block{};
  EXPECT_EQ(Crc32c(block), 0x8A9136AAU);
  block.fill(std::byte{0xff});
  EXPECT_EQ(Crc32c(block), 0x62A8AB43U);
  for (size_t i = 0; i < 32; ++i) block[i] = static_cast<std::byte>(i);
  EXPECT_EQ(Crc32c(block), 0x46DD794EU);
  for (size_t i = 0; i < 32; ++i) block[i] = static_cast<std::byte>(31 - i);
  EXPECT_EQ(Crc32c(block), 0x113FDB5CU);
  EXPECT_EQ(Crc32c(Bytes("123456789")), 0xE3069283U);
  EXPECT_EQ(Crc32c({}), 0U);
}

TEST(Crc32cTest, InstructionAndTableAgreeAtEveryLengthAndAlignment) {
  const std::string text = Pattern(20000);
  for (size_t n = 0; n < 300; ++n) {
    const auto piece = Bytes(std::string_view(text).substr(n % 9, n));
    ASSERT_EQ(Crc32c(piece), Crc32cPortable(piece)) << n;
  }
  for (const size_t n : {3071, 3072, 3073, 6144, 9000, 19991}) {
    const auto piece = Bytes(std::string_view(text).substr(3, n));
    ASSERT_EQ(Crc32c(piece), Crc32cPortable(piece)) << n;
  }
}

TEST(Crc32cTest, Continues) {
  const std::string text = Pattern(12000);
  for (const size_t cut : {0, 1, 7, 4000, 11999, 12000}) {
    const std::string_view whole = text;
    EXPECT_EQ(Crc32c(Bytes(whole.substr(cut)), Crc32c(Bytes(whole.substr(0, cut)))), Crc32c(Bytes(whole)));
  }
}

}  // namespace
}  // namespace strata::secure
