// Attention on a CUDA device against the processor's in fp32, of the same rounded values: types, widths, shared keys,
// windows, soft caps, documents around the tiles' size and empty ones; what is written and what is not; equal bits; and
// that a recorded launch takes other documents.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/cuda_ops.h"
#include "kernels/ops.h"

namespace strata::kernels {
namespace {

constexpr int64_t kBefore = 3, kBehind = 5;  // rows of no document
constexpr uint8_t kPoison = 0xff;            // a NaN in every type

#define EXPECT_LAUNCHED(call) EXPECT_EQ(call, 0) << cudaGetErrorString(cudaGetLastError())

bool HasDevice() {
  int devices = 0;
  return cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0;
}

// A row-major matrix here and on the device, poisoned.
class Matrix {
 public:
  Matrix(Type type, int64_t rows, int64_t cols, int64_t margin)
      : type_(type),
        rows_(rows),
        cols_(cols),
        stride_(cols + margin),
        size_(type == Type::kF32 ? 4 : 2),
        bytes_(static_cast<size_t>(rows * stride_ * size_), kPoison) {
    EXPECT_EQ(cudaMalloc(&device_, bytes_.size()), cudaSuccess);
    Upload();
  }
  ~Matrix() { cudaFree(device_); }
  Matrix(const Matrix&) = delete;
  Matrix& operator=(const Matrix&) = delete;

  Rows There() const { return {.data = device_, .type = type_, .rows = rows_, .cols = cols_, .stride = stride_}; }
  float* Floats() const { return static_cast<float*>(device_); }
  const std::vector<uint8_t>& bytes() const { return bytes_; }
  int64_t cols() const { return cols_; }
  void Upload() { EXPECT_EQ(cudaMemcpy(device_, bytes_.data(), bytes_.size(), cudaMemcpyHostToDevice), cudaSuccess); }
  void Fetch() { EXPECT_EQ(cudaMemcpy(bytes_.data(), device_, bytes_.size(), cudaMemcpyDeviceToHost), cudaSuccess); }
  void Poison() {
    std::fill(bytes_.begin(), bytes_.end(), kPoison);
    Upload();
  }

  void Set(int64_t row, int64_t col, float value) {
    uint8_t* to = bytes_.data() + (row * stride_ + col) * size_;
    if (type_ == Type::kF32) {
      std::memcpy(to, &value, sizeof value);
    } else if (type_ == Type::kF16) {
      const __half half = __float2half_rn(value);
      std::memcpy(to, &half, sizeof half);
    } else {
      const __nv_bfloat16 half = __float2bfloat16_rn(value);
      std::memcpy(to, &half, sizeof half);
    }
  }
  float At(int64_t row, int64_t col) const {
    const uint8_t* from = bytes_.data() + (row * stride_ + col) * size_;
    if (type_ == Type::kF16) {
      __half half;
      std::memcpy(&half, from, sizeof half);
      return __half2float(half);
    }
    if (type_ == Type::kBF16) {
      __nv_bfloat16 half;
      std::memcpy(&half, from, sizeof half);
      return __bfloat162float(half);
    }
    float value = 0;
    std::memcpy(&value, from, sizeof value);
    return value;
  }
  // Whether the matrix's columns of rows [first, last) were all written, and nothing else was.
  bool IsWrittenIn(int64_t first, int64_t last) const {
    for (int64_t i = 0; i < rows_ * stride_; ++i) {
      const int64_t row = i / stride_;
      const bool inside = row >= first && row < last && i % stride_ < cols_;
      const uint8_t* at = bytes_.data() + i * size_;
      if (inside ? !std::isfinite(At(row, i % stride_)) : std::any_of(at, at + size_, IsWritten)) return false;
    }
    return true;
  }

 private:
  static bool IsWritten(uint8_t byte) { return byte != kPoison; }

