// Families whose files differ from GGUF's in more than names, on models made here.
#include "client/export/tensor_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <utility>

#include "common/runtime/pending_file.h"
#include "tests/common/adapter/adapters.h"
#include "tests/testing/sim_runtime.h"
#include "tests/testing/status_matchers.h"

namespace strata::exporting {
namespace {

using format::GgufType;
using ::testing::ElementsAre;
using ::testing::FloatNear;
using ::testing::Pointwise;

// F32 tensors in memory, as either kind of file has them.
class FakeModel : public model::ModelFiles {
 public:
  FakeModel(std::string architecture, bool gguf) : weight_files_({gguf ? path_ : path_ + "/model.safetensors"}) {
    config_.architecture = std::move(architecture);
    config_.head_dim = 4;
  }
  void Add(std::string name, std::vector<int64_t> shape, std::vector<float> values, bool input_major = false) {
    tensors_.push_back({.name = name, .shape = std::move(shape), .stored_dtype = "F32", .input_major = input_major});
    values_.emplace(std::move(name), std::move(values));
  }
  void AddModule(std::string name, int64_t out, int64_t in) { modules_.push_back({std::move(name), out, in}); }

  const model::ModelConfig& config() const override { return config_; }
  const std::string& path() const override { return path_; }
  const std::vector<model::ModelTensor>& tensors() const override { return tensors_; }
  absl::Status ReadRows(std::string_view tensor, int64_t first_row, std::span<float> out) const override {
    const std::vector<float>& values = values_.find(tensor)->second;
    const auto of_name = [&](const model::ModelTensor& t) { return t.name == tensor; };
    const int64_t width = std::find_if(tensors_.begin(), tensors_.end(), of_name)->shape.back();
    std::copy_n(values.begin() + first_row * width, out.size(), out.begin());
    return absl::OkStatus();
  }
  std::span<const std::byte> RawBytes(std::string_view tensor) const override {
    return std::as_bytes(std::span(values_.find(tensor)->second));
  }
  std::span<const std::byte> StoredBytes(std::string_view tensor) const override { return RawBytes(tensor); }
  void ReleasePages(std::string_view /*tensor*/) const override {}
  const std::vector<std::string>& weight_files() const override { return weight_files_; }
  std::vector<config::ModuleShape> LinearModules() const override { return modules_; }

