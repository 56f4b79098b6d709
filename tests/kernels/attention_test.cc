// Attention and its gradient against their formulas in double, in every instruction set that this processor has: shared
// keys, windows, soft caps, documents shorter and longer than a block; and that threads change nothing.
#include "kernels/cpu/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/ops.h"
#include "tests/kernels/halves.h"
#include "tests/kernels/variants.h"

namespace strata::kernels {
namespace {

struct Case {
  std::string name;
  AttentionShape shape;
  std::vector<int32_t> starts;
};

std::vector<Case> Cases() {
  return {
      {"one_token", {.heads = 2, .kv_heads = 1, .head_dim = 8, .scale = 0.5F}, {0, 1}},
      {"grouped", {.heads = 6, .kv_heads = 2, .head_dim = 64, .scale = 0.125F}, {0, 7, 64, 64, 175}},
      {"ragged_heads", {.heads = 3, .kv_heads = 3, .head_dim = 20, .scale = 0.3F}, {0, 130}},
      {"window", {.heads = 4, .kv_heads = 2, .head_dim = 16, .scale = 0.25F, .window = 37}, {0, 20, 220}},
      {"cap", {.heads = 2, .kv_heads = 2, .head_dim = 32, .scale = 0.4F, .window = 0, .softcap = 3}, {0, 99}},
      {"window_of_one", {.heads = 1, .kv_heads = 1, .head_dim = 8, .scale = 1, .window = 1}, {0, 60}},
  };
}

std::vector<float> Values(size_t count, uint32_t seed) {
  std::vector<float> values(count);
  for (float& v : values) {
    seed = seed * 1664525U + 1013904223U;
    v = static_cast<float>(seed >> 8) / static_cast<float>(1 << 23) - 1.0F;
  }
  return values;
}

struct Problem {
  Problem(const Case& c, Type matrices) : shape(c.shape), starts(c.starts), type(matrices) {
    tokens = starts.back();
    width = (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
    out_width = shape.heads * shape.head_dim;
    qkv = Stored(Values(static_cast<size_t>(tokens * width), 1), type).values();
    d_o = Stored(Values(static_cast<size_t>(tokens * out_width), 2), type).values();
  }
  // What results may differ by, of 1 + their size: sums of up to a document's length of products of values up to 1; in
  // bf16 weights, gradients and results are rounded.
  double Limit() const { return type == Type::kF32 ? 5e-6 : 0.012; }
  int64_t Column(int64_t head) const { return head * shape.head_dim; }
  int64_t KeyHead(int64_t head) const { return shape.heads + head / (shape.heads / shape.kv_heads); }

  AttentionShape shape;
  std::vector<int32_t> starts;
  Type type;
  int64_t tokens, width, out_width;
  std::vector<float> qkv, d_o;
};

struct Answer {
  std::vector<double> o, lse, dqkv;
};

// One query of one head, by the definitions.
void AddQuery(const Problem& p, int64_t begin, int64_t t, int64_t head, Answer& answer) {
  const AttentionShape& s = p.shape;
  const int64_t first = s.window > 0 ? std::max(begin, t - s.window + 1) : begin;
  const auto at = [&](int64_t token, int64_t h, int64_t i) { return token * p.width + p.Column(h) + i; };
  const auto value = [&](int64_t place) { return static_cast<double>(p.qkv[static_cast<size_t>(place)]); };
  const int64_t k = p.KeyHead(head);
  const int64_t v = k + s.kv_heads;
  std::vector<double> score;
  std::vector<double> slope;
  double sum = 0;
  for (int64_t j = first; j <= t; ++j) {
    double x = 0;
    for (int64_t i = 0; i < s.head_dim; ++i) x += value(at(t, head, i)) * value(at(j, k, i));
    x *= static_cast<double>(s.scale);
    const auto cap = static_cast<double>(s.softcap);
    slope.push_back(cap > 0 ? 1 - std::pow(std::tanh(x / cap), 2) : 1);
    score.push_back(cap > 0 ? cap * std::tanh(x / cap) : x);
    sum += std::exp(score.back());
  }
  answer.lse[static_cast<size_t>(head * p.tokens + t)] = std::log(sum);
  const auto out = static_cast<size_t>(t * p.out_width + p.Column(head));
  double pull = 0;
  std::vector<double> d_weight(score.size());
  for (size_t j = 0; j < score.size(); ++j) {
    const double weight = std::exp(score[j]) / sum;
    for (int64_t i = 0; i < s.head_dim; ++i) {
      const auto n = static_cast<size_t>(i);
      const double g = static_cast<double>(p.d_o[out + n]);
      const int64_t place = at(first + static_cast<int64_t>(j), v, i);
      answer.o[out + n] += weight * value(place);
      answer.dqkv[static_cast<size_t>(place)] += weight * g;
      d_weight[j] += g * value(place);
    }
    pull += weight * d_weight[j];
  }
  for (size_t j = 0; j < score.size(); ++j) {
    const double d = std::exp(score[j]) / sum * (d_weight[j] - pull) * slope[j] * static_cast<double>(s.scale);
    for (int64_t i = 0; i < s.head_dim; ++i) {
      const int64_t key = at(first + static_cast<int64_t>(j), k, i);
      answer.dqkv[static_cast<size_t>(at(t, head, i))] += d * value(key);
      answer.dqkv[static_cast<size_t>(key)] += d * value(at(t, head, i));
    }
  }
}

Answer Expected(const Problem& p) {
  Answer answer{.o = std::vector<double>(p.d_o.size()),
                .lse = std::vector<double>(static_cast<size_t>(p.shape.heads * p.tokens)),
                .dqkv = std::vector<double>(p.qkv.size())};
  for (size_t d = 0; d + 1 < p.starts.size(); ++d) {
    for (int64_t t = p.starts[d]; t < p.starts[d + 1]; ++t) {
      for (int64_t h = 0; h < p.shape.heads; ++h) AddQuery(p, p.starts[d], t, h, answer);
    }
  }
  return answer;
}

void ExpectClose(const std::vector<float>& found, const std::vector<double>& expected, double limit, const char* what) {
  ASSERT_EQ(found.size(), expected.size());
  double worst = 0;
  for (size_t i = 0; i < found.size(); ++i)
    worst = std::max(worst, std::abs(static_cast<double>(found[i]) - expected[i]) / (1 + std::abs(expected[i])));
  EXPECT_LT(worst, limit) << what;
}

struct Found {
  std::vector<float> o, lse, dqkv;
};

// A problem's matrices in memory. What is not written stays visible.
class Memory {
 public:
  explicit Memory(const Problem& p)
      : lse(static_cast<size_t>(p.shape.heads * p.tokens), 1e9F),
        rows_(p.tokens),
        width_(p.width),
        out_width_(p.out_width),
        qkv_(p.qkv, p.type),
        d_o_(p.d_o, p.type),
        o_(std::vector<float>(p.d_o.size(), 1e9F), p.type),
        dqkv_(std::vector<float>(p.qkv.size(), 1e9F), p.type) {}
  Rows qkv() { return qkv_.View(rows_, width_, width_); }
  AttentionResult result() {
    return {.o = o_.View(rows_, out_width_, out_width_), .lse = lse.data(), .lse_stride = rows_};
  }
  AttentionGradient gradient() {
    return {.qkv = qkv(),
            .forward = result(),
            .d_o = d_o_.View(rows_, out_width_, out_width_),
            .dqkv = dqkv_.View(rows_, width_, width_)};
  }
  Found found() const { return {.o = o_.values(), .lse = lse, .dqkv = dqkv_.values()}; }

