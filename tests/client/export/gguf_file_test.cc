#include "client/export/gguf_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "client/model/model_config.h"
#include "tests/client/export/merging.h"

namespace strata::exporting {
namespace {

using format::Gguf;
using format::GgufTensor;
using format::GgufType;
using ::strata::testing::StatusIs;
using ::testing::ElementsAre;

class GgufFile : public MergeTest {
 protected:
  Gguf Written(const std::string& from, GgufType type) {
    EXPECT_OK(WriteGgufFile(files(), "/out.gguf", Merged(from), type));
    return Gguf::Open(files(), "/out.gguf").value();
  }
};

// The reference wrote the same model in these encodings: names, shapes and every byte are the same.
TEST_F(GgufFile, WithoutAnUpdateEveryTensorIsTheReferencesToTheBit) {
  Take("llama", "");
  for (const auto& [type, name] :
       {std::pair(GgufType::kF32, "f32"), std::pair(GgufType::kF16, "f16"), std::pair(GgufType::kQ8_0, "q8_0")}) {
    SCOPED_TRACE(name);
    const std::string bytes = format::ReadAll(testing::GoldenDir(std::string("gguf/llama/model-") + name + ".gguf"));
    const Gguf wanted = Gguf::Parse(format::AsBytes(bytes), name).value();
    const Gguf written = Written("/m", type);
    ASSERT_EQ(written.tensors().size(), wanted.tensors().size());
    for (const GgufTensor& tensor : wanted.tensors()) {
      const GgufTensor* found = written.Find(tensor.name);
      ASSERT_NE(found, nullptr) << tensor.name;
      EXPECT_EQ(found->type, tensor.type) << tensor.name;
      EXPECT_EQ(found->shape, tensor.shape) << tensor.name;
      EXPECT_TRUE(std::equal(found->data.begin(), found->data.end(), tensor.data.begin(), tensor.data.end()))
          << tensor.name;
    }
    for (const auto& [key, value] : wanted.metadata()) {
      if (key == "general.name") continue;
      const auto before = wanted.EncodedValue(key);
      const auto after = written.EncodedValue(key);
      EXPECT_TRUE(std::equal(before.begin(), before.end(), after.begin(), after.end())) << key;
    }
  }
}

TEST_F(GgufFile, OurReaderFindsW0PlusC) {
  Take("llama", "llama-rslora");
  EXPECT_OK(WriteGgufFile(files(), "/out.gguf", Merged(), GgufType::kF32));
  ASSERT_OK_AND_ASSIGN(const auto source, folder_->Open("/m"));
  ASSERT_OK_AND_ASSIGN(const auto result, folder_->Open("/out.gguf"));
  EXPECT_EQ(result->config().Canonical(), source->config().Canonical());
  ASSERT_EQ(result->tensors().size(), source->tensors().size());
  for (const model::ModelTensor& tensor : result->tensors()) {
    EXPECT_EQ(model::ReadTensor(*result, tensor), Expected(tensor)) << tensor.name;
  }
}

TEST_F(GgufFile, FromGgufMetadataAreCopiedAndTensorsMerged) {
  Take("llama", "llama-pattern");
  ASSERT_OK(files().WriteFile("/m/model.gguf", format::ReadAll(testing::GoldenDir("gguf/llama/model-f32.gguf"))));
  const Gguf written = Written("/m/model.gguf", GgufType::kBF16);
  EXPECT_EQ(written.GetString("general.name").value(), "golden llama");
  EXPECT_EQ(written.GetUint("general.file_type").value(), 32U);
  ASSERT_OK_AND_ASSIGN(const auto result, folder_->Open("/out.gguf"));
  for (const model::ModelTensor& tensor : result->tensors()) {
    std::vector<float> expected = Expected(tensor);
    if (tensor.shape.size() > 1) {
      for (float& value : expected) value = format::BF16ToFloat(format::FloatToBF16(value));
    }
    EXPECT_EQ(model::ReadTensor(*result, tensor), expected) << tensor.name;
  }
}

TEST_F(GgufFile, ScalingsAreKeptAsTensors) {
  for (const auto& [name, tensor] :
       {std::pair("llama-rope3", model::kRopeDivisors), std::pair("small-phi3-longrope", model::kRopeLongFactors)}) {
    Take(name, "");
    EXPECT_OK(WriteGgufFile(files(), "/out.gguf", Merged(), GgufType::kF16));
    EXPECT_NE(format::Gguf::Open(files(), "/out.gguf")->Find(tensor), nullptr);
    ASSERT_OK_AND_ASSIGN(const auto source, folder_->Open("/m"));
    ASSERT_OK_AND_ASSIGN(const auto result, folder_->Open("/out.gguf"));
    EXPECT_EQ(result->config().Canonical(), source->config().Canonical());
  }
}

TEST_F(GgufFile, Llama3ScalingOfNoPublishedModelIsReadBackAsItsDivisors) {
  Take("llama-rope3", "");
  folder_->Replace("config.json", R"("low_freq_factor": 1.0)", R"("low_freq_factor": 1.5)");
  EXPECT_OK(WriteGgufFile(files(), "/out.gguf", Merged(), GgufType::kF16));
  ASSERT_OK_AND_ASSIGN(const auto source, folder_->Open("/m"));
  ASSERT_OK_AND_ASSIGN(const auto result, folder_->Open("/out.gguf"));
  const std::vector<float> divisors = model::Llama3Divisors(source->config().rope, source->config().head_dim);
  EXPECT_THAT(result->config().rope.short_factors, ::testing::Pointwise(::testing::Eq(), divisors));
  // And written once more.
  ASSERT_OK_AND_ASSIGN(const MergedModel again, MergedModel::Of(*result, {}));
  EXPECT_OK(WriteGgufFile(files(), "/again.gguf", again, GgufType::kF16));
  ASSERT_OK_AND_ASSIGN(const auto twice, folder_->Open("/again.gguf"));
  EXPECT_EQ(twice->config().Canonical(), result->config().Canonical());
  EXPECT_NE(format::Gguf::Open(files(), "/again.gguf")->Find(model::kRopeDivisors), nullptr);
}

TEST_F(GgufFile, OfAModelWithVisionTheTextsPartIsWritten) {
  Take("small-gemma3-vision", "small-gemma3-vision-plain");
  folder_->Replace("config.json", R"("full_attention")", R"("sliding_attention")");
  folder_->Replace("config.json", R"("query_pre_attn_scalar": 12)", R"("query_pre_attn_scalar": 8)");
  EXPECT_OK(WriteGgufFile(files(), "/out.gguf", Merged(), GgufType::kF32));
  ASSERT_OK_AND_ASSIGN(const auto source, folder_->Open("/m"));
  ASSERT_OK_AND_ASSIGN(const auto result, folder_->Open("/out.gguf"));
  EXPECT_EQ(result->config().architecture, "gemma3_text");
  EXPECT_EQ(result->config().windows, source->config().windows);
  size_t found = 0;
  for (const model::ModelTensor& tensor : source->tensors()) {
    if (tensor.other_part) continue;
    const std::string name = "model." + tensor.name.substr(std::string("model.language_model.").size());
    const auto same = std::find_if(result->tensors().begin(), result->tensors().end(),
                                   [&](const model::ModelTensor& t) { return t.name == name; });
    ASSERT_NE(same, result->tensors().end()) << name;
    const std::vector<float> values = model::ReadTensor(*result, *same);
    const std::vector<float> expected = Expected(tensor);
    ASSERT_EQ(values.size(), expected.size());
    const float offset = tensor.shape.size() == 1 ? 1 : 0;  // GGUF's norms are more by one
    for (size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(values[i], expected[i] + offset, 1e-6) << name;
    ++found;
  }
  EXPECT_EQ(found, result->tensors().size());
}

TEST_F(GgufFile, AFullDiskLeavesNothing) {
  Take("llama", "llama-pattern");
  auto& disk = dynamic_cast<testing::SimFileSystem&>(files());
  const uint64_t before = disk.used_bytes();
  const MergedModel merged = Merged();
  for (const uint64_t room : {0, 100, 100000, 400000}) {
    disk.SetCapacity(before + room);
    EXPECT_THAT(WriteGgufFile(files(), "/out.gguf", merged, GgufType::kF32),
                StatusIs(absl::StatusCode::kResourceExhausted));
    EXPECT_THAT(files().List("/").value(), ElementsAre("a", "m")) << room;
  }
}

}  // namespace
}  // namespace strata::exporting
