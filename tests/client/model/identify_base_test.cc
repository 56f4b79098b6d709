#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/model/model_files.h"
#include "common/secure/digest.h"
#include "tests/client/model/model_folder.h"

namespace strata::model {
namespace {

adapter::BaseIdentity Identify(ModelFolder& folder, const std::string& cache = "", const std::string& path = "/m") {
  const auto model = folder.Open(path);
  EXPECT_OK(model);
  auto identity = IdentifyBase(folder.files(), **model, cache);
  EXPECT_OK(identity);
  return *std::move(identity);
}

TEST(IdentifyBase, FollowsTheWrittenRule) {
  ModelFolder folder("llama");
  ASSERT_OK_AND_ASSIGN(const auto model, folder.Open());
  std::string record;
  for (const ModelTensor& tensor : model->tensors()) {
    format::Put<uint64_t>(record, tensor.name.size());
    record += tensor.name;
    format::Put<uint64_t>(record, 3);
    record += "F32";
    format::Put<uint64_t>(record, tensor.shape.size());
    for (const int64_t extent : tensor.shape) format::Put(record, extent);
    record += secure::Sha256(model->RawBytes(tensor.name));
  }
  const adapter::BaseIdentity identity = Identify(folder);
  EXPECT_EQ(identity.weights, secure::Sha256(record));
  EXPECT_EQ(identity.encoding, "F32");
  std::string semantics;
  format::Put<uint64_t>(semantics, model->config().Canonical().size());
  semantics += model->config().Canonical();
  EXPECT_EQ(identity.semantics, secure::Sha256(semantics));
}

TEST(IdentifyBase, IsTheSameHoweverTheModelIsLaidOut) {
  ModelFolder v5("llama");
  const adapter::BaseIdentity expected = Identify(v5);
  ModelFolder v4("llama");
  v4.Write("config.json", v4.Read("config.v4.json"));
  EXPECT_TRUE(Identify(v4).SameBase(expected));
  ModelFolder sharded("llama");
  const std::string whole = sharded.Read("model.safetensors");
  const auto parsed = format::Safetensors::Parse(format::AsBytes(whole), "x").value();
  std::vector<format::TensorView> first(parsed.tensors().begin() + 5, parsed.tensors().end());
  std::vector<format::TensorView> second(parsed.tensors().begin(), parsed.tensors().begin() + 5);
  std::string index;
  for (const auto& t : first) index += (index.empty() ? "\"" : ",\"") + t.name + "\":\"a.safetensors\"";
  for (const auto& t : second) index += ",\"" + t.name + "\":\"b.safetensors\"";
  sharded.Write("a.safetensors", format::SerializeSafetensors(first, {}));
  sharded.Write("b.safetensors", format::SerializeSafetensors(second, {}));
  sharded.Write("model.safetensors.index.json", "{\"weight_map\":{" + index + "}}");
  sharded.Remove("model.safetensors");
  EXPECT_TRUE(Identify(sharded).SameBase(expected));
}

TEST(IdentifyBase, ABaseModelsNamesChangeNothing) {
  ModelFolder whole("small-gpt2");
  ModelFolder bare("small-gpt2");
  bare.MakeBare("transformer.");
  EXPECT_TRUE(Identify(bare).SameBase(Identify(whole)));
}

TEST(IdentifyBase, EveryBitOfTheWeightsAndTheSemanticsCounts) {
  ModelFolder folder("llama");
  const adapter::BaseIdentity before = Identify(folder);
  std::string bytes = folder.Read("model.safetensors");
  bytes.back() ^= 1;
  folder.Write("model.safetensors", bytes);
  const adapter::BaseIdentity after = Identify(folder);
  EXPECT_NE(after.weights, before.weights);
  EXPECT_EQ(after.semantics, before.semantics);
  folder.Replace("config.json", "\"rope_theta\": 10000.0", "\"rope_theta\": 20000.0");
  const adapter::BaseIdentity turned = Identify(folder);
  EXPECT_EQ(turned.weights, after.weights);
  EXPECT_NE(turned.semantics, after.semantics);
}

TEST(IdentifyBase, TheCacheAnswersUntilAFileChanges) {
  ModelFolder folder("llama");
  const adapter::BaseIdentity computed = Identify(folder, "/state/digests");
  const std::vector<std::string> entries = folder.files().List("/state/digests").value();
  ASSERT_EQ(entries.size(), 1U);
  const std::string path = "/state/digests/" + entries[0];
  std::string cached = folder.files().ReadFile(path).value();
  const size_t at = cached.find(secure::ToHex(computed.weights));
  ASSERT_NE(at, std::string::npos);
  // A changed entry shows that the cache is what answers.
  cached.replace(at, 64, std::string(64, 'a'));
  ASSERT_OK(folder.files().WriteFile(path, cached));
  EXPECT_EQ(secure::ToHex(Identify(folder, "/state/digests").weights), std::string(64, 'a'));
  folder.Write("model.safetensors", folder.Read("model.safetensors"));
  EXPECT_EQ(Identify(folder, "/state/digests").weights, computed.weights);
  for (const std::string& damaged : {std::string(), cached.substr(0, 40), std::string("x\n\n\n")}) {
    const auto all = folder.files().List("/state/digests").value();
    for (const std::string& entry : all) {
      ASSERT_OK(folder.files().WriteFile("/state/digests/" + entry, damaged));
    }
    EXPECT_EQ(Identify(folder, "/state/digests").weights, computed.weights);
  }
}

TEST(IdentifyBase, AFullDiskOnlyCostsTheCache) {
  ModelFolder folder("llama");
  const adapter::BaseIdentity computed = Identify(folder);
  dynamic_cast<testing::SimFileSystem&>(folder.files())
      .SetCapacity(dynamic_cast<testing::SimFileSystem&>(folder.files()).used_bytes());
  EXPECT_EQ(Identify(folder, "/state").weights, computed.weights);
}

TEST(IdentifyBase, AGgufFileHasItsOwnWeights) {
  ModelFolder folder("llama");
  const adapter::BaseIdentity hf = Identify(folder);
  folder.Write("m.gguf", format::ReadAll(testing::GoldenDir("gguf/llama/model-q4_1.gguf")));
  const adapter::BaseIdentity gguf = Identify(folder, "", "/m/m.gguf");
  EXPECT_NE(gguf.weights, hf.weights);
  EXPECT_EQ(gguf.semantics, hf.semantics);
  EXPECT_EQ(gguf.encoding, "Q4_1");
}

}  // namespace
}  // namespace strata::model
