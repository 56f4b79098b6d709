#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "client/model/model_config.h"
#include "client/model/model_files.h"
#include "common/runtime/posix_file_system.h"
#include "tests/client/model/model_folder.h"

namespace strata::model {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::StatusIs;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
constexpr auto kNotFound = absl::StatusCode::kNotFound;

TEST(HfModel, ReadsASingleFile) {
  ModelFolder folder("llama");
  ASSERT_OK_AND_ASSIGN(const auto model, folder.Open());
  EXPECT_EQ(model->tensors().size(), 2U + 2 * 9);
  const std::string bytes = folder.Read("model.safetensors");
  const auto stored = format::Safetensors::Parse(format::AsBytes(bytes), "model").value();
  for (const ModelTensor& tensor : model->tensors()) {
    const format::TensorView* want = stored.Find(tensor.name);
    ASSERT_NE(want, nullptr);
    EXPECT_EQ(tensor.shape, want->shape);
    EXPECT_EQ(tensor.stored_dtype, "F32");
    std::vector<float> values(static_cast<size_t>(want->num_elements()));
    ASSERT_OK(format::ToFloat(*want, values));
    EXPECT_EQ(ReadTensor(*model, tensor), values);
    EXPECT_EQ(model->RawBytes(tensor.name).size(), want->data.size());
    const auto row = static_cast<size_t>(tensor.shape.back());
    std::vector<float> last(row);
    ASSERT_OK(model->ReadRows(tensor.name, static_cast<int64_t>(values.size() / row) - 1, last));
    EXPECT_TRUE(std::equal(last.begin(), last.end(), values.end() - static_cast<ptrdiff_t>(row)));
    EXPECT_THAT(model->ReadRows(tensor.name, static_cast<int64_t>(values.size() / row), last), StatusIs(kInvalid));
    EXPECT_THAT(model->ReadRows(tensor.name, -1, last), StatusIs(kInvalid));
  }
  EXPECT_THAT(model->ReadRows("nothing", 0, {}), StatusIs(kNotFound));
  EXPECT_TRUE(model->RawBytes("nothing").empty());
}

TEST(HfModel, OfAModelWithVisionTheTextsPartIsRead) {
  ModelFolder folder("small-gemma3-vision");
  const auto count = [](const ModelFiles& model, bool other) {
    return std::count_if(model.tensors().begin(), model.tensors().end(),
                         [&](const ModelTensor& t) { return t.other_part == other; });
  };
  ASSERT_OK_AND_ASSIGN(const auto model, folder.Open());
  EXPECT_EQ(count(*model, false), 2 + 2 * 13);
  EXPECT_EQ(count(*model, true), 23);
  const auto modules = model->LinearModules();
  ASSERT_EQ(modules.size(), 14U);
  EXPECT_EQ(modules[0].name, "model.language_model.layers.0.self_attn.q_proj");
  for (const ModelTensor& t : model->tensors()) {
    EXPECT_EQ(t.older_name.empty(), t.other_part) << t.name;
    if (t.other_part) continue;
    EXPECT_EQ(t.older_name, "language_model.model." + t.name.substr(std::string("model.language_model.").size()));
  }

  // The names of now, and what lies beside the parts that are known.
  folder.Edit("model.safetensors", [](std::vector<format::TensorView>& tensors) {
    for (format::TensorView& t : tensors) {
      const bool text = t.name.starts_with("language_model.model.");
      t.name = text ? "model.language_model." + t.name.substr(21) : "model." + t.name;
    }
  });
  ASSERT_OK_AND_ASSIGN(const auto now, folder.Open());
  EXPECT_EQ(count(*now, true), 23);
  EXPECT_TRUE(now->tensors().front().older_name.empty());
  folder.Edit("model.safetensors", [](std::vector<format::TensorView>& tensors) {
    tensors.push_back({"model.audio_tower.weight", format::DType::kF32, {0}, {}});
    tensors.push_back({"model.vision_tower.empty", format::DType::kF32, {0, 2}, {}});
    std::erase_if(tensors, [](const auto& t) { return t.name == "model.language_model.norm.weight"; });
  });
  EXPECT_THAT(folder.Open(),
              StatusIs(kInvalid, AllOf(HasSubstr("'model.audio_tower.weight' [0] in model.safetensors"),
                                       HasSubstr("'model.vision_tower.empty' in model.safetensors: expected numbers in "
                                                 "F32, BF16, F16 or F64, found [0, 2]"),
                                       HasSubstr("'model.language_model.norm.weight' [16] is missing"))));
}

TEST(HfModel, LinearModulesComeInModelOrder) {
  ModelFolder tied("llama");
  ASSERT_OK_AND_ASSIGN(const auto model, tied.Open());
  const auto modules = model->LinearModules();
  ASSERT_EQ(modules.size(), 14U);
  EXPECT_EQ(modules[0], (config::ModuleShape{"model.layers.0.self_attn.q_proj", 64, 64}));
  EXPECT_EQ(modules[1], (config::ModuleShape{"model.layers.0.self_attn.k_proj", 32, 64}));
  EXPECT_EQ(modules[6], (config::ModuleShape{"model.layers.0.mlp.down_proj", 64, 160}));
  EXPECT_EQ(modules[13].name, "model.layers.1.mlp.down_proj");
  ModelFolder untied("llama-rope3");
  ASSERT_OK_AND_ASSIGN(const auto other, untied.Open());
  EXPECT_EQ(other->LinearModules().back(), (config::ModuleShape{"lm_head", 256, 64}));
}

TEST(HfModel, Gpt2sMatricesAreStoredInputFirst) {
  ModelFolder folder("small-gpt2");
  ASSERT_OK_AND_ASSIGN(const auto model, folder.Open());
  const auto modules = model->LinearModules();
  ASSERT_EQ(modules.size(), 8U);
  EXPECT_EQ(modules[0], (config::ModuleShape{"transformer.h.0.attn.c_attn", 72, 24}));
  EXPECT_EQ(modules[7], (config::ModuleShape{"transformer.h.1.mlp.c_proj", 24, 96}));
  for (const ModelTensor& tensor : model->tensors()) {
    EXPECT_EQ(tensor.input_major, tensor.name.find(".c_") != std::string::npos && tensor.shape.size() == 2);
  }
}

TEST(HfModel, ABaseModelsNamesGetTheirPrefix) {
  ModelFolder whole("small-gpt2");
  ModelFolder bare("small-gpt2");
  bare.MakeBare("transformer.");
  ASSERT_OK_AND_ASSIGN(const auto model, bare.Open());
  ASSERT_OK_AND_ASSIGN(const auto expected, whole.Open());
  ASSERT_EQ(model->tensors().size(), expected->tensors().size());
  for (size_t i = 0; i < expected->tensors().size(); ++i) {
    EXPECT_EQ(model->tensors()[i].name, expected->tensors()[i].name);
    EXPECT_EQ(ReadTensor(*model, model->tensors()[i]), ReadTensor(*expected, expected->tensors()[i]));
  }
}

TEST(HfModel, ReadsShardsWithBiases) {
  ModelFolder folder("llama-sharded-bf16");
  ASSERT_OK_AND_ASSIGN(const auto model, folder.Open());
  EXPECT_TRUE(model->config().qkv_bias && model->config().mlp_bias);
  EXPECT_EQ(model->tensors().size(), 3U + 3 * (2 + 14));
  EXPECT_EQ(model->weight_files().size(), 5U);
  EXPECT_TRUE(std::is_sorted(model->tensors().begin(), model->tensors().end(),
                             [](const ModelTensor& a, const ModelTensor& b) { return a.name < b.name; }));
  for (const ModelTensor& tensor : model->tensors()) {
    EXPECT_EQ(tensor.stored_dtype, "BF16");
    const std::vector<float> values = ReadTensor(*model, tensor);
    EXPECT_EQ(model->RawBytes(tensor.name).size(), values.size() * 2);
    EXPECT_NE(values.front(), 0);
  }
}

TEST(HfModel, NamesMissingShardsAndTensors) {
  ModelFolder shards("llama-sharded-bf16");
  shards.Remove("model-00002-of-00005.safetensors");
  shards.Remove("model-00004-of-00005.safetensors");
  EXPECT_THAT(shards.Open(),
              StatusIs(kInvalid, AllOf(HasSubstr("/m: 2 faults"), HasSubstr("shard model-00002-of-00005"),
                                       HasSubstr("shard model-00004-of-00005"))));
  ModelFolder swapped("llama-sharded-bf16");
  swapped.Replace("model.safetensors.index.json", "\"lm_head.weight\": \"model-00005",
                  "\"lm_head.weight\": \"model-00001");
  EXPECT_THAT(
      swapped.Open(),
      StatusIs(kInvalid,
               HasSubstr("'lm_head.weight' is in model-00005-of-00005.safetensors, the index says model-00001")));
  ModelFolder outside("llama-sharded-bf16");
  outside.Replace("model.safetensors.index.json", "\"model-00005", "\"../model-00005");
  EXPECT_THAT(outside.Open(), StatusIs(kInvalid, HasSubstr("beside the index")));
  ModelFolder cut("llama-sharded-bf16");
  cut.Write("model-00003-of-00005.safetensors", cut.Read("model-00003-of-00005.safetensors").substr(0, 5000));
  EXPECT_THAT(cut.Open(), StatusIs(kInvalid, HasSubstr("/m/model-00003-of-00005.safetensors: ")));
}

TEST(HfModel, NamesEveryTensorThatDoesNotFit) {
  ModelFolder folder("llama");
  const std::string ints(64 * 4, '\1');
  folder.Edit("model.safetensors", [&](std::vector<format::TensorView>& tensors) {
    std::erase_if(tensors, [](const auto& t) { return t.name == "model.layers.1.mlp.up_proj.weight"; });
    for (auto& t : tensors) {
      if (t.name == "model.layers.0.self_attn.k_proj.weight") std::swap(t.shape[0], t.shape[1]);
      if (t.name == "model.norm.weight") t = {"model.norm.weight", format::DType::kI32, {64}, format::AsBytes(ints)};
    }
    tensors.push_back({"model.layers.0.self_attn.q_norm.weight", format::DType::kI32, {64}, format::AsBytes(ints)});
    tensors.push_back(
        {"model.layers.0.self_attn.rotary_emb.inv_freq", format::DType::kI32, {64}, format::AsBytes(ints)});
  });
  EXPECT_THAT(
      folder.Open(),
      StatusIs(kInvalid,
               AllOf(HasSubstr("/m: 4 faults"), HasSubstr("'model.layers.1.mlp.up_proj.weight' [160, 64] is missing"),
                     HasSubstr("'model.layers.0.self_attn.k_proj.weight' in model.safetensors: expected shape [32, "
                               "64], found [64, 32]"),
                     HasSubstr("expected dtype F32, BF16, F16 or F64, found I32"),
                     HasSubstr("q_norm.weight' [64] in model.safetensors is not part of the model"))));
}

TEST(HfModel, ATiedHeadInTheFileMustEqualTheEmbeddings) {
  ModelFolder folder("llama");
  std::string head;
  const auto add_head = [&](std::vector<format::TensorView>& tensors) {
    for (auto& t : tensors) {
      if (t.name != "model.embed_tokens.weight") continue;
      head.assign(reinterpret_cast<const char*>(t.data.data()), t.data.size());
      tensors.push_back({"lm_head.weight", t.dtype, t.shape, format::AsBytes(head)});
      return;
    }
  };
  folder.Edit("model.safetensors", add_head);
  ASSERT_OK_AND_ASSIGN(const auto model, folder.Open());
  EXPECT_EQ(model->tensors().size(), 20U);
  folder.Edit("model.safetensors", [&](std::vector<format::TensorView>& tensors) {
    head[0] ^= 1;
    for (auto& t : tensors) {
      if (t.name == "lm_head.weight") t.data = format::AsBytes(head);
    }
  });
  EXPECT_THAT(folder.Open(), StatusIs(kInvalid, HasSubstr("differs from 'model.embed_tokens.weight'")));
}

TEST(HfModel, UntiedWithoutAHeadAsksWhetherItIsTied) {
  ModelFolder folder("llama");
  folder.Replace("config.json", "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false");
  EXPECT_THAT(folder.Open(), StatusIs(kInvalid, HasSubstr("is the head tied")));
}

TEST(HfModel, PickledWeightsAreRefusedWithAWayOut) {
  ModelFolder folder("llama");
  folder.Remove("model.safetensors");
  EXPECT_THAT(folder.Open(), StatusIs(kNotFound, HasSubstr("neither model.safetensors nor")));
  folder.Write("pytorch_model.bin", "x");
  EXPECT_THAT(folder.Open(), StatusIs(kUnimplemented, AllOf(HasSubstr("pytorch_model.bin"), HasSubstr("safetensors"))));
}

TEST(OpenModel, SaysWhatWasTried) {
  ModelFolder folder;
  EXPECT_THAT(folder.Open("/nowhere/at/all"), StatusIs(kNotFound, HasSubstr("no such file")));
  EXPECT_THAT(folder.Open("org/name"), StatusIs(kNotFound, HasSubstr("models--org--name")));
  EXPECT_THAT(folder.Open(), StatusIs(kNotFound, HasSubstr("no config.json and no GGUF")));
  folder.Write("adapter_config.json", "{}");
  EXPECT_THAT(folder.Open(), StatusIs(kInvalid, HasSubstr("is an adapter")));
  folder.Write("x.safetensors", "abcdefgh");
  EXPECT_THAT(folder.Open("/m/x.safetensors"), StatusIs(kInvalid, HasSubstr("give the directory")));
}

class HubCache : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = std::filesystem::path(::testing::TempDir()) / "strata_hub_cache";
    std::filesystem::remove_all(root_);
    unsetenv("HF_HUB_CACHE");             // NOLINT(concurrency-mt-unsafe): one thread
    setenv("HF_HOME", root_.c_str(), 1);  // NOLINT(concurrency-mt-unsafe): one thread
  }
  void TearDown() override {
    unsetenv("HF_HOME");  // NOLINT(concurrency-mt-unsafe): one thread
    std::filesystem::remove_all(root_);
  }
  // As the hub's library lays it out: snapshots of links into blobs.
  void AddSnapshot(const std::string& revision) {
    const auto repo = root_ / "hub/models--org--tiny";
    std::filesystem::create_directories(repo / "blobs");
    std::filesystem::create_directories(repo / "snapshots" / revision);
    for (const char* name : {"config.json", "model.safetensors"}) {
      std::filesystem::copy_file(testing::GoldenDir("models/llama/") + name, repo / "blobs" / (revision + name));
      std::filesystem::create_symlink("../../blobs/" + revision + name, repo / "snapshots" / revision / name);
    }
  }
  void SetMain(const std::string& revision) {
    std::filesystem::create_directories(root_ / "hub/models--org--tiny/refs");
    std::ofstream(root_ / "hub/models--org--tiny/refs/main") << revision;
  }

  std::filesystem::path root_;
  runtime::PosixFileSystem files_;
};

