// A quantised base computes what an fp32 model of its codes' values computes: through fused groups, transposed
// matrices, biases, blocks of values that end inside a row, and matrices read in several blocks of rows.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "client/model/model_tensors.h"
#include "client/model/transformer.h"
#include "common/format/tensor.h"
#include "tests/client/model/golden_batch.h"
#include "tests/client/model/model_folder.h"
#include "tests/client/model/test_device.h"
#include "tests/kernels/quantised_matrix.h"

namespace strata::model {
namespace {

using config::BaseDType;
using config::ComputeDType;
using ::testing::HasSubstr;
using testing::StatusIs;

std::vector<float> Turned(const std::vector<float>& values, size_t rows, size_t cols) {
  std::vector<float> out(values.size());
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < cols; ++c) out[c * rows + r] = values[r * cols + c];
  }
  return out;
}

std::vector<float> Decoded(const std::vector<float>& values, int64_t rows, int64_t cols, BaseDType type) {
  if (type == BaseDType::kNf4) return kernels::QuantisedMatrix(values.data(), rows, cols).Decoded();
  std::vector<float> out;
  std::vector<int8_t> codes(static_cast<size_t>(cols));
  for (int64_t r = 0; r < rows; ++r) {
    const float scale = kernels::QuantiseInt8(values.data() + r * cols, cols, codes.data());
    for (const int8_t code : codes) out.push_back(scale * static_cast<float>(code));
  }
  return out;
}

// The values that `tensor` has in memory.
std::vector<float> Held(const std::vector<float>& values, const ExpectedTensor& tensor, bool input_major,
                        BaseDType type) {
  if (tensor.shape.size() == 1) return values;
  if (!tensor.linear) {
    std::vector<float> out;
    out.reserve(values.size());
    for (const float value : values) out.push_back(format::BF16ToFloat(format::FloatToBF16(value)));
    return out;
  }
  const auto rows = static_cast<size_t>(tensor.shape[0]);
  const auto cols = static_cast<size_t>(tensor.shape[1]);
  const std::vector<float> decoded =
      Decoded(input_major ? Turned(values, cols, rows) : values, tensor.shape[0], tensor.shape[1], type);
  return input_major ? Turned(decoded, rows, cols) : decoded;
}

// Rewrites the folder's model in fp32 with the values that it has in memory.
void Decode(ModelFolder& folder, BaseDType type) {
  ASSERT_OK_AND_ASSIGN(const auto files, folder.Open());
  std::vector<std::vector<float>> values;
  std::vector<format::TensorView> views;
  for (const ModelTensor& tensor : files->tensors()) {
    const std::vector<ExpectedTensor> all = ExpectedTensors(files->config());
    const auto expected = std::find_if(all.begin(), all.end(), [&](const auto& t) { return t.name == tensor.name; });
    ASSERT_NE(expected, all.end());
    values.push_back(Held(ReadTensor(*files, tensor), *expected, tensor.input_major, type));
    std::vector<int64_t> shape = expected->shape;
    if (tensor.input_major) std::reverse(shape.begin(), shape.end());
    views.push_back({tensor.name, format::DType::kF32, shape, {}});
  }
  for (size_t i = 0; i < views.size(); ++i) views[i].data = std::as_bytes(std::span(values[i]));
  folder.Write("model.safetensors", format::SerializeSafetensors(views, {}));
}

// A wide MLP: more values than are read at once, in rows that no block of NF4 divides.
void Widen(ModelFolder& folder) {
  constexpr int64_t kWidth = 12000;
  folder.Replace("config.json", "\"intermediate_size\": 32", "\"intermediate_size\": 12000");
  std::vector<std::vector<float>> values;
  values.reserve(64);
  folder.Edit("model.safetensors", [&](std::vector<format::TensorView>& tensors) {
    for (format::TensorView& t : tensors) {
      if (t.name.find(".mlp.") == std::string::npos) continue;
      std::replace(t.shape.begin(), t.shape.end(), int64_t{32}, kWidth);
      std::vector<float>& wide = values.emplace_back(static_cast<size_t>(t.shape[0] * t.shape[1]));
      for (size_t i = 0; i < wide.size(); ++i) wide[i] = static_cast<float>((i * 7919) % 1009) / 5045.0F - 0.1F;
      t.data = std::as_bytes(std::span(wide));
    }
  });
}

