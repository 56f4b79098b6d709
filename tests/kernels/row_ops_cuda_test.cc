// Row kernels on a CUDA device against the processor's, in fp32, bf16 and fp16, with rows that take pieces of 16 bytes
// and rows that do not. In fp16 the processor computes in fp32, from the same values.
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/cuda_ops.h"
#include "kernels/ops.h"

namespace strata::kernels {
namespace {

bool HasDevice() {
  int devices = 0;
  return cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0;
}

// An array here and on the device.
template <typename T>
class Mirrored {
 public:
  explicit Mirrored(std::vector<T> values) : host(std::move(values)) {
    EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&device), host.size() * sizeof(T)), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(device, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice), cudaSuccess);
  }
  ~Mirrored() { cudaFree(device); }
  Mirrored(const Mirrored&) = delete;
  Mirrored& operator=(const Mirrored&) = delete;

  // What the device holds.
  std::vector<T> Fetch() const {
    std::vector<T> out(host.size());
    EXPECT_EQ(cudaMemcpy(out.data(), device, out.size() * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
    return out;
  }

  std::vector<T> host;
  T* device = nullptr;
};

float Wave(size_t i, double scale, double phase) {
  return static_cast<float>(scale * std::sin(static_cast<double>(i) * 0.7310001 + phase));
}

std::vector<float> Floats(int64_t count, double scale, double phase) {
  std::vector<float> out(static_cast<size_t>(count));
  for (size_t i = 0; i < out.size(); ++i) out[i] = Wave(i, scale, phase);
  return out;
}

constexpr int64_t SizeOf(Type type) { return type == Type::kF32 ? 4 : 2; }

std::vector<uint8_t> BytesOf(Type type, const std::vector<float>& values) {
  std::vector<uint8_t> bytes(values.size() * static_cast<size_t>(SizeOf(type)));
  for (size_t i = 0; i < values.size(); ++i) {
    if (type == Type::kF32) {
      std::memcpy(bytes.data() + 4 * i, &values[i], 4);
    } else if (type == Type::kF16) {
      const __half half = __float2half_rn(values[i]);
      std::memcpy(bytes.data() + 2 * i, &half, 2);
    } else {
      uint16_t half = 0;
      RoundToBf16(&values[i], &half, 1);
      std::memcpy(bytes.data() + 2 * i, &half, 2);
    }
  }
  return bytes;
}

std::vector<float> FloatsOf(Type type, const std::vector<uint8_t>& bytes) {
  std::vector<float> values(bytes.size() / static_cast<size_t>(SizeOf(type)));
  for (size_t i = 0; i < values.size(); ++i) {
    if (type == Type::kF32) {
      std::memcpy(&values[i], bytes.data() + 4 * i, 4);
    } else if (type == Type::kF16) {
      __half half;
      std::memcpy(&half, bytes.data() + 2 * i, 2);
      values[i] = __half2float(half);
    } else {
      uint16_t half = 0;
      std::memcpy(&half, bytes.data() + 2 * i, 2);
      values[i] = __builtin_bit_cast(float, static_cast<uint32_t>(half) << 16);
    }
  }
  return values;
}

// A matrix of any type, mirrored, with columns beyond its own behind every row.
class Matrix {
 public:
  Matrix(Type type, int64_t rows, int64_t cols, int64_t stride, double scale, double phase)
      : type_(type),
        here_type_(type == Type::kF16 ? Type::kF32 : type),
        rows_(rows),
        cols_(cols),
        stride_(stride),
        there_(BytesOf(type, Floats(rows * stride, scale, phase))),
        here_(BytesOf(here_type_, FloatsOf(type, there_.host))) {}

  Rows Here() { return View(here_.data(), here_type_); }
  Rows There() { return View(there_.device, type_); }
  // The largest difference of what both hold, in units of what one rounding may make of it; the margins count too.
  double Difference() const {
    const std::vector<float> expected = FloatsOf(here_type_, here_);
    const std::vector<float> found = FloatsOf(type_, there_.Fetch());
    const double relative = type_ == Type::kF32 ? 4e-6 : type_ == Type::kF16 ? 1.0 / 1024 : 1.0 / 128;
    const double absolute = type_ == Type::kF32 ? 4e-6 : type_ == Type::kF16 ? 1e-3 : 8e-3;
    double most = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      const auto a = static_cast<double>(expected[i]);
      const auto b = static_cast<double>(found[i]);
      most = std::max(most, std::isfinite(b) ? std::abs(a - b) / (std::abs(a) * relative + absolute) : INFINITY);
    }
    return most;
  }

 private:
  Rows View(void* data, Type type) const {
    return {.data = data, .type = type, .rows = rows_, .cols = cols_, .stride = stride_};
  }

  Type type_, here_type_;
  int64_t rows_, cols_, stride_;
  Mirrored<uint8_t> there_;
  std::vector<uint8_t> here_;
};

