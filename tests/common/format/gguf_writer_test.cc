#include "common/format/gguf_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "tests/common/format/test_files.h"
#include "tests/testing/golden.h"

namespace strata::format {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Padded(std::string data) {
  data.resize((data.size() + kGgufAlignment - 1) / kGgufAlignment * kGgufAlignment);
  return data;
}

TEST(GgufWriter, WhatIsWrittenIsReadBack) {
  GgufMetadata metadata;
  metadata.SetString("general.architecture", "llama");
  metadata.SetUint("llama.block_count", 7);
  metadata.SetFloat("llama.eps", 1e-5F);
  metadata.SetBool("tokenizer.ggml.add_bos_token", true);
  metadata.SetStrings("tokenizer.ggml.tokens", std::vector<std::string>{"a", "", "\xe2\x96\x81the"});
  metadata.SetInts("tokenizer.ggml.token_type", std::vector<int32_t>{1, -2, 3});
  metadata.SetFloats("tokenizer.ggml.scores", std::vector<float>{0.5F, -1});
  metadata.SetUint("llama.block_count", 8);
  const std::vector<GgufTensorSpec> specs = {
      {"a.weight", GgufType::kF32, {2, 3}}, {"b.weight", GgufType::kQ8_0, {2, 32}}, {"c.bias", GgufType::kBF16, {5}}};
  auto bytes = GgufPreamble(metadata, specs);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  std::vector<std::vector<float>> values;
  for (const GgufTensorSpec& spec : specs) {
    size_t count = 1;
    for (const int64_t extent : spec.shape) count *= static_cast<size_t>(extent);
    std::vector<float>& now = values.emplace_back();
    for (size_t i = 0; i < count; ++i) now.push_back(static_cast<float>(i) - 2);
    std::string data(GgufSizeBytes(spec.type, count), '\0');
    ASSERT_TRUE(EncodeGguf(spec.type, now, std::as_writable_bytes(std::span(data))).ok());
    *bytes += Padded(data);
  }
  const auto read = Gguf::Parse(AsBytes(*bytes), "written");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->GetUint("llama.block_count").value(), 8U);
  EXPECT_EQ(read->GetFloat("llama.eps").value(), static_cast<double>(1e-5F));
  EXPECT_TRUE(read->GetBool("tokenizer.ggml.add_bos_token").value());
  EXPECT_THAT(read->GetStrings("tokenizer.ggml.tokens").value(), ElementsAre("a", "", "\xe2\x96\x81the"));
  EXPECT_THAT(read->GetNumbers("tokenizer.ggml.token_type").value(), ElementsAre(1, -2, 3));
  EXPECT_THAT(read->GetNumbers("tokenizer.ggml.scores").value(), ElementsAre(0.5, -1));
  ASSERT_EQ(read->tensors().size(), specs.size());
  for (size_t i = 0; i < specs.size(); ++i) {
    const GgufTensor& tensor = read->tensors()[i];
    EXPECT_EQ(tensor.name, specs[i].name);
    EXPECT_EQ(tensor.shape, specs[i].shape);
    std::vector<float> out(values[i].size());
    ASSERT_TRUE(DecodeGgufRows(tensor, 0, out).ok());
    // A scale of max|x| / 127 puts each element within half a step, and the scale itself is a half.
    const float room = specs[i].type == GgufType::kQ8_0 ? 61.0F / 127 * 0.51F + 61 * 0x1p-11F : 0;
    for (size_t k = 0; k < out.size(); ++k) EXPECT_NEAR(out[k], values[i][k], room) << tensor.name << " " << k;
  }
}

// Copying every key of a file that holds one of each type gives the bytes of every value again.
TEST(GgufWriter, EncodedValuesAreCopiedVerbatim) {
  std::string bytes = GgufBytes(0, 4)
                          .String("nested")
                          .U32(9)
                          .U32(9)
                          .U64(1)
                          .U32(0)
                          .U64(2)
                          .U8(7)
                          .U8(8)
                          .String("u64")
                          .U32(10)
                          .U64(std::numeric_limits<uint64_t>::max())
                          .String("i8")
                          .U32(1)
                          .U8(0x80)
                          .String("text")
                          .U32(8)
                          .String("x")
                          .str();
  const auto source = Gguf::Parse(AsBytes(bytes), "source");
  ASSERT_TRUE(source.ok()) << source.status();
  GgufMetadata metadata;
  for (const auto& [key, value] : source->metadata()) metadata.SetEncoded(key, source->EncodedValue(key));
  const auto written = GgufPreamble(metadata, {});
  ASSERT_TRUE(written.ok());
  const auto copy = Gguf::Parse(AsBytes(*written), "copy");
  ASSERT_TRUE(copy.ok()) << copy.status();
  ASSERT_EQ(copy->metadata().size(), 4U);
  for (const auto& [key, value] : source->metadata()) {
    const auto before = source->EncodedValue(key);
    const auto after = copy->EncodedValue(key);
    ASSERT_EQ(before.size(), after.size()) << key;
    EXPECT_EQ(std::memcmp(before.data(), after.data(), before.size()), 0) << key;
  }
  EXPECT_TRUE(copy->EncodedValue("none").empty());
}

