// NF4 against what bitsandbytes computed: codes and first scales bit by bit, what double quantisation makes of them,
// and decoding as the matrix product does it, in every instruction set.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "common/format/safetensors.h"
#include "common/runtime/runtime.h"
#include "tests/kernels/mat_mul_variants.h"
#include "tests/kernels/quantised_matrix.h"
#include "tests/testing/golden.h"

namespace strata::kernels {
namespace {

runtime::FileSystem& Files() {
  static runtime::SystemRuntime system(1);
  return system.get().files;
}

template <typename T>
std::vector<T> Values(const format::TensorView& view) {
  std::vector<T> out(view.data.size() / sizeof(T));
  std::memcpy(out.data(), view.data.data(), view.data.size());
  return out;
}

// Of the repository's subset, or of the whole set.
class Nf4Golden : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    const std::string path = "nf4/nf4.safetensors";
    const std::string found = GetParam() ? testing::FullGoldenDir(path) : testing::GoldenDir(path);
    if (found.empty()) GTEST_SKIP() << "the full golden set (../shared/golden) does not lie beside the checkout";
    auto file = format::Safetensors::Open(Files(), found);
    ASSERT_TRUE(file.ok()) << file.status();
    file_ = *std::move(file);
    for (const format::TensorView& view : file_.tensors()) {
      if (view.name.ends_with(".weight")) names_.push_back(view.name.substr(0, view.name.size() - 7));
    }
    ASSERT_FALSE(names_.empty());
  }
  const format::TensorView& View(const std::string& name) const {
    const format::TensorView* view = file_.Find(name);
    if (view == nullptr) throw std::runtime_error("the golden file lacks " + name);
    return *view;
  }
  std::vector<float> Floats(const std::string& name) const { return Values<float>(View(name)); }
  std::vector<uint8_t> Bytes(const std::string& name) const { return Values<uint8_t>(View(name)); }
  QuantisedMatrix Quantise(const std::string& name) const {
    const std::vector<int64_t>& shape = View(name + ".weight").shape;
    return {Floats(name + ".weight").data(), shape[0], shape[1]};
  }

  format::Safetensors file_;
  std::vector<std::string> names_;
};

TEST_P(Nf4Golden, CodeBooks) {
  const std::vector<float> values = Floats("codebook");
  EXPECT_TRUE(std::equal(values.begin(), values.end(), kNf4Values, kNf4Values + 16));
  const std::vector<float> scales = Floats("nested.codebook");
  EXPECT_TRUE(std::equal(scales.begin(), scales.end(), ScaleBook(), ScaleBook() + 256));
}

TEST_P(Nf4Golden, CodesAndScalesAreTheSameBits) {
  for (const std::string& name : names_) {
    const QuantisedMatrix ours = Quantise(name);
    EXPECT_EQ(ours.scales(), Floats(name + ".absmax")) << name;
    std::vector<uint8_t> packed = Bytes(name + ".packed");
    packed.resize(ours.codes().size());
    if (Bytes(name + ".codes").size() % 2 == 1) packed.back() &= 0xF0;
    EXPECT_EQ(ours.codes(), packed) << name;
  }
}

// The offset is a mean of fp32 values: one rounding against another order of additions. The reference on the CPU finds
// codes of scales through a table of 65536 steps over [-1, 1], on CUDA the nearest, as we do: where they differ, ours
// is the nearer, and theirs not further away than a step.
TEST_P(Nf4Golden, ScalesOfScales) {
  constexpr float kStep = 2.0F / 65535;
  for (const std::string& name : names_) {
    const QuantisedMatrix ours = Quantise(name);
    const float offset = Floats(name + ".nested.offset")[0];
    EXPECT_NEAR(ours.offset(), offset, std::fabs(offset) * 0x1p-22F) << name;
    const std::vector<float> scales = Floats(name + ".nested.scale");
    ASSERT_EQ(ours.scale_scales().size(), scales.size()) << name;
    // A scale is largest - offset: the offset's difference, and either side's rounding.
    for (size_t i = 0; i < scales.size(); ++i) {
      const float limit = std::fabs(offset) * 0x1p-22F + scales[i] * 0x1p-23F;
      EXPECT_NEAR(ours.scale_scales()[i], scales[i], limit) << name;
    }
    const std::vector<uint8_t> codes = Bytes(name + ".nested.absmax");
    ASSERT_EQ(ours.scale_codes().size(), codes.size()) << name;
    for (size_t i = 0; i < codes.size(); ++i) {
      const float scale = scales[i / kNf4ScaleBlock];
      if (scale == 0 || ours.scale_codes()[i] == codes[i]) continue;
      const float value = (ours.scales()[i] - offset) / scale;
      const float our_error = std::fabs(value - ScaleBook()[ours.scale_codes()[i]]);
      const float their_error = std::fabs(value - ScaleBook()[codes[i]]);
      EXPECT_LE(our_error, their_error + 0x1p-20F) << name << ", block " << i;
      EXPECT_LE(their_error, our_error + kStep) << name << ", block " << i;
    }
  }
}

// Their codes, times the identity, give their values: the same bits.
TEST_P(Nf4Golden, TheProductDecodesToTheSameBits) {
  for (const std::string& name : names_) {
    const std::vector<int64_t>& shape = View(name + ".weight").shape;
    std::vector<uint8_t> codes = Bytes(name + ".packed");
    const std::vector<uint8_t> scales = Bytes(name + ".nested.absmax");
    const std::vector<float> scale_scales = Floats(name + ".nested.scale");
    Nf4 matrix = {.rows = shape[0],
                  .codes = codes.data(),
                  .scales = scales.data(),
                  .scale_scales = scale_scales.data(),
                  .offset = Floats(name + ".nested.offset")[0]};
    std::vector<float> identity(static_cast<size_t>(shape[0] * shape[0]));
    for (int64_t i = 0; i < shape[0]; ++i) identity[static_cast<size_t>(i * shape[0] + i)] = 1;
    std::vector<float> y(static_cast<size_t>(shape[0] * shape[1]));
    const Product product = {
        .x = {.data = identity.data(), .rows = shape[0], .cols = shape[0], .stride = shape[0]},
        .w = {.data = &matrix, .type = Type::kNf4, .rows = shape[0], .cols = shape[1], .stride = shape[1]},
        .y = {.data = y.data(), .rows = shape[0], .cols = shape[1], .stride = shape[1]},
        .by_rows = false};
    std::vector<float> decoded(y.size());
    Decode(product.w, 0, shape[0], decoded.data());
    EXPECT_EQ(decoded, Floats(name + ".nested.decoded")) << name;
    for (const MatMulVariant& variant : MatMulVariants()) {
      RunOn(*variant.table, product);
      EXPECT_EQ(y, Floats(name + ".nested.decoded")) << name << ", " << variant.name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Sets, Nf4Golden, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Whole" : "Subset"; });

}  // namespace
}  // namespace strata::kernels