struct Shape {
  std::string name;
  Type type;
  int64_t rows, cols, stride;
};

class RowOpsCuda : public ::testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    if (!HasDevice()) GTEST_SKIP() << "no CUDA device here";
  }
  Matrix Make(double phase, int64_t cols = 0, double scale = 1.5) const {
    const Shape& s = GetParam();
    const int64_t wide = cols == 0 ? s.cols : cols;
    return {s.type, s.rows, wide, wide + s.stride - s.cols, scale, phase};
  }
  static constexpr int kThreads = 1;
};

#define EXPECT_LAUNCHED(call) EXPECT_EQ(call, 0) << cudaGetErrorString(cudaGetLastError())

TEST_P(RowOpsCuda, Norms) {
  for (const bool layer : {false, true}) {
    for (const int64_t heads : {1, 2}) {
      const int64_t size = GetParam().cols / heads;
      const Mirrored<float> weight(Floats(size, 1, 0.3));
      const Mirrored<float> bias(Floats(size, 1, 0.9));
      const NormWeights here = {weight.host.data(), layer ? bias.host.data() : nullptr, 1e-5F, heads};
      const NormWeights there = {weight.device, layer ? bias.device : nullptr, 1e-5F, heads};
      Matrix x = Make(0);
      Matrix delta = Make(1);
      Matrix out = Make(2);
      Mirrored<float> rstd(std::vector<float>(static_cast<size_t>(GetParam().rows * heads)));
      const auto check = [&](const char* what) {
        EXPECT_LE(out.Difference(), 1) << what;
        EXPECT_LE(x.Difference(), 1) << what;
        const std::vector<float> fetched = rstd.Fetch();
        // The processor does not round sums to fp16.
        const double limit = GetParam().type == Type::kF16 ? 2e-4 : 2e-5;
        for (size_t i = 0; i < fetched.size(); ++i) EXPECT_NEAR(fetched[i], rstd.host[i], limit * rstd.host[i]) << what;
      };
      Norm(x.Here(), here, out.Here(), rstd.host.data(), kThreads);
      EXPECT_LAUNCHED(cuda::Norm(x.There(), there, out.There(), rstd.device, nullptr));
      check("norm");
      AddNorm(x.Here(), delta.Here(), x.Here(), here, out.Here(), rstd.host.data(), kThreads);
      EXPECT_LAUNCHED(cuda::AddNorm(x.There(), delta.There(), x.There(), there, out.There(), rstd.device, nullptr));
      check("add and norm");
      for (const bool accumulate : {false, true}) {
        NormBackward(delta.Here(), x.Here(), here, rstd.host.data(), out.Here(), accumulate, kThreads);
        EXPECT_LAUNCHED(
            cuda::NormBackward(delta.There(), x.There(), there, rstd.device, out.There(), accumulate, nullptr));
        check("backward");
      }
      NormBackward(delta.Here(), x.Here(), here, rstd.host.data(), out.Here(), /*accumulate=*/true, kThreads);
      Norm(x.Here(), here, delta.Here(), rstd.host.data(), kThreads);
      EXPECT_LAUNCHED(cuda::NormBackwardAndValue(delta.There(), x.There(), there, rstd.device, out.There(), nullptr));
      check("backward and value");
      EXPECT_LE(delta.Difference(), 1);
    }
  }
}

TEST_P(RowOpsCuda, Rope) {
  const int64_t pairs = GetParam().cols % 16 == 0 ? 8 : 3;
  const Mirrored<float> cos(Floats(GetParam().rows * pairs, 1, 0.1));
  const Mirrored<float> sin(Floats(GetParam().rows * pairs, 1, 1.7));
  for (const int64_t head_dim : {2 * pairs, 3 * pairs, 4 * pairs}) {
    const int64_t heads = GetParam().cols / head_dim;
    for (const bool inverse : {false, true}) {
      Matrix x = Make(0);
      Rope(x.Here(), heads, head_dim, {cos.host.data(), sin.host.data(), pairs}, inverse, kThreads);
      EXPECT_LAUNCHED(cuda::Rope(x.There(), heads, head_dim, {cos.device, sin.device, pairs}, inverse, nullptr));
      EXPECT_LE(x.Difference(), 1) << head_dim;
    }
  }
}

