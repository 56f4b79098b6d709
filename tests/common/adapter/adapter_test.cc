#include "common/adapter/adapter.h"

#include <algorithm>
#include <string>
#include <vector>

#include "common/adapter/pattern.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/common/adapter/adapters.h"

namespace strata::adapter {
namespace {

using ::testing::HasSubstr;
using testing::MakeAdapter;

absl::StatusOr<Adapter::Scaling> UnitScaling(const void*, std::string_view, int64_t) { return Adapter::Scaling{}; }
absl::StatusOr<Adapter::Scaling> DoraScaling(const void*, std::string_view, int64_t) {
  return Adapter::Scaling{.use_dora = true};
}

class TensorFile {
 public:
  void Add(std::string name, std::vector<int64_t> shape, format::DType dtype = format::DType::kF32) {
    int64_t count = 1;
    for (const int64_t n : shape) count *= n;
    storage_.emplace_back(static_cast<size_t>(count) * format::DTypeSize(dtype), '\0');
    views_.push_back({.name = std::move(name), .dtype = dtype, .shape = std::move(shape), .data = {}});
  }
  absl::StatusOr<Adapter> Open(Adapter::ScalingOf scaling = UnitScaling) {
    for (size_t i = 0; i < views_.size(); ++i) views_[i].data = std::as_bytes(std::span(storage_[i]));
    bytes_ = format::SerializeSafetensors(views_, {});
    auto parsed = format::Safetensors::Parse(std::as_bytes(std::span(bytes_)), "test");
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    return Adapter::FromTensors(*std::move(parsed), scaling, nullptr);
  }

