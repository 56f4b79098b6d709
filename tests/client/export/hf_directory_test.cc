#include "client/export/hf_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/client/export/merging.h"

namespace strata::exporting {
namespace {

using ::strata::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class HfDirectory : public MergeTest {};

TEST_F(HfDirectory, HoldsW0PlusCUnderTheSourcesNamesAndDTypes) {
  Take("llama", "llama-pattern");
  ASSERT_OK_AND_ASSIGN(const Written written, WriteHfDirectory(files(), "/out/", Merged(), {}));
  EXPECT_EQ(written.path, "/out");
  ASSERT_OK_AND_ASSIGN(const auto source, folder_->Open("/m"));
  ASSERT_OK_AND_ASSIGN(const auto result, folder_->Open("/out"));
  ASSERT_EQ(result->tensors().size(), source->tensors().size());
  EXPECT_EQ(written.tensors, source->tensors().size());
  int changed = 0;
  for (const model::ModelTensor& tensor : result->tensors()) {
    EXPECT_EQ(tensor.stored_dtype, "F32") << tensor.name;
    const std::vector<float> values = model::ReadTensor(*result, tensor);
    EXPECT_EQ(values, Expected(tensor)) << tensor.name;
    changed += values == model::ReadTensor(*source, tensor) ? 0 : 1;
  }
  EXPECT_EQ(changed, 14) << "one for each module of the adapter";
  EXPECT_EQ(folder_->files().ReadFile("/out/config.json").value(), folder_->Read("config.json"));
  EXPECT_LT(written.rounding.Relative(), 1e-5) << "fp32 keeps nearly all of the update";
  EXPECT_GT(written.rounding.Relative(), 0);
}

TEST_F(HfDirectory, TheOtherPartsOfAModelAndItsOlderNamesStay) {
  Take("small-gemma3-vision", "small-gemma3-vision-plain");
  folder_->Write("preprocessor_config.json", "{}");
  ASSERT_OK(WriteHfDirectory(files(), "/out", Merged(), {}));
  ASSERT_OK_AND_ASSIGN(const auto source, format::Safetensors::Open(files(), "/m/model.safetensors"));
  ASSERT_OK_AND_ASSIGN(const auto result, format::Safetensors::Open(files(), "/out/model.safetensors"));
  ASSERT_EQ(result.tensors().size(), source.tensors().size());
  int changed = 0;
  for (const format::TensorView& before : source.tensors()) {
    const format::TensorView* after = result.Find(before.name);
    ASSERT_NE(after, nullptr) << before.name;
    const bool same = std::equal(before.data.begin(), before.data.end(), after->data.begin(), after->data.end());
    EXPECT_TRUE(same || before.name.starts_with("language_model.")) << before.name;
    changed += same ? 0 : 1;
  }
  EXPECT_EQ(changed, 6) << "one for each module of the adapter";
  EXPECT_TRUE(files().Exists("/out/preprocessor_config.json"));
  ASSERT_OK(WriteHfDirectory(files(), "/half", Merged(), {.dtype = format::DType::kBF16}));
  ASSERT_OK_AND_ASSIGN(const auto half, format::Safetensors::Open(files(), "/half/model.safetensors"));
  const auto* patches = half.Find("vision_tower.embeddings.patch_embedding.weight");
  ASSERT_NE(patches, nullptr);
  EXPECT_EQ(patches->shape, (std::vector<int64_t>{8, 3, 2, 2}));
  const std::vector<float> exact = Floats(*source.Find(patches->name));
  const std::vector<float> rounded = Floats(*patches);
  for (size_t i = 0; i < exact.size(); ++i) EXPECT_EQ(rounded[i], format::BF16ToFloat(format::FloatToBF16(exact[i])));
}

TEST_F(HfDirectory, RoundsOnceAndSaysWhatWasLost) {
  Take("llama", "llama-pattern");
  ASSERT_OK_AND_ASSIGN(const Written written,
                       WriteHfDirectory(files(), "/out", Merged(), {.dtype = format::DType::kBF16}));
  ASSERT_OK_AND_ASSIGN(const auto source, folder_->Open("/m"));
  ASSERT_OK_AND_ASSIGN(const auto result, folder_->Open("/out"));
  double error = 0;
  double update = 0;
  for (const model::ModelTensor& tensor : result->tensors()) {
    EXPECT_EQ(tensor.stored_dtype, "BF16");
    const std::vector<float> values = model::ReadTensor(*result, tensor);
    const std::vector<float> exact = Expected(tensor);
    const std::vector<float> base = model::ReadTensor(*source, tensor);
    const bool merged = exact != base;
    for (size_t i = 0; i < values.size(); ++i) {
      EXPECT_EQ(values[i], format::BF16ToFloat(format::FloatToBF16(exact[i])));
      if (!merged) continue;
      error += std::pow(static_cast<double>(values[i]) - static_cast<double>(exact[i]), 2);
      update += std::pow(static_cast<double>(exact[i]) - static_cast<double>(base[i]), 2);
    }
  }
  EXPECT_NEAR(written.rounding.Relative(), std::sqrt(error / update), 1e-4 * std::sqrt(error / update));
  EXPECT_THAT(folder_->files().ReadFile("/out/config.json").value(), HasSubstr(R"("dtype": "bfloat16")"));
}

TEST_F(HfDirectory, SeveralAdaptersAddUp) {
  Take("llama", "llama-pattern");
  ASSERT_OK_AND_ASSIGN(auto twice, adapter::ReadPeft(files(), "/a"));
  adapters_.push_back(std::move(twice.first));
  ASSERT_OK(WriteHfDirectory(files(), "/out", Merged(), {}));
  ASSERT_OK_AND_ASSIGN(const auto result, folder_->Open("/out"));
  for (const model::ModelTensor& tensor : result->tensors()) {
    const std::vector<float> values = model::ReadTensor(*result, tensor);
    const std::vector<float> expected = Expected(tensor);
    for (size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(values[i], expected[i], 1e-6) << tensor.name;
  }
}

TEST_F(HfDirectory, LargeModelsGetShardsAndAnIndex) {
  Take("llama-sharded-bf16", "");
  ASSERT_OK_AND_ASSIGN(const Written written, WriteHfDirectory(files(), "/out", Merged(), {.max_shard_bytes = 60000}));
  ASSERT_OK_AND_ASSIGN(const std::vector<std::string> names, files().List("/out"));
  EXPECT_THAT(names, ::testing::Contains("model-00001-of-00006.safetensors"));
  EXPECT_THAT(names, ::testing::Contains("model.safetensors.index.json"));
  ASSERT_OK_AND_ASSIGN(const auto source, folder_->Open("/m"));
  ASSERT_OK_AND_ASSIGN(const auto result, folder_->Open("/out"));
  EXPECT_EQ(result->weight_files().size(), 6U);
  uint64_t bytes = 0;
  for (const model::ModelTensor& tensor : source->tensors()) {
    const auto before = source->RawBytes(tensor.name);
    const auto after = result->RawBytes(tensor.name);
    EXPECT_TRUE(std::equal(before.begin(), before.end(), after.begin(), after.end())) << tensor.name;
    bytes += before.size();
  }
  EXPECT_EQ(written.bytes, bytes);
}

TEST_F(HfDirectory, AFullDiskLeavesNothing) {
  Take("llama", "llama-pattern");
  auto& disk = dynamic_cast<testing::SimFileSystem&>(files());
  const uint64_t before = disk.used_bytes();
  const MergedModel merged = Merged();
  for (const uint64_t room : {0, 100, 2000, 100000, 400000}) {
    disk.SetCapacity(before + room);
    EXPECT_THAT(WriteHfDirectory(files(), "/out", merged, {}), StatusIs(absl::StatusCode::kResourceExhausted)) << room;
    EXPECT_THAT(files().List("/").value(), ElementsAre("a", "m")) << room;
    EXPECT_EQ(disk.used_bytes(), before) << room;
  }
}

TEST_F(HfDirectory, WhatIsThereIsNotReplaced) {
  Take("llama", "");
  EXPECT_THAT(WriteHfDirectory(files(), "/m", Merged(), {}),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("/m: is there already")));
}

TEST_F(HfDirectory, FromGgufNamesRowsAndConfigurationAreHfs) {
  Take("llama", "llama-pattern");
  ASSERT_OK_AND_ASSIGN(const auto source, folder_->Open("/m"));
  for (const auto& [file, dtype] : {std::pair("model-f32.gguf", "F32"), std::pair("model-q8_0.gguf", "F32")}) {
    SCOPED_TRACE(file);
    const std::string path = std::string("/m/") + file;
    ASSERT_OK(files().WriteFile(path, format::ReadAll(testing::GoldenDir(std::string("gguf/llama/") + file))));
    const std::string out = std::string("/out-") + file;
    ASSERT_OK(WriteHfDirectory(files(), out, Merged(path), {}));
    ASSERT_OK_AND_ASSIGN(const auto result, folder_->Open(out));
    EXPECT_EQ(result->config().Canonical(), source->config().Canonical());
    ASSERT_EQ(result->tensors().size(), source->tensors().size());
    const bool exact = std::string_view(file) == "model-f32.gguf";
    for (const model::ModelTensor& tensor : result->tensors()) {
      EXPECT_EQ(tensor.stored_dtype, dtype);
      const std::vector<float> values = model::ReadTensor(*result, tensor);
      const std::vector<float> expected = Expected(tensor);
      float largest = 0;
      for (const float value : expected) largest = std::max(largest, std::abs(value));
      // Q8_0 keeps elements to half a step of 1/127 of the largest in the block.
      const float room = exact ? 0 : largest / 127;
      for (size_t i = 0; i < values.size(); ++i) ASSERT_NEAR(values[i], expected[i], room) << tensor.name << " " << i;
    }
  }
}

TEST_F(HfDirectory, AnAdapterOfAnotherModelIsRefusedModuleByModule) {
  Take("llama", "");
  adapter::AdapterBuilder builder;
  builder.Add("model.layers.0.self_attn.q_proj", 1, 3, 64, 1, 1, std::vector<float>(64), std::vector<float>(3));
  builder.Add("model.layers.7.mlp.up_proj", 1, 2, 2, 1, 1, {0, 0}, {0, 0});
  builder.Add("lm_head", 1, 2, 2, 1, 1, {0, 0}, {0, 0});
  adapters_.push_back(std::move(builder).Build());
  ASSERT_OK_AND_ASSIGN(const auto model, folder_->Open());
  EXPECT_THAT(MergedModel::Of(*model, adapters_),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("the adapter is for [3, 64], the model has [64, 64]"),
                             HasSubstr("'model.layers.7.mlp.up_proj' is no linear module"),
                             HasSubstr("'lm_head' is no linear module of the model (its head is the embedding)"))));
}

TEST_F(HfDirectory, FactorsThatAreNotFiniteAreRefused) {
  Take("llama", "");
  adapter::AdapterBuilder builder;
  builder.Add("model.layers.0.self_attn.q_proj", 1, 64, 64, 1, 1, std::vector<float>(64, NAN), std::vector<float>(64));
  adapters_.push_back(std::move(builder).Build());
  EXPECT_THAT(WriteHfDirectory(files(), "/out", Merged(), {}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("elements that are not finite")));
  EXPECT_FALSE(files().Exists("/out.tmp"));
}

}  // namespace
}  // namespace strata::exporting