TEST_P(RowOpsCuda, Units) {
  for (const Unit unit : {Unit::kSwiglu, Unit::kGeglu, Unit::kGelu}) {
    Matrix in = Make(0, IsGated(unit) ? 2 * GetParam().cols : 0, 3);
    Matrix out = Make(1);
    Activate(unit, in.Here(), out.Here(), kThreads);
    EXPECT_LAUNCHED(cuda::Activate(unit, in.There(), out.There(), nullptr));
    EXPECT_LE(out.Difference(), 1);
    ActivateBackward(unit, in.Here(), out.Here(), kThreads);
    EXPECT_LAUNCHED(cuda::ActivateBackward(unit, in.There(), out.There(), nullptr));
    EXPECT_LE(out.Difference(), 2);
    EXPECT_LE(in.Difference(), 2);
  }
}

TEST_P(RowOpsCuda, Sums) {
  Matrix x = Make(0);
  Matrix delta = Make(1);
  const Mirrored<float> bias(Floats(GetParam().cols, 1, 0.9));
  Add(x.Here(), delta.Here(), kThreads);
  AddBias(x.Here(), bias.host.data(), kThreads);
  EXPECT_LAUNCHED(cuda::Add(x.There(), delta.There(), nullptr));
  EXPECT_LAUNCHED(cuda::AddBias(x.There(), bias.device, nullptr));
  EXPECT_LE(x.Difference(), 1);
}

TEST_P(RowOpsCuda, Loss) {
  std::vector<int32_t> wanted(static_cast<size_t>(GetParam().rows));
  for (size_t i = 0; i < wanted.size(); ++i)
    wanted[i] = static_cast<int32_t>(i * 31 % static_cast<size_t>(GetParam().cols));
  const Mirrored<int32_t> targets(wanted);
  const Mirrored<float> scale({0.5F});
  for (const float cap : {0.0F, 2.0F}) {
    for (const bool gradient : {false, true}) {
      Matrix logits = Make(0, 0, 6);
      Mirrored<float> nll(std::vector<float>(wanted.size()));
      LossOptions options = {.scale = 0.25F, .gradient = gradient, .softcap = cap};
      CrossEntropy(logits.Here(), targets.host.data(), options, nll.host.data(), kThreads);
      options.scale = 0.5F;
      EXPECT_LAUNCHED(cuda::CrossEntropy(logits.There(), targets.device, options, scale.device, nll.device, nullptr));
      EXPECT_LE(logits.Difference(), cap > 0 ? 4 : 2) << cap << gradient;
      const std::vector<float> fetched = nll.Fetch();
      // In 16 bits a capped logit is rounded on the device before it counts, and not on the processor.
      const double limit = cap > 0 && GetParam().type != Type::kF32 ? 2e-2 : 1e-5;
      for (size_t i = 0; i < fetched.size(); ++i) EXPECT_NEAR(fetched[i], nll.host[i], limit * (1 + nll.host[i]));
    }
  }
}

TEST_P(RowOpsCuda, ARowWithoutATargetHasNoGradient) {
  const Mirrored<int32_t> targets(std::vector<int32_t>(static_cast<size_t>(GetParam().rows), -1));
  Matrix logits = Make(0);
  Mirrored<float> nll(std::vector<float>(targets.host.size(), 7.0F));
  EXPECT_LAUNCHED(cuda::CrossEntropy(logits.There(), targets.device, {.gradient = true}, nullptr, nll.device, nullptr));
  EXPECT_EQ(nll.Fetch(), std::vector<float>(targets.host.size(), 0.0F));
  const Rows here = logits.Here();
  const int64_t size = SizeOf(here.type);
  for (int64_t r = 0; r < here.rows; ++r)
    std::memset(static_cast<uint8_t*>(here.data) + r * here.stride * size, 0, static_cast<size_t>(here.cols * size));
  EXPECT_EQ(logits.Difference(), 0);
}