  Type type_;
  int64_t rows_, cols_, stride_, size_;
  std::vector<uint8_t> bytes_;
  void* device_ = nullptr;
};

// A document's rows follow those of the one before.
std::vector<int32_t> StartsOf(const std::vector<int32_t>& lengths) {
  std::vector<int32_t> starts = {static_cast<int32_t>(kBefore)};
  for (const int32_t length : lengths) starts.push_back(starts.back() + length);
  return starts;
}

const std::vector<int32_t>& Lengths() {
  static const std::vector<int32_t> lengths = {1, 63, 64, 65, 450, 0, 130};
  return lengths;
}

// A rows' range of results in fp32, from the processor.
struct Answer {
  std::vector<float> o, lse, dqkv;  // lse [heads, rows]
};

class Problem {
 public:
  Problem(Type type, const AttentionShape& shape, const std::vector<int32_t>& starts, int64_t tokens)
      : shape_(shape),
        tokens_(tokens),
        count_(static_cast<int64_t>(starts.size()) - 1),
        qkv_(type, tokens, (shape.heads + 2 * shape.kv_heads) * shape.head_dim, type == Type::kF32 ? 3 : 8),
        d_o_(type, tokens, shape.heads * shape.head_dim, type == Type::kF32 ? 5 : 16),
        o_(type, tokens, shape.heads * shape.head_dim, type == Type::kF32 ? 1 : 8),
        dqkv_(type, tokens, qkv_.cols(), type == Type::kF32 ? 2 : 24),
        lse_(Type::kF32, shape.heads, tokens, 7),
        delta_(Type::kF32, shape.heads, tokens, 0) {
    EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&there_), starts.size() * sizeof(int32_t)), cudaSuccess);
    SetDocuments(starts);
  }
  ~Problem() { cudaFree(there_); }
  Problem(const Problem&) = delete;
  Problem& operator=(const Problem&) = delete;

  // As many as before. Inputs are values up to 1 in their rows and poison elsewhere; results are poison.
  void SetDocuments(const std::vector<int32_t>& starts) {
    starts_ = starts;
    EXPECT_EQ(cudaMemcpy(there_, starts.data(), starts.size() * sizeof(int32_t), cudaMemcpyHostToDevice), cudaSuccess);
    uint32_t seed = 1;
    for (Matrix* m : {&qkv_, &d_o_}) {
      m->Poison();
      for (int64_t row = first(); row < last(); ++row) {
        for (int64_t col = 0; col < m->cols(); ++col) {
          seed = seed * 1664525U + 1013904223U;
          m->Set(row, col, static_cast<float>(seed >> 8) / static_cast<float>(1 << 23) - 1.0F);
        }
      }
      m->Upload();
    }
    for (Matrix* m : {&o_, &dqkv_, &lse_, &delta_}) m->Poison();
  }

  void Launch(void* stream) {
    const cuda::DeviceDocuments documents = {.starts = there_, .count = count_, .longest = 450};
    const AttentionResult result = {.o = o_.There(), .lse = lse_.Floats(), .lse_stride = tokens_ + 7};
    EXPECT_LAUNCHED(cuda::Attention(shape_, documents, qkv_.There(), result, stream));
    const AttentionGradient gradient = {
        .qkv = qkv_.There(), .forward = result, .d_o = d_o_.There(), .dqkv = dqkv_.There()};
    EXPECT_LAUNCHED(cuda::AttentionBackward(shape_, documents, gradient, delta_.Floats(), stream));
  }
  void Fetch() {
    for (Matrix* m : {&o_, &dqkv_, &lse_}) m->Fetch();
  }

  bool Takes() const { return cuda::TakesAttention(shape_, qkv_.There()); }
  int64_t first() const { return starts_.front(); }
  int64_t last() const { return starts_.back(); }
  const Matrix& o() const { return o_; }
  const Matrix& lse() const { return lse_; }
  const Matrix& dqkv() const { return dqkv_; }
  const AttentionShape& shape() const { return shape_; }

  Answer Expected() const {
    const int64_t rows = last() - first();
    std::vector<float> qkv = Here(qkv_);
    std::vector<float> d_o = Here(d_o_);
    Answer answer = {.o = std::vector<float>(d_o.size()),
                     .lse = std::vector<float>(static_cast<size_t>(shape_.heads * rows)),
                     .dqkv = std::vector<float>(qkv.size())};
    std::vector<int32_t> starts = starts_;
    for (int32_t& start : starts) start -= static_cast<int32_t>(first());
    const Documents documents = {.starts = starts.data(), .count = count_};
    const auto view = [rows](std::vector<float>& values) {
      const int64_t cols = static_cast<int64_t>(values.size()) / rows;
      return Rows{.data = values.data(), .type = Type::kF32, .rows = rows, .cols = cols, .stride = cols};
    };
    const AttentionResult result = {.o = view(answer.o), .lse = answer.lse.data(), .lse_stride = rows};
    std::vector<char> workspace(static_cast<size_t>(AttentionWorkspace(shape_, documents, true, kThreads)));
    Attention(shape_, documents, view(qkv), result, workspace.data(), kThreads);
    AttentionBackward(shape_, documents,
                      {.qkv = view(qkv), .forward = result, .d_o = view(d_o), .dqkv = view(answer.dqkv)},
                      workspace.data(), kThreads);
    return answer;
  }

 private:
  static constexpr int kThreads = 2;

  std::vector<float> Here(const Matrix& m) const {
    std::vector<float> out;
    for (int64_t row = first(); row < last(); ++row) {
      for (int64_t col = 0; col < m.cols(); ++col) out.push_back(m.At(row, col));
    }
    return out;
  }

  AttentionShape shape_;
  int64_t tokens_, count_;
  Matrix qkv_, d_o_, o_, dqkv_, lse_, delta_;
  std::vector<int32_t> starts_;
  int32_t* there_ = nullptr;
};