 private:
  std::vector<std::string> storage_;
  std::vector<format::TensorView> views_;
  std::string bytes_;
};

TEST(AdapterTest, ReadsNamesWithAndWithoutPeftsPrefix) {
  TensorFile file;
  file.Add("base_model.model.b.lora_A.weight", {2, 3});
  file.Add("base_model.model.b.lora_B.weight", {5, 2}, format::DType::kBF16);
  file.Add("a.x.lora_A.default.weight", {0, 4});
  file.Add("a.x.lora_B.default.weight", {6, 0});
  const auto adapter = file.Open();
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  ASSERT_EQ(adapter->modules().size(), 2);
  EXPECT_EQ(adapter->modules()[0].module, "a.x");
  EXPECT_EQ(adapter->modules()[0].rank, 0);
  const Factors* b = adapter->Find("b");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->rank, 2);
  EXPECT_EQ(b->out, 5);
  EXPECT_EQ(b->in, 3);
  EXPECT_EQ(adapter->Find("c"), nullptr);
  EXPECT_EQ(adapter->num_parameters(), 16);
}

TEST(AdapterTest, NamesEveryFault) {
  TensorFile file;
  file.Add("m.lora_magnitude_vector", {3});
  file.Add("lonely.lora_A.weight", {2, 3});
  file.Add("ranks.lora_A.weight", {2, 3});
  file.Add("ranks.lora_B.weight", {3, 4});
  file.Add("ints.lora_A.weight", {2, 3}, format::DType::kI32);
  file.Add("ints.lora_B.weight", {3, 2});
  file.Add("flat.lora_A.weight", {6});
  file.Add("flat.lora_B.weight", {3, 2});
  file.Add("twice.lora_A.weight", {1, 1});
  file.Add("base_model.model.twice.lora_A.weight", {1, 1});
  file.Add("twice.lora_B.weight", {1, 1});
  file.Add("something.else", {1});
  file.Add("base_model.model.lm_head.base_layer.weight", {1});
  const auto adapter = file.Open();
  ASSERT_EQ(adapter.status().code(), absl::StatusCode::kInvalidArgument);
  const std::string message(adapter.status().message());
  EXPECT_THAT(message, HasSubstr("module 'm': a magnitude vector is there, lora_A is missing"));
  EXPECT_THAT(message, HasSubstr("module 'lonely': lora_A is there, lora_B is missing"));
  EXPECT_THAT(message, HasSubstr("module 'ranks': lora_A [2, 3] and lora_B [3, 4] disagree about the rank"));
  EXPECT_THAT(message, HasSubstr("I32"));
  EXPECT_THAT(message, HasSubstr("expected two dimensions"));
  EXPECT_THAT(message, HasSubstr("are the same factor"));
  EXPECT_THAT(message, HasSubstr("'something.else' is not named like a LoRA factor"));
  EXPECT_THAT(message, HasSubstr("lm_head.base_layer.weight' is a part of the output head (lm_head), which cannot be"));
}

TEST(AdapterTest, MagnitudesAreThereWhereTheConfigSaysSo) {
  TensorFile file;
  file.Add("a.lora_A.weight", {2, 3});
  file.Add("a.lora_B.weight", {5, 2});
  file.Add("a.lora_magnitude_vector", {5}, format::DType::kBF16);
  ASSERT_TRUE(file.Open(DoraScaling).ok()) << file.Open(DoraScaling).status();
  const Adapter adapter = *file.Open(DoraScaling);
  EXPECT_TRUE(adapter.has_magnitudes());
  EXPECT_EQ(adapter.num_parameters(), 21);
  EXPECT_EQ(adapter.modules()[0].magnitude.dtype, format::DType::kBF16);
  EXPECT_THAT(std::string(RequireNoMagnitudes(adapter, "no use").message()), HasSubstr("use_dora): no use"));
  EXPECT_THAT(std::string(file.Open().status().message()), HasSubstr("use_dora is not set"));
  file.Add("b.lora_A.weight", {2, 3});
  file.Add("b.lora_B.weight", {5, 2});
  file.Add("c.lora_A.default.weight", {2, 3});
  file.Add("c.lora_B.default.weight", {5, 2});
  file.Add("c.lora_magnitude_vector.default.weight", {4});
  const std::string message(file.Open(DoraScaling).status().message());
  EXPECT_THAT(message, HasSubstr("module 'b': use_dora is set, lora_magnitude_vector is missing"));
  EXPECT_THAT(message, HasSubstr("module 'c': 'c.lora_magnitude_vector.default.weight' has shape [4], expected [5]"));
}

TEST(AdapterTest, BuilderSortsAndKeepsItsBytesWhenMoved) {
  Adapter adapter = MakeAdapter({{"z", 1, 2, 3}, {"a", 2, 3, 4}});
  const Adapter moved = std::move(adapter);
  EXPECT_EQ(moved.modules()[0].module, "a");
  EXPECT_EQ(moved.modules()[0].a.name, "base_model.model.a.lora_A.weight");
  std::vector<float> a(8);
  ASSERT_TRUE(format::ToFloat(moved.modules()[0].a, a).ok());
  EXPECT_NE(a[7], 0);
}

// Expected values are what re.match(rf"(.*\.)?({key})$", name) gives in Python.
TEST(PatternTest, KeysOfPatterns) {
  const std::string module = "model.layers.1.self_attn.q_proj";
  EXPECT_TRUE(MatchesPatternKey("q_proj", module));
  EXPECT_TRUE(MatchesPatternKey("self_attn.q_proj", module));
  EXPECT_TRUE(MatchesPatternKey(module, module));
  EXPECT_TRUE(MatchesPatternKey("^model.layers.1.self_attn.q_proj", module));
  EXPECT_TRUE(MatchesPatternKey("layers\\.[0-3]\\.self_attn\\.[qk]_proj", module));
  EXPECT_TRUE(MatchesPatternKey("k_proj|q_proj", module));
  EXPECT_TRUE(MatchesPatternKey("layers.1.self.attn.q_proj", module));
  EXPECT_FALSE(MatchesPatternKey("proj", module));
  EXPECT_FALSE(MatchesPatternKey("_proj", module));
  EXPECT_FALSE(MatchesPatternKey("layers.1", module));
  EXPECT_FALSE(MatchesPatternKey("^q_proj", module));
  EXPECT_FALSE(MatchesPatternKey("layers\\.2\\..*", module));
  EXPECT_FALSE(MatchesPatternKey("(", module));
  EXPECT_FALSE(MatchesPatternKey("x." + module, module));
}

TEST(PatternTest, AnExpressionThatBacktracksWithoutEndIsNoMatch) {
  const auto pattern = Pattern::Compile("(a*)*(b*)*(a*)*c");
  ASSERT_TRUE(pattern.ok());
  EXPECT_FALSE(pattern->FullMatch(std::string(40, 'a')));
}

TEST(SelectsTest, Suffixes) {
  config::ModuleSelector selector;
  selector.suffixes = {"q_proj", "mlp.up_proj"};
  EXPECT_TRUE(Selects(selector, "q_proj"));
  EXPECT_TRUE(Selects(selector, "model.layers.0.self_attn.q_proj"));
  EXPECT_TRUE(Selects(selector, "model.layers.0.mlp.up_proj"));
  EXPECT_FALSE(Selects(selector, "model.layers.0.xmlp.up_proj"));
  EXPECT_FALSE(Selects(selector, "model.layers.0.self_attn.xq_proj"));
  EXPECT_FALSE(Selects(selector, "proj"));
  EXPECT_FALSE(Selects({}, "q_proj"));
}

TEST(SelectsTest, ExpressionsMustMatchTheWholeName) {
  config::ModuleSelector selector;
  selector.expression = ".*\\.(self_attn\\.(q|o)_proj|mlp\\.up_proj)";
  EXPECT_TRUE(Selects(selector, "model.layers.0.self_attn.o_proj"));
  EXPECT_FALSE(Selects(selector, "model.layers.0.self_attn.o_projx"));
  EXPECT_FALSE(Selects(selector, "model.layers.0.self_attn.k_proj"));
}

TEST(IsTargetTest, ExclusionsAndLayers) {
  config::AdapterOptions options;
  options.target_modules = {};
  options.target_modules.suffixes = {"q_proj", "model.layers.5.mlp.up_proj"};
  options.exclude_modules.suffixes = {"layers.2.self_attn.q_proj"};
  options.layers_to_transform = {1, 2};
  EXPECT_TRUE(IsTarget(options, "model.layers.1.self_attn.q_proj"));
  EXPECT_FALSE(IsTarget(options, "model.layers.2.self_attn.q_proj"));
  EXPECT_FALSE(IsTarget(options, "model.layers.11.self_attn.q_proj"));
  EXPECT_TRUE(IsTarget(options, "model.layers.5.mlp.up_proj")) << "named in full";
  EXPECT_TRUE(IsTarget(options, "q_proj")) << "named in full";
  EXPECT_FALSE(IsTarget(options, "model.q_proj")) << "of no layer";
  // Like PEFT: the first number that has two segments before it, so an expert's index does not count.
  options.target_modules.suffixes = {"w1"};
  EXPECT_TRUE(IsTarget(options, "model.layers.1.experts.0.w1"));
  EXPECT_FALSE(IsTarget(options, "model.layers.0.experts.1.w1"));
  options.target_modules = {.all_linear = true, .expression = {}, .suffixes = {}};
  EXPECT_TRUE(IsTarget(options, "model.layers.1.experts.0.w1"));
  EXPECT_FALSE(IsTarget(options, "model.layers.0.experts.0.w1"));
  options.target_modules = {};
  options.target_modules.expression = ".*w1";
  EXPECT_TRUE(IsTarget(options, "model.layers.0.experts.0.w1")) << "an expression says it all";
}

}  // namespace
}  // namespace strata::adapter