TEST_P(RowOpsCuda, GatherAndScatter) {
  const int64_t rows = GetParam().rows;
  std::vector<int32_t> order(static_cast<size_t>(rows));
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(order.size() - 1 - i);
  order[0] = -1;
  const Mirrored<int32_t> index(order);
  Matrix table = Make(0);
  Matrix out = Make(1);
  const auto copy = [&](const Rows& from, int64_t from_row, const Rows& to, int64_t to_row) {
    const int64_t size = SizeOf(from.type);
    uint8_t* target = static_cast<uint8_t*>(to.data) + to_row * to.stride * size;
    if (from_row < 0) {
      std::memset(target, 0, static_cast<size_t>(from.cols * size));
    } else {
      std::memcpy(target, static_cast<uint8_t*>(from.data) + from_row * from.stride * size,
                  static_cast<size_t>(from.cols * size));
    }
  };
  for (int64_t r = 0; r < rows; ++r) copy(table.Here(), order[static_cast<size_t>(r)], out.Here(), r);
  EXPECT_LAUNCHED(cuda::GatherRows(table.There(), index.device, out.There(), nullptr));
  EXPECT_EQ(out.Difference(), 0);
  for (int64_t r = 1; r < rows; ++r) copy(out.Here(), r, table.Here(), order[static_cast<size_t>(r)]);
  EXPECT_LAUNCHED(cuda::ScatterRows(out.There(), index.device, table.There(), nullptr));
  EXPECT_EQ(table.Difference(), 0);
}

TEST_P(RowOpsCuda, Copies) {
  Matrix from = Make(0);
  Matrix to = Make(1);
  const Rows here = from.Here();
  const int64_t size = SizeOf(here.type);
  for (int64_t r = 0; r < here.rows; ++r) {
    std::memcpy(static_cast<uint8_t*>(to.Here().data) + r * here.stride * size,
                static_cast<uint8_t*>(here.data) + r * here.stride * size, static_cast<size_t>(here.cols * size));
  }
  EXPECT_LAUNCHED(cuda::Copy(from.There(), to.There(), nullptr));
  EXPECT_EQ(to.Difference(), 0);
}

TEST_P(RowOpsCuda, ScaledCopies) {
  const Shape& s = GetParam();
  Matrix out = Make(1);
  const Mirrored<float> from(Floats(s.rows * s.cols, 1, 0.4));
  const Rows here = out.Here();
  const Rows there = out.There();
  // Columns [0, half) and the rest, from two arrays.
  const int64_t half = s.cols / 2;
  const int64_t size = SizeOf(s.type);
  const Mirrored<cuda::ScaledCopy> copies(
      {{from.device, there.data, s.rows, half, s.stride, 2.0F},
       {from.device + s.rows * half, static_cast<uint8_t*>(there.data) + half * size, s.rows, s.cols - half, s.stride,
        0.5F}});
  for (int64_t r = 0; r < s.rows; ++r) {
    for (int64_t c = 0; c < s.cols; ++c) {
      const int64_t source = c < half ? r * half + c : s.rows * half + r * (s.cols - half) + c - half;
      const float value = from.host[static_cast<size_t>(source)] * (c < half ? 2.0F : 0.5F);
      const std::vector<uint8_t> bytes = BytesOf(here.type, FloatsOf(s.type, BytesOf(s.type, {value})));
      std::memcpy(static_cast<uint8_t*>(here.data) + (r * s.stride + c) * SizeOf(here.type), bytes.data(),
                  bytes.size());
    }
  }
  EXPECT_LAUNCHED(cuda::CopyScaled(copies.device, 2, s.type, nullptr));
  EXPECT_EQ(out.Difference(), 0);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, RowOpsCuda,
    ::testing::Values(Shape{"f32", Type::kF32, 5, 576, 576}, Shape{"f32_ragged", Type::kF32, 3, 50, 51},
                      Shape{"f32_wide", Type::kF32, 2, 9000, 9008}, Shape{"bf16", Type::kBF16, 7, 2048, 2096},
                      Shape{"bf16_ragged", Type::kBF16, 4, 50, 53}, Shape{"bf16_wide", Type::kBF16, 3, 49152, 49152},
                      Shape{"f16", Type::kF16, 7, 2048, 2096}, Shape{"f16_ragged", Type::kF16, 4, 50, 53}),
    [](const auto& info) { return info.param.name; });

TEST(SumSquaresCuda, IsThatInDouble) {
  if (!HasDevice()) GTEST_SKIP() << "no CUDA device here";
  for (const int64_t count : {1, 1000, 3'000'001}) {
    const Mirrored<float> values(Floats(count, 1, 0.2));
    Mirrored<double> sums(std::vector<double>(cuda::kSumSquaresWorkspace + 1));
    EXPECT_LAUNCHED(cuda::SumSquares(values.device, count, sums.device + 1, sums.device, nullptr));
    const double expected = SumSquares(values.host.data(), count, 1);
    EXPECT_NEAR(sums.Fetch()[0], expected, 1e-12 * expected);
  }
}

}  // namespace
}  // namespace strata::kernels
