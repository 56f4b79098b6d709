#include "common/format/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <random>

#include "tests/common/format/test_files.h"
#include "tests/testing/golden.h"

namespace strata::format {
namespace {

using ::testing::HasSubstr;

std::string ErrorOf(const std::string& bytes) {
  const auto parsed = Safetensors::Parse(AsBytes(bytes), "dir/a.safetensors");
  if (parsed.ok()) return "parsed";
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("dir/a.safetensors: "));
  return std::string(parsed.status().message());
}

std::string ErrorOf(std::string_view header, size_t data_bytes) {
  return ErrorOf(SafetensorsBytes(header, data_bytes));
}

TEST(Safetensors, WriterReproducesEveryFileOfTheReferenceWriter) {
  int checked = 0;
  std::vector<std::string> roots = {testing::GoldenDir("")};
  if (const std::string full = testing::FullGoldenDir(""); !full.empty()) roots.push_back(full);
  for (const std::string& root : roots) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
      if (entry.path().extension() != ".safetensors") continue;
      const std::string bytes = ReadAll(entry.path());
      const auto parsed = Safetensors::Parse(AsBytes(bytes), entry.path().string());
      ASSERT_TRUE(parsed.ok()) << parsed.status();
      ASSERT_TRUE(SerializeSafetensors(parsed->tensors(), parsed->metadata()) == bytes) << entry.path();
      ++checked;
    }
  }
  EXPECT_GE(checked, 60);
}

TEST(Safetensors, WriterDoesNotDependOnTheOrderGiven) {
  const std::string bytes = ReadAll(testing::GoldenDir("models/llama/expected.safetensors"));
  const auto parsed = Safetensors::Parse(AsBytes(bytes), "expected");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  std::vector<TensorView> tensors = parsed->tensors();
  std::mt19937 random(7);
  std::shuffle(tensors.begin(), tensors.end(), random);
  EXPECT_TRUE(SerializeSafetensors(tensors, parsed->metadata()) == bytes);
}

TEST(Safetensors, KeepsNamesAndMetadataThatNeedEscapes) {
  const std::string name = "a\"b\\c\n\t\x01 \xc3\xa4";
  const std::string data(4, '\x02');
  const std::string bytes =
      SerializeSafetensors({{.name = name, .dtype = DType::kU8, .shape = {2, 2}, .data = AsBytes(data)},
                            {.name = "empty", .dtype = DType::kF32, .shape = {0, 7}, .data = {}}},
                           {{"k\x7f", "v\b\f\r"}, {"a", ""}});
  EXPECT_EQ(bytes.size() % 4, 0U);
  const auto parsed = Safetensors::Parse(AsBytes(bytes), "here");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ASSERT_NE(parsed->Find(name), nullptr);
  EXPECT_EQ(parsed->Find(name)->num_elements(), 4);
  EXPECT_EQ(parsed->Find("empty")->num_elements(), 0);
  EXPECT_EQ(parsed->Find("nothing"), nullptr);
  EXPECT_EQ(parsed->metadata().at("k\x7f"), "v\b\f\r");
  EXPECT_EQ(SerializeSafetensors(parsed->tensors(), parsed->metadata()), bytes);
}

TEST(Safetensors, NamesWhatIsWrong) {
  EXPECT_THAT(ErrorOf(""), HasSubstr("truncated: 0 bytes"));
  EXPECT_THAT(ErrorOf(std::string(8, '\xff')), HasSubstr("over the limit"));
  EXPECT_THAT(ErrorOf(SafetensorsBytes("{}", 0).substr(0, 9)), HasSubstr("truncated: the header needs 2"));
  EXPECT_THAT(ErrorOf("[1]", 0), HasSubstr("expected"));
  EXPECT_THAT(ErrorOf("", 0), HasSubstr("no valid JSON"));
  EXPECT_THAT(ErrorOf("{\"a\":", 0), HasSubstr("no valid JSON at byte"));
  EXPECT_THAT(ErrorOf("{} {}", 0), HasSubstr("no valid JSON"));
  EXPECT_THAT(ErrorOf("{\"a\":1}", 0), HasSubstr("'a': a number where an object is expected"));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"F32","shape":[1]}})", 4), HasSubstr("needs all of"));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4), HasSubstr("two data_offsets"));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4), HasSubstr("negative number"));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", 4), HasSubstr("'1.5'"));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,4]}})", 4),
              HasSubstr("below 2^63"));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"F8","shape":[1],"data_offsets":[0,4]}})", 4), HasSubstr("'F8' is not read"));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})", 4), HasSubstr("an array where"));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"F32","extra":1}})", 4), HasSubstr("unknown key 'extra'"));
  EXPECT_THAT(ErrorOf(R"({"__metadata__":{"a":1}})", 0), HasSubstr("a number where a string is expected"));
}