// How far a matrix's columns [begin, end) of a problem's rows are from what is expected.
class Distance {
 public:
  Distance(const Problem& p, const Matrix& found, const std::vector<float>& expected, int64_t begin, int64_t end) {
    for (int64_t row = p.first(); row < p.last(); ++row) {
      for (int64_t col = begin; col < end; ++col)
        Add(found.At(row, col), expected[static_cast<size_t>((row - p.first()) * found.cols() + col)]);
    }
  }
  // The largest difference, of 1 + what is expected.
  double most() const { return most_; }
  // The norm of the differences, of the norm.
  double norm() const { return std::sqrt(difference_ / squares_); }

 private:
  void Add(float found, float expected) {
    const auto e = static_cast<double>(expected);
    const double d = static_cast<double>(found) - e;
    most_ = std::max(most_, std::isfinite(d) ? std::abs(d) / (1 + std::abs(e)) : INFINITY);
    difference_ += d * d;
    squares_ += e * e;
  }
  double most_ = 0, difference_ = 0, squares_ = 0;
};

void ExpectClose(Type type, const Problem& p, const Matrix& found, const std::vector<float>& expected, int64_t begin,
                 int64_t end, const char* what) {
  const Distance distance(p, found, expected, begin, end);
  if (type == Type::kF32) {
    EXPECT_LT(distance.most(), 2e-5) << what;
  } else {
    EXPECT_LT(distance.norm(), type == Type::kBF16 ? 1e-2 : 2e-3) << what;
  }
}

void ExpectAnswer(Type type, const Problem& p) {
  const Answer expected = p.Expected();
  const int64_t queries = p.o().cols();
  const int64_t keys = p.shape().kv_heads * p.shape().head_dim;
  EXPECT_TRUE(p.o().IsWrittenIn(p.first(), p.last()));
  EXPECT_TRUE(p.dqkv().IsWrittenIn(p.first(), p.last()));
  ExpectClose(type, p, p.o(), expected.o, 0, queries, "o");
  ExpectClose(type, p, p.dqkv(), expected.dqkv, 0, queries, "dq");
  ExpectClose(type, p, p.dqkv(), expected.dqkv, queries, queries + keys, "dk");
  ExpectClose(type, p, p.dqkv(), expected.dqkv, queries + keys, queries + 2 * keys, "dv");
  double worst = 0;
  bool only_inside = true;
  for (int64_t head = 0; head < p.shape().heads; ++head) {
    for (int64_t row = 0; row < p.lse().cols() + 7; ++row) {
      const auto found = static_cast<double>(p.lse().At(head, row));
      if (row < p.first() || row >= p.last()) {
        only_inside = only_inside && std::isnan(found);
        continue;
      }
      const auto e =
          static_cast<double>(expected.lse[static_cast<size_t>(head * (p.last() - p.first()) + row - p.first())]);
      const double difference = std::abs(found - e) / (1 + std::abs(e));
      worst = std::max(worst, std::isfinite(difference) ? difference : INFINITY);
    }
  }
  EXPECT_TRUE(only_inside);
  EXPECT_LT(worst, 2e-5) << "lse";
}

AttentionShape ShapeOf(int64_t heads, int64_t kv_heads, int64_t head_dim) {
  return {.heads = heads,
          .kv_heads = kv_heads,
          .head_dim = head_dim,
          .scale = 8.0F / std::sqrt(static_cast<float>(head_dim))};
}

int64_t Tokens() { return StartsOf(Lengths()).back() + kBehind; }

using TypeAndWidth = std::tuple<Type, int64_t>;

class AttentionCuda : public ::testing::TestWithParam<TypeAndWidth> {
 protected:
  void SetUp() override {
    if (!HasDevice()) GTEST_SKIP() << "no CUDA device here";
  }
};