 private:
  std::string path_ = "/model";
  std::vector<std::string> weight_files_;
  model::ModelConfig config_;
  std::vector<model::ModelTensor> tensors_;
  std::map<std::string, std::vector<float>, std::less<>> values_;
  std::vector<config::ModuleShape> modules_;
};

class TensorStream : public ::testing::Test {
 protected:
  struct Streamed {
    std::vector<int64_t> shape;
    std::vector<float> values;
  };
  // The model's only tensor as it goes into a GGUF file or into HF's.
  Streamed Stream(const FakeModel& model, bool to_gguf) {
    const MergedModel merged = MergedModel::Of(model, adapters_).value();
    const TensorForm form = FormOf(merged, model.tensors()[0], GgufType::kF32, to_gguf);
    auto file = runtime::PendingFile::Create(machine_.files(), "/x").value();
    EXPECT_OK(StreamTensor(merged, model.tensors()[0], form, file, rounding_));
    EXPECT_OK(std::move(file).Commit());
    const std::string bytes = machine_.files().ReadFile("/x").value();
    Streamed out{.shape = ShapeOf(model.tensors()[0], form), .values = std::vector<float>(bytes.size() / 4)};
    std::memcpy(out.values.data(), bytes.data(), bytes.size());
    return out;
  }
  testing::SimRuntime machine_;
  std::vector<adapter::Adapter> adapters_;
  Rounding rounding_;
};

// W = [[1 2 3], [4 5 6]] as [out, in]; HF's GPT-2 stores the transpose.
FakeModel Gpt2(bool gguf) {
  FakeModel m("gpt2", gguf);
  const std::string name = "transformer.h.0.attn.c_attn.weight";
  gguf ? m.Add(name, {2, 3}, {1, 2, 3, 4, 5, 6}) : m.Add(name, {3, 2}, {1, 4, 2, 5, 3, 6}, /*input_major=*/true);
  m.AddModule("transformer.h.0.attn.c_attn", 2, 3);
  return m;
}

// B A = [[10], [20]] [[1 0 2]].
TEST_F(TensorStream, Gpt2sMatricesAreTransposedBetweenTheKindsOfFile) {
  adapter::AdapterBuilder builder;
  builder.Add("transformer.h.0.attn.c_attn", 1, 2, 3, 1, 1, {1, 0, 2}, {10, 20});
  adapters_.push_back(std::move(builder).Build());
  const std::vector<float> as_gguf = {11, 2, 23, 24, 5, 46};
  const std::vector<float> as_hf = {11, 24, 2, 5, 23, 46};
  for (const bool gguf : {false, true}) {
    SCOPED_TRACE(gguf);
    const Streamed to_gguf = Stream(Gpt2(gguf), true);
    EXPECT_THAT(to_gguf.shape, ElementsAre(2, 3));
    EXPECT_EQ(to_gguf.values, as_gguf);
    const Streamed to_hf = Stream(Gpt2(gguf), false);
    EXPECT_THAT(to_hf.shape, ElementsAre(3, 2));
    EXPECT_EQ(to_hf.values, as_hf);
  }
  EXPECT_EQ(rounding_.error_squared, 0);
  EXPECT_EQ(rounding_.update_squared, 4 * (100 + 400 + 400 + 1600));
}

// W + B A = [[11 2 23], [24 5 46]] with norms sqrt(654) and sqrt(2717); the magnitudes ask for twice and for half that.
// A second adapter adds [[1 0 0], [0 0 0]].
TEST_F(TensorStream, MagnitudesScaleTheRowsOfTheModule) {
  adapter::AdapterBuilder dora;
  dora.Add("transformer.h.0.attn.c_attn", 1, 2, 3, 1, 1, {1, 0, 2}, {10, 20});
  dora.AddMagnitude({2 * std::sqrt(654.0F), std::sqrt(2717.0F) / 2});
  adapters_.push_back(std::move(dora).Build());
  adapter::AdapterBuilder plain;
  plain.Add("transformer.h.0.attn.c_attn", 1, 2, 3, 1, 1, {1, 0, 0}, {1, 0});
  adapters_.push_back(std::move(plain).Build());
  const std::vector<float> as_gguf = {23, 4, 46, 12, 2.5F, 23};
  const std::vector<float> as_hf = {23, 12, 4, 2.5F, 46, 23};
  for (const bool gguf : {false, true}) {
    SCOPED_TRACE(gguf);
    EXPECT_THAT(Stream(Gpt2(gguf), true).values, Pointwise(FloatNear(1e-5F), as_gguf));
    EXPECT_THAT(Stream(Gpt2(gguf), false).values, Pointwise(FloatNear(1e-5F), as_hf));
  }
}

TEST_F(TensorStream, GemmasNormsAreStoredLessOneByHf) {
  for (const bool from_gguf : {false, true}) {
    FakeModel m("gemma2", from_gguf);
    m.Add("model.layers.0.input_layernorm.weight", {2}, {0.5F, 2});
    const float to_gguf = from_gguf ? 0 : 1;
    EXPECT_THAT(Stream(m, true).values, ElementsAre(0.5F + to_gguf, 2 + to_gguf));
    EXPECT_THAT(Stream(m, false).values, ElementsAre(0.5F + to_gguf - 1, 2 + to_gguf - 1));
  }
}

// Heads of four: GGUF's rows 0 1 2 3 are HF's 0 2 1 3.
TEST_F(TensorStream, LlamasQueryRowsAndBiasesAreReorderedForGgufAlone) {
  FakeModel weight("llama", false);
  weight.Add("model.layers.0.self_attn.q_proj.weight", {8, 1}, {0, 1, 2, 3, 4, 5, 6, 7});
  EXPECT_THAT(Stream(weight, true).values, ElementsAre(0, 2, 1, 3, 4, 6, 5, 7));
  EXPECT_THAT(Stream(weight, false).values, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
  FakeModel bias("llama", false);
  bias.Add("model.layers.0.self_attn.k_proj.bias", {4}, {0, 1, 2, 3});
  EXPECT_THAT(Stream(bias, true).values, ElementsAre(0, 2, 1, 3));
  FakeModel qwen("qwen2", false);
  qwen.Add("model.layers.0.self_attn.k_proj.bias", {4}, {0, 1, 2, 3});
  EXPECT_THAT(Stream(qwen, true).values, ElementsAre(0, 1, 2, 3));
}

// More rows than a block holds: blocks end at whole heads.
TEST_F(TensorStream, LargeTensorsGoBlockByBlock) {
  constexpr int64_t kRows = 1032, kWidth = 2000;
  FakeModel m("llama", false);
  m.Add("model.layers.0.self_attn.q_proj.weight", {kRows, kWidth}, testing::SomeFloats(kRows * kWidth, 3));
  m.AddModule("model.layers.0.self_attn.q_proj", kRows, kWidth);
  adapters_.push_back(testing::MakeAdapter({{"model.layers.0.self_attn.q_proj", 1, kRows, kWidth, 1, 1}}));
  std::vector<float> b(kRows);
  std::vector<float> a(kWidth);
  ASSERT_OK(format::ToFloat(adapters_[0].modules()[0].b, b));
  ASSERT_OK(format::ToFloat(adapters_[0].modules()[0].a, a));
  std::vector<float> base(kRows * kWidth);
  ASSERT_OK(m.ReadRows("model.layers.0.self_attn.q_proj.weight", 0, base));
  const Streamed streamed = Stream(m, true);
  ASSERT_EQ(streamed.values.size(), base.size());
  for (int64_t row = 0; row < kRows; ++row) {
    const int64_t from = row / 4 * 4 + (row % 2) * 2 + (row % 4) / 2;
    for (int64_t j = 0; j < kWidth; j += 7) {
      ASSERT_EQ(streamed.values[row * kWidth + j], base[from * kWidth + j] + b[from] * a[j]) << row << " " << j;
    }
  }
}

}  // namespace
}  // namespace strata::exporting
