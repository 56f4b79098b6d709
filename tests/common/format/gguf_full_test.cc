// Against reference files that are too many for the repository.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "common/format/gguf.h"
#include "tests/common/format/test_files.h"
#include "tests/testing/golden.h"

namespace strata::format {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(GgufFull, KQuantsAreListedAndRefusedByName) {
  const std::string path = testing::FullGoldenDir("gguf/kquants.gguf");
  if (path.empty()) GTEST_SKIP() << "the whole golden set does not lie beside the checkout";
  const std::string bytes = ReadAll(path);
  const auto gguf = Gguf::Parse(AsBytes(bytes), path);
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  EXPECT_EQ(gguf->tensors().size(), 7U);
  for (const GgufTensor& tensor : gguf->tensors()) {
    std::vector<float> out(static_cast<size_t>(tensor.num_elements()));
    const absl::Status status = DecodeGgufRows(tensor, 0, out);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
    EXPECT_THAT(std::string(status.message()), HasSubstr("encoding " + tensor.name.substr(tensor.name.find('.') + 1)));
  }
}

TEST(GgufFull, MetadataOfEveryTypeMatchesTheReference) {
  const std::string path = testing::FullGoldenDir("gguf/metadata.gguf");
  if (path.empty()) GTEST_SKIP() << "the whole golden set does not lie beside the checkout";
  const std::string bytes = ReadAll(path);
  const auto gguf = Gguf::Parse(AsBytes(bytes), path);
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  const auto integer = [&](const char* key) { return std::get<int64_t>(gguf->metadata().at(key)); };
  EXPECT_EQ(gguf->GetUint("golden.uint8").value(), 255U);
  EXPECT_EQ(gguf->GetUint("golden.uint16").value(), 65535U);
  EXPECT_EQ(gguf->GetUint("golden.uint32").value(), 4294967295U);
  EXPECT_EQ(gguf->GetUint("golden.uint64").value(), std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(integer("golden.int8"), -128);
  EXPECT_EQ(integer("golden.int16"), -32768);
  EXPECT_EQ(integer("golden.int32"), std::numeric_limits<int32_t>::min());
  EXPECT_EQ(integer("golden.int64"), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(gguf->GetFloat("golden.float32").value(), 0.15625);
  EXPECT_EQ(gguf->GetFloat("golden.float64").value(), 1e-300);
  EXPECT_TRUE(gguf->GetBool("golden.bool").value());
  EXPECT_EQ(gguf->GetString("golden.string").value(), "na\xc3\xafve \xf0\x9f\x98\x80\n\"quoted\"");
  EXPECT_THAT(gguf->GetNumbers("golden.array.ints").value(), ElementsAre(-1, 0, 7));
  EXPECT_THAT(gguf->GetStrings("golden.array.strings").value(), ElementsAre("", "a", "\xe2\x96\x81the", "<0x0A>"));
  EXPECT_THAT(gguf->GetNumbers("golden.array.floats").value(), ElementsAre(0.5, -2.25));
  const auto& bools = std::get<std::shared_ptr<const GgufArray>>(gguf->metadata().at("golden.array.bools"))->values;
  EXPECT_THAT(std::get<std::vector<bool>>(bools), ElementsAre(true, false));
  const auto& nested = std::get<std::shared_ptr<const GgufArray>>(gguf->metadata().at("golden.array.nested"))->values;
  EXPECT_EQ(std::get<std::vector<GgufValue>>(nested).size(), 2U);
}

}  // namespace
}  // namespace strata::format