std::unique_ptr<Transformer> Load(ModelFolder& folder, config::Precision precision) {
  auto files = folder.Open();
  EXPECT_OK(files);
  auto model = Transformer::Load(*std::move(files), precision, testing::TestDevice(), 2);
  EXPECT_OK(model);
  return *std::move(model);
}

data::PackedBatch SomeBatch() {
  data::Example row;
  for (int i = 0; i < 19; ++i) row.ids.push_back(3 + i * 5 % 37);
  row.labels = row.ids;
  return testing::PackRows({row});
}

at::Tensor Some(at::IntArrayRef shape, int64_t seed) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return at::arange(seed, seed + count, at::kFloat).mul_(1.7).sin_().mul_(0.1).view(shape).to(testing::TestDevice());
}

// Low-rank factors of every linear module of a layer, every other one with a magnitude.
std::vector<NamedFactors> SomeFactors(const Transformer& model, int64_t seed, bool trained) {
  std::vector<NamedFactors> all;
  for (const config::ModuleShape& module : model.files().LinearModules()) {
    if (module.name == "lm_head") continue;
    SideFactors factors;
    factors.a = Some({3, module.in}, seed++);
    factors.b = Some({module.out, 3}, seed++);
    factors.scaling = 0.5;
    if (all.size() % 2 == 0 || trained) factors.magnitude = Some({module.out}, seed++) + 1;
    if (trained) {
      factors.grad_a = at::zeros_like(factors.a);
      factors.grad_b = at::zeros_like(factors.b);
      factors.grad_magnitude = at::zeros_like(factors.magnitude);
    }
    all.push_back({module.name, factors});
  }
  return all;
}

// Loss and gradients of one step over frozen and trained factors.
std::vector<at::Tensor> Step(Transformer& model, const data::PackedBatch& batch, const DropoutKey& dropout) {
  EXPECT_OK(model.SetBase(SomeFactors(model, 5, /*trained=*/false), BaseRoute::kSide));
  const std::vector<NamedFactors> trained = SomeFactors(model, 1000, /*trained=*/true);
  EXPECT_OK(model.SetTrained(trained));
  const absl::StatusOr<double> loss = model.TrainStep(batch, 0.1, dropout);
  EXPECT_OK(loss);
  std::vector<at::Tensor> out = {at::scalar_tensor(*loss)};
  for (const NamedFactors& f : trained) {
    for (const at::Tensor& gradient : {f.factors.grad_a, f.factors.grad_b, f.factors.grad_magnitude})
      out.push_back(gradient.cpu());
  }
  return out;
}

class QuantisedBase : public ::testing::TestWithParam<std::tuple<std::string, BaseDType>> {};

