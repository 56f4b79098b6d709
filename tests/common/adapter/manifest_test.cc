#include "common/adapter/manifest.h"

#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/adapter.pb.h"
#include "tests/common/adapter/adapters.h"

namespace strata::adapter {
namespace {

using ::testing::HasSubstr;

Adapter SomeAdapter() {
  return testing::MakeAdapter({{"model.layers.0.q", 2, 3, 4, 4, 2}, {"model.layers.0.v", 1, 2, 4, 3, 3}});
}

Manifest SomeManifest() {
  Manifest manifest;
  manifest.base = {.weights = std::string(32, 'w'), .semantics = std::string(32, 's'), .encoding = "bf16"};
  manifest.assignment = std::string("0123456789\0bcdef", 16);
  manifest.parent_version = 7;
  manifest.num_examples = uint64_t{1} << 40;
  manifest.metrics = {{"loss", 2.5}, {"tokens_per_second", -0.0}};
  manifest.blocks = BlocksOf(SomeAdapter());
  manifest.tensors_sha256 = std::string(32, '\xff');
  manifest.tensors_bytes = 123456;
  manifest.use_rslora = true;
  manifest.method = "lora";
  return manifest;
}

std::string Refusal(const v1::Manifest& proto) {
  const auto parsed = ParseManifest(proto.SerializeAsString());
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(parsed.status().message());
}

v1::Manifest SomeProto() {
  v1::Manifest proto;
  EXPECT_TRUE(proto.ParseFromString(SerializeManifest(SomeManifest())));
  return proto;
}

TEST(ManifestTest, SerialiseAndParseIsTheIdentity) {
  const Manifest manifest = SomeManifest();
  const std::string bytes = SerializeManifest(manifest);
  const auto parsed = ParseManifest(bytes);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(SerializeManifest(*parsed), bytes);
  EXPECT_EQ(parsed->assignment, manifest.assignment);
  EXPECT_EQ(parsed->num_examples, manifest.num_examples);
  EXPECT_EQ(parsed->metrics[0].value, 2.5);
  EXPECT_EQ(parsed->blocks[1].scaling, 3);
  EXPECT_EQ(parsed->blocks[1].a, "base_model.model.model.layers.0.v.lora_A.weight");
  EXPECT_TRUE(parsed->base.SameBase(manifest.base));
  EXPECT_EQ(ManifestJson(*parsed), ManifestJson(manifest));
  EXPECT_THAT(ManifestJson(manifest), HasSubstr("\"num_examples\": 1099511627776"));
}

TEST(ManifestTest, BlockKindsThatAreNotUnderstoodAreRefusedByName) {
  v1::Manifest proto = SomeProto();
  proto.mutable_blocks(1)->set_kind(v1::GAIN);
  EXPECT_THAT(Refusal(proto), HasSubstr("kind GAIN is not understood"));
  proto.mutable_blocks(1)->set_kind(static_cast<v1::BlockKind>(77));
  EXPECT_THAT(Refusal(proto), HasSubstr("kind number 77 is not understood"));
}

TEST(ManifestTest, Refusals) {
  v1::Manifest proto = SomeProto();
  proto.set_format(2);
  EXPECT_THAT(Refusal(proto), HasSubstr("format 2"));
  proto = SomeProto();
  proto.mutable_base()->set_weights("short");
  EXPECT_THAT(Refusal(proto), HasSubstr("base.weights has 5 bytes, expected 32"));
  proto = SomeProto();
  *proto.add_blocks() = proto.blocks(0);
  EXPECT_THAT(Refusal(proto), HasSubstr("has two blocks"));
  proto = SomeProto();
  proto.mutable_blocks(0)->mutable_slot()->set_variant("expert.1");
  EXPECT_THAT(Refusal(proto), HasSubstr("variant 'expert.1'"));
  proto = SomeProto();
  proto.mutable_blocks(0)->add_tensors("third");
  EXPECT_THAT(Refusal(proto), HasSubstr("has 3 tensors"));
  proto = SomeProto();
  proto.mutable_blocks(0)->set_scaling(std::numeric_limits<double>::quiet_NaN());
  EXPECT_THAT(Refusal(proto), HasSubstr("not finite"));
  proto = SomeProto();
  proto.mutable_blocks(0)->clear_slot();
  EXPECT_THAT(Refusal(proto), HasSubstr("names no module"));
  EXPECT_EQ(ParseManifest("\xff\xff\xff").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ParseManifest("").status().code(), absl::StatusCode::kInvalidArgument);
}

class OpenUpdateTest : public ::testing::Test {
 protected:
  absl::StatusOr<Adapter> Open(const Manifest& manifest) {
    auto tensors = format::Safetensors::Parse(std::as_bytes(std::span(bytes_)), "update");
    EXPECT_TRUE(tensors.ok()) << tensors.status();
    return OpenUpdate(manifest, *std::move(tensors));
  }
  std::string RefusalOf(const Manifest& manifest) {
    const auto opened = Open(manifest);
    EXPECT_EQ(opened.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(opened.status().message());
  }
  std::string bytes_ = PeftTensorBytes(SomeAdapter(), {});
  Manifest manifest_ = SomeManifest();
};

TEST_F(OpenUpdateTest, TakesScalingsFromTheManifest) {
  manifest_.blocks[0].scaling = 0.125;
  const auto adapter = Open(manifest_);
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  EXPECT_EQ(adapter->Find("model.layers.0.q")->scaling, 0.125);
  EXPECT_EQ(adapter->Find("model.layers.0.v")->scaling, 3);
  EXPECT_EQ(adapter->Find("model.layers.0.v")->alpha, 3);
}

TEST_F(OpenUpdateTest, TensorsAndBlocksMustFit) {
  Manifest manifest = manifest_;
  manifest.blocks.pop_back();
  EXPECT_THAT(RefusalOf(manifest), HasSubstr("module 'model.layers.0.v': there are tensors, but the manifest has no"));
  manifest = manifest_;
  manifest.blocks[0].rank = 5;
  EXPECT_THAT(RefusalOf(manifest), HasSubstr("the tensors have rank 2, the manifest says 5"));
  manifest = manifest_;
  manifest.blocks[0].module = "other";
  manifest.blocks[0].a = PeftTensorName("other", true);
  manifest.blocks[0].b = PeftTensorName("other", false);
  EXPECT_THAT(RefusalOf(manifest), HasSubstr("which the tensor file does not hold"));
  manifest = manifest_;
  std::swap(manifest.blocks[0].a, manifest.blocks[1].a);
  EXPECT_THAT(RefusalOf(manifest), HasSubstr("expected 'base_model.model.model.layers.0.q.lora_A.weight'"));
}

TEST_F(OpenUpdateTest, EveryChangedByteOfTheManifestIsReadOrRefused) {
  const std::string bytes = SerializeManifest(manifest_);
  int read = 0;
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (int change = 1; change < 256; change = change * 2 + 1) {
      std::string changed = bytes;
      changed[i] = static_cast<char>(changed[i] ^ change);
      const auto manifest = ParseManifest(changed);
      if (!manifest.ok()) continue;
      ++read;
      Open(*manifest).IgnoreError();
      ManifestJson(*manifest);
    }
    ParseManifest(std::string_view(bytes).substr(0, i)).IgnoreError();
  }
  EXPECT_GT(read, 0);
}

}  // namespace
}  // namespace strata::adapter