  std::vector<float> lse;

 private:
  int64_t rows_, width_, out_width_;
  Stored qkv_, d_o_, o_, dqkv_;
};

// Heads of each document one after the other; gradients of keys and values added up over their groups.
Found RunHeads(const AttentionOps& ops, const Problem& p) {
  Memory memory(p);
  std::vector<float> keys_and_values(p.qkv.size(), 0.0F);
  for (size_t d = 0; d + 1 < p.starts.size(); ++d) {
    const int64_t first = p.starts[d];
    const int64_t length = p.starts[d + 1] - first;
    const auto floats = static_cast<size_t>(ops.scratch_floats(p.shape, length, true));
    for (int64_t h = 0; h < p.shape.heads; ++h) {
      const AttentionTask task{.first = first, .length = length, .head = h};
      std::vector<float> scratch(floats, 1e9F);
      ops.forward(p.shape, task, memory.qkv(), memory.result(), scratch.data());
      std::vector<float> dk(static_cast<size_t>(length * p.shape.head_dim), 1e9F);
      std::vector<float> dv = dk;
      ops.backward(p.shape, task, memory.gradient(), dk.data(), dv.data(), scratch.data());
      for (int64_t i = 0; i < length * p.shape.head_dim; ++i) {
        const int64_t row = (first + i / p.shape.head_dim) * p.width + i % p.shape.head_dim;
        const int64_t k = p.KeyHead(h);
        keys_and_values[static_cast<size_t>(row + p.Column(k))] += dk[static_cast<size_t>(i)];
        keys_and_values[static_cast<size_t>(row + p.Column(k + p.shape.kv_heads))] += dv[static_cast<size_t>(i)];
      }
    }
  }
  Found found = memory.found();
  for (size_t i = 0; i < found.dqkv.size(); ++i) {
    if (static_cast<int64_t>(i) % p.width >= p.out_width) found.dqkv[i] = keys_and_values[i];
  }
  return found;
}

TEST(AttentionTest, EachInstructionSetMatchesTheFormula) {
  for (const auto& variant :
       VariantsOf(BaselineAttentionOps(), Avx2AttentionOps(), Avx512AttentionOps(), &Avx512Bf16AttentionOps())) {
    for (const Case& c : Cases()) {
      for (const Type type : {Type::kF32, Type::kBF16}) {
        SCOPED_TRACE(testing::Message() << variant.name << " " << c.name << " type " << static_cast<int>(type));
        const Problem p(c, type);
        const Found found = RunHeads(*variant.table, p);
        const Answer expected = Expected(p);
        ExpectClose(found.o, expected.o, p.Limit(), "o");
        ExpectClose(found.lse, expected.lse, 5e-6, "lse");
        ExpectClose(found.dqkv, expected.dqkv, p.Limit(), "dqkv");
      }
    }
  }
}

Found RunBoth(const Problem& p, int threads) {
  Memory memory(p);
  const Documents documents{.starts = p.starts.data(), .count = static_cast<int64_t>(p.starts.size()) - 1};
  std::vector<char> workspace(static_cast<size_t>(AttentionWorkspace(p.shape, documents, true, threads)));
  Attention(p.shape, documents, memory.qkv(), memory.result(), workspace.data(), threads);
  AttentionBackward(p.shape, documents, memory.gradient(), workspace.data(), threads);
  return memory.found();
}

TEST(AttentionTest, ThreadsChangeNothingAndGroupsAddUp) {
  for (const Case& c : Cases()) {
    for (const Type type : {Type::kF32, Type::kBF16}) {
      SCOPED_TRACE(testing::Message() << c.name << " type " << static_cast<int>(type));
      const Problem p(c, type);
      const Found one = RunBoth(p, 1);
      const Found three = RunBoth(p, 3);
      EXPECT_EQ(one.o, three.o);
      EXPECT_EQ(one.lse, three.lse);
      EXPECT_EQ(one.dqkv, three.dqkv);
      const Answer expected = Expected(p);
      ExpectClose(one.o, expected.o, p.Limit(), "o");
      ExpectClose(one.dqkv, expected.dqkv, p.Limit(), "dqkv");
    }
  }
}

}  // namespace
}  // namespace strata::kernels
