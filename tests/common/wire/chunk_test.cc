#include "common/wire/chunk.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "common/secure/digest.h"
#include "proto/federation.pb.h"

namespace strata::wire {
namespace {

std::span<const std::byte> Bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

std::string Text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string Joined(const ChunkView& chunk) {
  std::string all;
  for (const auto& piece : chunk.data) all += Text(piece);
  return all;
}

absl::StatusOr<ChunkView> ParseWhole(std::string_view bytes) {
  const std::array<std::span<const std::byte>, 1> pieces = {Bytes(bytes)};
  return ParseChunk(pieces);
}

v1::Chunk Sample(uint64_t offset, const std::string& data) {
  v1::Chunk chunk;
  chunk.set_offset(offset);
  chunk.set_crc32c(secure::Crc32c(Bytes(data)));
  chunk.set_data(data);
  return chunk;
}

TEST(ChunkTest, GeneratedCodeReadsWhatWeWrite) {
  for (uint64_t offset : {uint64_t{0}, uint64_t{1}, uint64_t{127}, uint64_t{128}, uint64_t{1} << 40, UINT64_MAX}) {
    for (size_t size : {size_t{0}, size_t{1}, size_t{127}, size_t{128}, size_t{70000}}) {
      const std::string data(size, 'x');
      const ChunkHeader header(offset, Bytes(data));
      v1::Chunk chunk;
      ASSERT_TRUE(chunk.ParseFromString(Text(header.bytes()) + data));
      EXPECT_EQ(chunk.offset(), offset);
      EXPECT_EQ(chunk.crc32c(), secure::Crc32c(Bytes(data)));
      EXPECT_EQ(chunk.data(), data);
    }
  }
}

TEST(ChunkTest, WeReadWhatGeneratedCodeWrites) {
  for (uint64_t offset : {uint64_t{0}, uint64_t{300}, UINT64_MAX}) {
    for (size_t size : {size_t{0}, size_t{5}, size_t{70000}}) {
      const v1::Chunk chunk = Sample(offset, std::string(size, 'y'));
      const std::string bytes = chunk.SerializeAsString();
      absl::StatusOr<ChunkView> view = ParseWhole(bytes);
      ASSERT_TRUE(view.ok()) << view.status();
      EXPECT_EQ(view->offset, offset);
      EXPECT_EQ(Joined(*view), chunk.data());
    }
  }
}

TEST(ChunkTest, PiecesMayBeCutAnywhere) {
  const std::string bytes = Sample(1234567, "payload of a chunk").SerializeAsString();
  for (size_t a = 0; a <= bytes.size(); ++a) {
    for (size_t b = a; b <= bytes.size(); ++b) {
      const std::array<std::span<const std::byte>, 5> pieces = {
          Bytes(""), Bytes(bytes).first(a), Bytes(bytes).subspan(a, b - a), Bytes(""), Bytes(bytes).subspan(b)};
      absl::StatusOr<ChunkView> view = ParseChunk(pieces);
      ASSERT_TRUE(view.ok()) << view.status();
      EXPECT_EQ(view->offset, 1234567);
      EXPECT_EQ(Joined(*view), "payload of a chunk");
    }
  }
}

TEST(ChunkTest, FieldOrderRepetitionAndUnknownFields) {
  const std::string crc = Text(ChunkHeader(0, Bytes("abc")).bytes()).substr(2, 5);
  const std::string data(
      "\x1a\x03"
      "abc",
      5);
  const std::string unknown_varint("\x20\xff\x01", 3);  // field 4
  const std::string unknown_text(
      "\x2a\x02"
      "hi",
      4);                                                  // field 5
  const std::string unknown_group("\x33\x20\x01\x34", 4);  // field 6
  const std::string unknown_fixed(
      "\x39"
      "12345678",
      9);  // field 7
  const std::string wrong_type(
      "\x0d"
      "1234",
      5);  // field 1 as fixed32: unknown to protobuf
  const std::string offset("\x08\x05", 2), old_offset("\x08\x09", 2);
  const std::string old_data(
      "\x1a\x02"
      "zz",
      4);
  const std::string bytes = old_data + unknown_group + data + unknown_varint + old_offset + crc + unknown_text +
                            wrong_type + unknown_fixed + offset;
  v1::Chunk reference;
  ASSERT_TRUE(reference.ParseFromString(bytes));
  absl::StatusOr<ChunkView> view = ParseWhole(bytes);
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(view->offset, reference.offset());
  EXPECT_EQ(view->offset, 5);
  EXPECT_EQ(Joined(*view), "abc");
}

TEST(ChunkTest, EveryFlippedBitOfThePayloadIsSeen) {
  std::string bytes = Sample(7, "some tensor bytes").SerializeAsString();
  const size_t begin = bytes.size() - 17;
  for (size_t i = begin; i < bytes.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      bytes[i] = static_cast<char>(bytes[i] ^ (1 << bit));
      EXPECT_EQ(ParseWhole(bytes).status().code(), absl::StatusCode::kDataLoss);
      bytes[i] = static_cast<char>(bytes[i] ^ (1 << bit));
    }
  }
}

TEST(ChunkTest, TruncationYieldsNoData) {
  const std::string bytes = Sample(70000, "0123456789").SerializeAsString();
  for (size_t size = 1; size < bytes.size(); ++size) {
    absl::StatusOr<ChunkView> view = ParseWhole(std::string_view(bytes).substr(0, size));
    EXPECT_TRUE(!view.ok() || view->data_bytes == 0) << size;  // an offset alone is a valid, empty chunk
  }
}

TEST(ChunkTest, LimitsHold) {
  EXPECT_THAT(
      std::string(ParseWhole(Sample(0, std::string(kMaxChunkBytes + 1, 'x')).SerializeAsString()).status().message()),
      ::testing::HasSubstr("at most"));
  EXPECT_TRUE(ParseWhole(Sample(0, std::string(kMaxChunkBytes, 'x')).SerializeAsString()).ok());
  EXPECT_FALSE(ParseWhole(std::string(1000, '\x33')).ok());  // groups in groups
  EXPECT_FALSE(ParseWhole(std::string("\x1a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11)).ok());
  EXPECT_FALSE(ParseWhole(std::string("\x00\x00", 2)).ok());
}

TEST(ChunkTest, AgreesWithGeneratedCodeOnRandomBytes) {
  std::mt19937 random(1);
  const std::string seed = Sample(300, "abcdefgh").SerializeAsString();
  int accepted = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string bytes = seed;
    for (int n = random() % 3; n >= 0; --n) bytes[random() % bytes.size()] = static_cast<char>(random());
    v1::Chunk reference;
    const bool valid = reference.ParseFromString(bytes);
    absl::StatusOr<ChunkView> view = ParseWhole(bytes);
    if (view.ok()) {
      ++accepted;
      ASSERT_TRUE(valid);
      EXPECT_EQ(view->offset, reference.offset());
      EXPECT_EQ(Joined(*view), reference.data());
    } else if (view.status().code() == absl::StatusCode::kInvalidArgument) {
      EXPECT_FALSE(valid) << view.status();
    } else {
      EXPECT_TRUE(valid);
    }
  }
  EXPECT_GT(accepted, 100);
}

}  // namespace
}  // namespace strata::wire