// The reference wrote the same matrices as F32 and in each encoding.
void ExpectEncodesAs(GgufType type, const std::string& file) {
  const std::string full_bytes = ReadAll(testing::GoldenDir("gguf/llama/model-f32.gguf"));
  const std::string bytes = ReadAll(testing::GoldenDir("gguf/llama/" + file));
  const auto full = Gguf::Parse(AsBytes(full_bytes), "f32");
  const auto wanted = Gguf::Parse(AsBytes(bytes), file);
  ASSERT_TRUE(full.ok() && wanted.ok());
  int compared = 0;
  for (const GgufTensor& tensor : wanted->tensors()) {
    if (tensor.type != static_cast<uint32_t>(type)) continue;
    std::vector<float> values(static_cast<size_t>(tensor.num_elements()));
    ASSERT_TRUE(DecodeGgufRows(*full->Find(tensor.name), 0, values).ok());
    std::vector<std::byte> out(GgufSizeBytes(type, values.size()));
    ASSERT_TRUE(EncodeGguf(type, values, out).ok());
    ASSERT_EQ(out.size(), tensor.data.size());
    EXPECT_EQ(std::memcmp(out.data(), tensor.data.data(), out.size()), 0) << tensor.name;
    ++compared;
  }
  EXPECT_GT(compared, 10);
}

TEST(GgufWriter, EncodesQ80AsTheReferenceToTheBit) { ExpectEncodesAs(GgufType::kQ8_0, "model-q8_0.gguf"); }
TEST(GgufWriter, EncodesF16AsTheReferenceToTheBit) { ExpectEncodesAs(GgufType::kF16, "model-f16.gguf"); }

TEST(GgufWriter, AllZeroBlocksStayZero) {
  const std::vector<float> zeros(32);
  std::vector<std::byte> out(34, std::byte{1});
  ASSERT_TRUE(EncodeGguf(GgufType::kQ8_0, zeros, out).ok());
  EXPECT_EQ(out, std::vector<std::byte>(34));
}

TEST(GgufWriter, RefusesWhatReadersRefuse) {
  const auto error = [](GgufTensorSpec spec) {
    const std::vector<GgufTensorSpec> specs = {std::move(spec)};
    const auto written = GgufPreamble({}, specs);
    return written.ok() ? "written" : std::string(written.status().message());
  };
  EXPECT_THAT(error({std::string(64, 'n'), GgufType::kF32, {1}}), HasSubstr("has 64 bytes"));
  EXPECT_THAT(error({"", GgufType::kF32, {1}}), HasSubstr("has 0 bytes"));
  EXPECT_THAT(error({"x", GgufType::kF32, {}}), HasSubstr("0 dimensions"));
  EXPECT_THAT(error({"x", GgufType::kF32, {1, 1, 1, 1, 1}}), HasSubstr("5 dimensions"));
  EXPECT_THAT(error({"x", GgufType::kQ8_0, {2, 33}}), HasSubstr("rows of 33 do not fit Q8_0's blocks of 32"));
  const std::vector<GgufTensorSpec> twice = {{"x", GgufType::kF32, {1}}, {"x", GgufType::kF32, {1}}};
  EXPECT_THAT(std::string(GgufPreamble({}, twice).status().message()), HasSubstr("'x' twice"));
  std::vector<std::byte> out(20);
  EXPECT_EQ(EncodeGguf(GgufType::kQ4_1, std::vector<float>(32), out).code(), absl::StatusCode::kUnimplemented);
  EXPECT_FALSE(CanEncodeGguf(GgufType::kQ8_0, 48));
  EXPECT_TRUE(CanEncodeGguf(GgufType::kBF16, 48));
}

}  // namespace
}  // namespace strata::format
