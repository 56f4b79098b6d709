#include "common/format/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "common/format/safetensors.h"
#include "tests/common/format/test_files.h"
#include "tests/testing/golden.h"

namespace strata::format {
namespace {

using ::testing::HasSubstr;

std::string ErrorOf(const std::string& bytes) {
  const auto parsed = Gguf::Parse(AsBytes(bytes), "dir/m.gguf");
  if (parsed.ok()) return "parsed";
  EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("dir/m.gguf: "));
  return std::string(parsed.status().message());
}

// Every tensor of `path` decodes to the bits of the expected file, whole and row by row.
void ExpectDecodesAs(const std::string& path) {
  SCOPED_TRACE(path);
  const std::string bytes = ReadAll(path + ".gguf");
  const std::string expected_bytes = ReadAll(path + ".expected.safetensors");
  const auto gguf = Gguf::Parse(AsBytes(bytes), path);
  const auto expected = Safetensors::Parse(AsBytes(expected_bytes), path);
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  ASSERT_TRUE(expected.ok()) << expected.status();
  ASSERT_EQ(gguf->tensors().size(), expected->tensors().size());
  for (const GgufTensor& tensor : gguf->tensors()) {
    SCOPED_TRACE(tensor.name);
    const TensorView* want = expected->Find(tensor.name);
    ASSERT_NE(want, nullptr);
    ASSERT_EQ(tensor.shape, want->shape);
    std::vector<float> out(static_cast<size_t>(tensor.num_elements()));
    const absl::Status decoded = DecodeGgufRows(tensor, 0, out);
    ASSERT_TRUE(decoded.ok()) << decoded;
    EXPECT_EQ(std::memcmp(out.data(), want->data.data(), want->data.size()), 0);
    const auto row = static_cast<size_t>(tensor.shape.back());
    std::vector<float> one(row);
    for (size_t r = 0; r < out.size() / row; ++r) {
      ASSERT_TRUE(DecodeGgufRows(tensor, static_cast<int64_t>(r), one).ok());
      EXPECT_EQ(std::memcmp(one.data(), out.data() + r * row, row * sizeof(float)), 0);
    }
    EXPECT_EQ(DecodeGgufRows(tensor, tensor.shape[0], one).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(DecodeGgufRows(tensor, -1, one).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(DecodeGgufRows(tensor, 0, std::span(one).first(row - 1)).code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(Gguf, PlainTensorsDecodeToTheReferenceBits) { ExpectDecodesAs(testing::GoldenDir("gguf/simple")); }

TEST(Gguf, QuantisedTensorsDecodeToTheReferenceBits) { ExpectDecodesAs(testing::GoldenDir("gguf/quantised")); }

TEST(Gguf, LookUpsNameTheKeyAndTheTypeFound) {
  const std::string bytes = GgufBytes(0, 2).String("a").U32(4).U32(7).String("b").U32(8).String("text").str();
  const auto gguf = Gguf::Parse(AsBytes(bytes), "x");
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  EXPECT_EQ(gguf->GetUint("none").status().code(), absl::StatusCode::kNotFound);
  const auto wrong = gguf->GetUint("b");
  EXPECT_EQ(wrong.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(wrong.status().message()), HasSubstr("'b': expected an unsigned integer, found a string"));
  EXPECT_EQ(gguf->GetStrings("a").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(gguf->GetFloat("a").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Gguf, NamesWhatIsWrong) {
  EXPECT_THAT(ErrorOf(""), HasSubstr("the magic number needs 4 bytes, 0 are left"));
  EXPECT_THAT(ErrorOf("GGML12345678901234567890"), HasSubstr("no GGUF file"));
  EXPECT_THAT(ErrorOf(GgufBytes(0, 0, 1).str()), HasSubstr("version 1; expected 2 or 3"));
  EXPECT_THAT(ErrorOf(GgufBytes(0, 0, 0x03000000).str()), HasSubstr("big-endian"));
  EXPECT_THAT(ErrorOf(GgufBytes(1ULL << 60, 0).str()), HasSubstr("cannot hold as many"));
  EXPECT_THAT(ErrorOf(GgufBytes(0, 1).String("k").U32(13).U32(0).str()),
              HasSubstr("key 'k' at byte 24: unknown value"));
  EXPECT_THAT(ErrorOf(GgufBytes(0, 1).String("k").U32(7).U8(2).str()), HasSubstr("boolean of value 2"));
  EXPECT_THAT(ErrorOf(GgufBytes(0, 1).String("k").U32(9).U32(8).U64(1ULL << 40).str()), HasSubstr("cannot hold"));
  EXPECT_THAT(ErrorOf(GgufBytes(0, 1).String("k").U32(9).U32(77).U64(1).str()), HasSubstr("element type 77"));
  EXPECT_THAT(ErrorOf(GgufBytes(0, 2).String("k").U32(4).U32(1).String("k").U32(4).U32(1).str()), HasSubstr("twice"));
  GgufBytes nested(0, 1);
  nested.String("k").U32(9);
  for (int i = 0; i < 40; ++i) nested.U32(9).U64(1);
  EXPECT_THAT(ErrorOf(nested.U32(4).U64(0).str()), HasSubstr("nested deeper"));
}

TEST(Gguf, RefusesTensorTablesThatContradictThemselves) {
  EXPECT_THAT(ErrorOf(GgufBytes(1).Tensor("t", {8}, 0, 0).Data(32, 16).str()), HasSubstr("'t': bytes [0, 0 + 32)"));
  EXPECT_THAT(ErrorOf(GgufBytes(1).Tensor("t", {8}, 0, 1ULL << 63).Data(32, 64).str()), HasSubstr("of 64 bytes"));
  EXPECT_THAT(ErrorOf(GgufBytes(1).Tensor("t", {1}, 0, 4).Data(32, 64).str()), HasSubstr("alignment 32"));
  EXPECT_THAT(ErrorOf(GgufBytes(1).Tensor("t", {33}, 8, 0).Data(32, 64).str()), HasSubstr("do not fit Q8_0's blocks"));
  EXPECT_THAT(ErrorOf(GgufBytes(1).Tensor("t", {1ULL << 40, 1ULL << 40}, 0, 0).Data(32, 64).str()),
              HasSubstr("too large"));
  EXPECT_THAT(ErrorOf(GgufBytes(1).Tensor("t", {1, 1, 1, 1, 1}, 0, 0).Data(32, 64).str()), HasSubstr("5 dimensions"));
  EXPECT_THAT(ErrorOf(GgufBytes(2).Tensor("t", {16}, 0, 0).Tensor("u", {8}, 0, 32).Data(32, 64).str()),
              HasSubstr("'u' overlaps tensor 't'"));
  EXPECT_THAT(ErrorOf(GgufBytes(2).Tensor("t", {8}, 0, 0).Tensor("t", {8}, 0, 32).Data(32, 64).str()),
              HasSubstr("'t' at byte"));
  EXPECT_THAT(ErrorOf(GgufBytes(0, 1).String("general.alignment").U32(4).U32(3).str()), HasSubstr("power of two"));
}

TEST(Gguf, AnUnknownEncodingIsListedAndRefusedWhenDecoded) {
  const std::string bytes = GgufBytes(1).Tensor("t", {8}, 999, 0).Data(32, 64).str();
  const auto gguf = Gguf::Parse(AsBytes(bytes), "x");
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  std::vector<float> out(8);
  EXPECT_EQ(DecodeGgufRows(*gguf->Find("t"), 0, out).code(), absl::StatusCode::kUnimplemented);
}

TEST(Gguf, EveryTruncationAndEveryChangedByteIsAnswered) {
  const std::string bytes = GgufBytes(2, 3)
                                .String("general.architecture")
                                .U32(8)
                                .String("llama")
                                .String("arr")
                                .U32(9)
                                .U32(8)
                                .U64(2)
                                .String("x")
                                .String("yz")
                                .String("b")
                                .U32(7)
                                .U8(1)
                                .Tensor("t", {8, 2}, 0, 0)
                                .Tensor("q", {32}, 8, 64)
                                .Data(32, 64 + 34)
                                .str();
  ASSERT_EQ(ErrorOf(bytes), "parsed");
  for (size_t cut = 0; cut < bytes.size(); ++cut) EXPECT_NE(ErrorOf(bytes.substr(0, cut)), "parsed") << cut;
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (int value = 0; value < 256; ++value) {
      std::string changed = bytes;
      changed[i] = static_cast<char>(value);
      const auto parsed = Gguf::Parse(AsBytes(changed), "x");
      if (!parsed.ok()) continue;
      for (const GgufTensor& tensor : parsed->tensors()) {
        if (tensor.num_elements() > 4096) continue;
        std::vector<float> out(static_cast<size_t>(tensor.num_elements()));
        DecodeGgufRows(tensor, 0, out).IgnoreError();
      }
    }
  }
}

}  // namespace
}  // namespace strata::format