TEST_P(AttentionCuda, IsTheProcessors) {
  const auto [type, head_dim] = GetParam();
  for (const auto& [heads, kv_heads] : {std::pair<int64_t, int64_t>{2, 2}, {4, 1}, {9, 3}, {16, 1}}) {
    for (const int64_t window : {0, 17, 100}) {
      for (const float softcap : {0.0F, 30.0F}) {
        SCOPED_TRACE(testing::Message() << heads << "/" << kv_heads << " window " << window << " cap " << softcap);
        AttentionShape shape = ShapeOf(heads, kv_heads, head_dim);
        shape.window = window;
        shape.softcap = softcap;
        Problem p(type, shape, StartsOf(Lengths()), Tokens());
        ASSERT_TRUE(p.Takes());
        p.Launch(nullptr);
        p.Fetch();
        ExpectAnswer(type, p);
      }
    }
  }
}

// More documents than a block has threads, and so many tiles that no block shares a group's heads.
TEST_P(AttentionCuda, ManyDocuments) {
  const auto [type, head_dim] = GetParam();
  std::vector<int32_t> lengths;
  for (int32_t i = 0; i < 400; ++i) lengths.push_back(i % 7);
  const std::vector<int32_t> starts = StartsOf(lengths);
  Problem p(type, ShapeOf(4, 2, head_dim), starts, starts.back() + kBehind);
  p.Launch(nullptr);
  p.Fetch();
  ExpectAnswer(type, p);
}

TEST_P(AttentionCuda, TheSameBitsTwice) {
  const auto [type, head_dim] = GetParam();
  Problem p(type, ShapeOf(4, 2, head_dim), StartsOf(Lengths()), Tokens());
  p.Launch(nullptr);
  p.Fetch();
  const std::vector<uint8_t> o = p.o().bytes();
  const std::vector<uint8_t> lse = p.lse().bytes();
  const std::vector<uint8_t> dqkv = p.dqkv().bytes();
  p.SetDocuments(StartsOf(Lengths()));
  p.Launch(nullptr);
  p.Fetch();
  EXPECT_EQ(p.o().bytes(), o);
  EXPECT_EQ(p.lse().bytes(), lse);
  EXPECT_EQ(p.dqkv().bytes(), dqkv);
}

TEST_P(AttentionCuda, ARecordedLaunchTakesOtherDocuments) {
  const auto [type, head_dim] = GetParam();
  Problem p(type, ShapeOf(4, 2, head_dim), StartsOf(Lengths()), Tokens());
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaStreamCreate(&stream), cudaSuccess);
  p.Launch(stream);  // loads the kernels, which is not for recording
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t recorded = nullptr;
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  p.Launch(stream);
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&recorded, graph, 0), cudaSuccess);
  for (const std::vector<int32_t>& lengths :
       {Lengths(), {130, 0, 0, 200, 64, 5, 1}, {0, 7, 0, 70, 0, 128, 0}, {200, 64, 192, 1, 1, 1, 64}}) {
    p.SetDocuments(StartsOf(lengths));
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    ASSERT_EQ(cudaGraphLaunch(recorded, stream), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    p.Fetch();
    ExpectAnswer(type, p);
  }
  cudaGraphExecDestroy(recorded);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

INSTANTIATE_TEST_SUITE_P(Widths, AttentionCuda,
                         ::testing::Combine(::testing::Values(Type::kF32, Type::kBF16, Type::kF16),
                                            ::testing::Values(64, 80, 96, 128, 256)));
INSTANTIATE_TEST_SUITE_P(OddWidths, AttentionCuda,
                         ::testing::Values(TypeAndWidth{Type::kF32, 20}, TypeAndWidth{Type::kF32, 1},
                                           TypeAndWidth{Type::kBF16, 8}, TypeAndWidth{Type::kF16, 200}));

TEST(TakesAttentionCuda, PiecesOfSixteenBytes) {
  const auto takes = [](Type type, int64_t head_dim, int64_t stride) {
    return cuda::TakesAttention(ShapeOf(4, 2, head_dim),
                                {.type = type, .rows = 1, .cols = 8 * head_dim, .stride = stride});
  };
  EXPECT_TRUE(takes(Type::kBF16, 64, 512));
  EXPECT_TRUE(takes(Type::kF16, 72, 8 * 72 + 8));
  EXPECT_TRUE(takes(Type::kF32, 51, 411));
  EXPECT_FALSE(takes(Type::kBF16, 68, 8 * 68));
  EXPECT_FALSE(takes(Type::kF16, 64, 516));
  EXPECT_FALSE(takes(Type::kF32, 257, 8 * 257));
}

}  // namespace
}  // namespace strata::kernels