TEST_P(QuantisedBase, ComputesWhatItsCodesStandFor) {
  if (testing::TestDeviceName() != "cpu" && !HasCudaKernels()) GTEST_SKIP() << "no kernels for it in this build";
  const auto& [name, type] = GetParam();
  ModelFolder folder(name == "wide" ? "small-mistral" : name);
  if (name == "wide") Widen(folder);
  const auto pristine = Load(folder, ComputeDType::kFp32);
  const auto quantised = Load(folder, {ComputeDType::kFp32, type});
  const auto low = Load(folder, {ComputeDType::kBf16, type});
  Decode(folder, type);
  const auto decoded = Load(folder, ComputeDType::kFp32);
  const data::PackedBatch batch = SomeBatch();
  ASSERT_OK_AND_ASSIGN(const Inspection seen, quantised->Inspect(batch));
  ASSERT_OK_AND_ASSIGN(const Inspection expected, decoded->Inspect(batch));
  ASSERT_OK_AND_ASSIGN(const Inspection before, pristine->Inspect(batch));
  EXPECT_LT(testing::RelativeNorm(seen.logits, expected.logits), 5e-6);
  EXPECT_GT(testing::RelativeNorm(seen.logits, before.logits), 1e-3);
  ASSERT_OK_AND_ASSIGN(const Inspection rounded, low->Inspect(batch));
  EXPECT_LT(testing::RelativeNorm(rounded.logits, expected.logits), 0.03);
  EXPECT_LT(quantised->resident_bytes(), pristine->resident_bytes());
  for (const double dropout : {0.0, 0.2}) {
    const std::vector<at::Tensor> step = Step(*quantised, batch, {.probability = dropout, .key = 7});
    const std::vector<at::Tensor> wanted = Step(*decoded, batch, {.probability = dropout, .key = 7});
    for (size_t i = 0; i < step.size(); ++i)
      EXPECT_LT(testing::RelativeNorm(step[i], wanted[i]), 2e-5) << "loss or gradient " << i << ", dropout " << dropout;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, QuantisedBase,
                         ::testing::Combine(::testing::Values("llama", "small-gpt2", "small-phi3", "small-qwen2",
                                                              "small-gemma2", "wide"),
                                            ::testing::Values(BaseDType::kInt8, BaseDType::kNf4)),
                         [](const auto& info) {
                           return testing::CaseName(std::get<0>(info.param)) + "_" +
                                  std::string(config::BaseDTypeWord(std::get<1>(info.param)));
                         });

TEST(BaseDTypeTest, Bf16WeightsUnderFp32Activations) {
  ModelFolder folder("llama");
  const auto mixed = Load(folder, {ComputeDType::kFp32, BaseDType::kBf16});
  const auto whole = Load(folder, ComputeDType::kFp32);
  ASSERT_OK_AND_ASSIGN(const Inspection seen, mixed->Inspect(SomeBatch()));
  ASSERT_OK_AND_ASSIGN(const Inspection expected, whole->Inspect(SomeBatch()));
  EXPECT_LT(testing::RelativeNorm(seen.logits, expected.logits), 0.02);
  EXPECT_LT(mixed->resident_bytes(), whole->resident_bytes());
}

TEST(BaseDTypeTest, WhatIsNotThereIsRefused) {
  ModelFolder folder("llama");
  const auto load = [&](config::Precision precision, at::Device device) {
    return Transformer::Load(*folder.Open(), precision, device, 1).status();
  };
  const at::Device cuda(at::kCUDA, 0);
  if (!HasCudaKernels()) {
    EXPECT_THAT(load({ComputeDType::kFp32, BaseDType::kNf4}, cuda),
                StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("-DSTRATA_CUDA=ON")));
    EXPECT_THAT(Transformer::Load(*folder.Open(), ComputeDType::kBf16, cuda, 1, 1).status(),
                StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("host_layers")));
  }
  EXPECT_THAT(Transformer::Load(*folder.Open(), ComputeDType::kBf16, cuda, 1, 100).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("found 100")));
  EXPECT_THAT(Transformer::Load(*folder.Open(), ComputeDType::kBf16, at::kCPU, 1, 1).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("host_layers is for CUDA devices")));
  EXPECT_THAT(load(ComputeDType::kFp16, at::kCPU),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("fp16 is for CUDA devices")));
  EXPECT_THAT(load({ComputeDType::kBf16, BaseDType::kFp32}, at::kCPU),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("contradicts")));
  if (testing::TestDeviceName() != "cpu" && !HasCudaKernels()) return;
  const auto model = Load(folder, {ComputeDType::kFp32, BaseDType::kInt8});
  EXPECT_THAT(model->SetBase({}, BaseRoute::kMerge),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("never merged into quantised weights")));
  EXPECT_OK(model->SetBase({}, BaseRoute::kByDtype));
}

}  // namespace
}  // namespace strata::model