TEST(Safetensors, RefusesLayoutsThatContradictThemselves) {
  const auto entry = [](std::string_view name, std::string_view shape, uint64_t begin, uint64_t end) {
    return "\"" + std::string(name) + R"(":{"dtype":"F32","shape":)" + std::string(shape) + R"(,"data_offsets":[)" +
           std::to_string(begin) + "," + std::to_string(end) + "]}";
  };
  EXPECT_THAT(ErrorOf("{" + entry("a", "[1]", 0, 8) + "}", 8), HasSubstr("takes 4 bytes, data_offsets give 8"));
  EXPECT_THAT(ErrorOf("{" + entry("a", "[2]", 0, 8) + "}", 4), HasSubstr("lie outside the 4 bytes"));
  EXPECT_THAT(ErrorOf("{" + entry("a", "[2]", 8, 0) + "}", 8), HasSubstr("lie outside"));
  EXPECT_THAT(ErrorOf("{" + entry("a", "[1]", 0, 4) + "}", 8), HasSubstr("end at byte 4"));
  EXPECT_THAT(ErrorOf("{" + entry("a", "[1]", 4, 8) + "}", 8), HasSubstr("leaves a hole"));
  EXPECT_THAT(ErrorOf("{" + entry("a", "[2]", 0, 8) + "," + entry("b", "[1]", 4, 8) + "}", 8), HasSubstr("overlaps"));
  EXPECT_THAT(ErrorOf("{" + entry("a", "[1]", 4, 8) + "," + entry("b", "[1]", 4, 8) + "}", 8),
              HasSubstr("'b' overlaps 'a': it starts at byte 4 of the data, expected 8"));
  EXPECT_THAT(ErrorOf("{" + entry("a", "[4294967296,4294967296,4]", 0, 0) + "}", 0), HasSubstr("passes 2^64"));
  EXPECT_THAT(ErrorOf("{" + entry("a", "[1]", 0, 4) + "," + entry("a", "[1]", 4, 8) + "}", 8), HasSubstr("'a' twice"));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"F32","dtype":"F32"}})", 0), HasSubstr("'dtype' twice"));
  EXPECT_THAT(ErrorOf(R"({"__metadata__":{"k":"1","k":"2"}})", 0), HasSubstr("'k' twice"));
  EXPECT_THAT(ErrorOf(R"({"__metadata__":{},"__metadata__":{}})", 0), HasSubstr("twice"));
  EXPECT_EQ(ErrorOf("{" + entry("a", "[0,4294967296,4294967296,8]", 0, 0) + "}", 0), "parsed");
}

TEST(Safetensors, DeepNestingIsAnErrorNotAStackOverflow) {
  EXPECT_THAT(ErrorOf("{\"a\":" + std::string(1'000'000, '['), 0), HasSubstr("an array where an object is expected"));
}

TEST(Safetensors, EveryTruncationAndEveryFlippedBitIsAnswered) {
  const std::string data(8, '\x03');
  const std::string bytes =
      SerializeSafetensors({{.name = "a", .dtype = DType::kF32, .shape = {1}, .data = AsBytes(data).first(4)},
                            {.name = "b", .dtype = DType::kF16, .shape = {1, 2}, .data = AsBytes(data).last(4)}},
                           {{"format", "pt"}});
  ASSERT_TRUE(Safetensors::Parse(AsBytes(bytes), "x").ok());
  for (size_t cut = 0; cut < bytes.size(); ++cut) ErrorOf(bytes.substr(0, cut));
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (int value = 0; value < 256; ++value) {
      std::string changed = bytes;
      changed[i] = static_cast<char>(value);
      const auto parsed = Safetensors::Parse(AsBytes(changed), "x");
      if (!parsed.ok()) continue;
      for (const TensorView& tensor : parsed->tensors()) {
        EXPECT_EQ(tensor.data.size(), static_cast<size_t>(tensor.num_elements()) * DTypeSize(tensor.dtype));
      }
    }
  }
}

}  // namespace
}  // namespace strata::format