TEST_F(HubCache, FollowsTheMainReference) {
  AddSnapshot("aaa");
  ASSERT_OK_AND_ASSIGN(const auto only, ModelFiles::Open(files_, "org/tiny"));
  AddSnapshot("bbb");
  EXPECT_THAT(ModelFiles::Open(files_, "org/tiny"), StatusIs(kInvalid, HasSubstr("2 snapshots")));
  SetMain("bbb\n");
  ASSERT_OK_AND_ASSIGN(const auto model, ModelFiles::Open(files_, "org/tiny"));
  EXPECT_THAT(model->path(), HasSubstr("snapshots/bbb"));
  EXPECT_EQ(ReadTensor(*model, model->tensors().front()).size(), 320U * 64);
  SetMain("ccc");
  EXPECT_THAT(ModelFiles::Open(files_, "org/tiny"), StatusIs(kNotFound, HasSubstr("snapshots/ccc")));
  SetMain("../../evil");
  EXPECT_THAT(ModelFiles::Open(files_, "org/tiny"), StatusIs(kInvalid, HasSubstr("name of a snapshot")));
}

TEST(HostileModel, EveryChangedByteOfTheConfigurationIsAnswered) {
  ModelFolder folder("llama-rope3");
  const std::string text = folder.Read("config.json");
  for (size_t i = 0; i < text.size(); ++i) {
    for (const char value : {'\0', '"', '{', '9', '-', '\xff', ' '}) {
      std::string changed = text;
      changed[i] = value;
      ParseHfConfig(changed, "config.json").status().IgnoreError();
    }
    if (i > text.rfind('}')) continue;
    EXPECT_THAT(ParseHfConfig(text.substr(0, i), "config.json"), Not(testing::IsOk()));
  }
}

}  // namespace
}  // namespace strata::model
