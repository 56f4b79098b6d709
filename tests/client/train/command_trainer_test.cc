#include "client/train/command_trainer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/format/tensor.h"
#include "common/runtime/process.h"
#include "common/runtime/random.h"
#include "common/runtime/runtime.h"
#include "tests/testing/fake_trainer.h"

namespace strata::train {
namespace {

const char kModel[] = STRATA_SOURCE_DIR "/tests/golden/models/llama";

std::vector<float> Floats(const format::TensorView& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.num_elements()));
  EXPECT_TRUE(format::ToFloat(tensor, values).ok());
  return values;
}

// dW = scaling B A of one module, in double.
std::vector<double> Product(const adapter::Factors& f) {
  const std::vector<float> a = Floats(f.a), b = Floats(f.b);
  std::vector<double> dw(static_cast<size_t>(f.out * f.in));
  for (int64_t i = 0; i < f.out; ++i) {
    for (int64_t r = 0; r < f.rank; ++r) {
      for (int64_t j = 0; j < f.in; ++j) {
        dw[static_cast<size_t>(i * f.in + j)] += f.scaling * b[static_cast<size_t>(i * f.rank + r)] *
                                                 static_cast<double>(a[static_cast<size_t>(r * f.in + j)]);
      }
    }
  }
  return dw;
}

std::shared_ptr<const adapter::Adapter> MakeAdapter(uint64_t seed, const std::vector<Target>& targets) {
  adapter::AdapterBuilder builder;
  for (const Target& target : targets) {
    auto factors = testing::MakeFakeFactors(seed, 0, "test", target);
    builder.Add(target.module, target.rank, target.out, target.in, target.alpha, target.scaling, std::move(factors.a),
                std::move(factors.b));
  }
  return std::make_shared<const adapter::Adapter>(std::move(builder).Build());
}

TEST(Concatenate, IsTheSumOfTheProducts) {
  const std::vector<Target> first = {{.module = "a", .out = 4, .in = 3, .rank = 2, .alpha = 4, .scaling = 2},
                                     {.module = "b", .out = 2, .in = 5, .rank = 1, .alpha = 1, .scaling = 1}};
  const std::vector<Target> second = {{.module = "a", .out = 4, .in = 3, .rank = 3, .alpha = 1.5, .scaling = 0.5}};
  const auto x = MakeAdapter(1, first), y = MakeAdapter(2, second);
  const auto joined = Concatenate({x, y});
  ASSERT_TRUE(joined.ok()) << joined.status();
  ASSERT_EQ(joined->modules().size(), 2);
  EXPECT_EQ(joined->Find("a")->rank, 5);
  EXPECT_EQ(joined->Find("a")->scaling, 1);
  const auto sum = Product(*joined->Find("a"));
  const auto dx = Product(*x->Find("a")), dy = Product(*y->Find("a"));
  for (size_t i = 0; i < sum.size(); ++i) EXPECT_NEAR(sum[i], dx[i] + dy[i], 1e-12);
}

TEST(Concatenate, RefusesShapesThatDiffer) {
  const auto x = MakeAdapter(1, {{.module = "a", .out = 4, .in = 3, .rank = 2, .alpha = 4, .scaling = 2}});
  const auto y = MakeAdapter(1, {{.module = "a", .out = 4, .in = 5, .rank = 2, .alpha = 4, .scaling = 2}});
  const auto joined = Concatenate({x, y});
  EXPECT_EQ(joined.status().message(), "a: expected [4, 3], found [4, 5]");
}

TEST(OptionsForTargets, NamesEveryModuleAndWhatDiffers) {
  const std::vector<Target> targets = {{.module = "l.0.q", .out = 1, .in = 1, .rank = 8, .alpha = 16, .scaling = 2},
                                       {.module = "l.1.q", .out = 1, .in = 1, .rank = 8, .alpha = 16, .scaling = 2},
                                       {.module = "l.1.v", .out = 1, .in = 1, .rank = 4, .alpha = 4, .scaling = 1}};
  config::AdapterOptions job;
  job.use_rslora = true;
  const config::AdapterOptions options = OptionsForTargets(targets, job);
  EXPECT_EQ(options.rank, 8);
  EXPECT_EQ(options.alpha, 16);
  EXPECT_TRUE(options.use_rslora);
  EXPECT_EQ(options.target_modules.suffixes, (std::vector<std::string>{"l.0.q", "l.1.q", "l.1.v"}));
  EXPECT_EQ(options.rank_pattern, (std::vector<std::pair<std::string, uint32_t>>{{"l.1.v", 4}}));
  EXPECT_EQ(options.alpha_pattern, (std::vector<std::pair<std::string, double>>{{"l.1.v", 4}}));
}

class CommandTrainerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              absl::StrCat("strata_", ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    std::string rows;
    for (int i = 0; i < 40; ++i) {
      absl::StrAppend(&rows, "{\"input_ids\": [");
      for (int j = 0; j < 8 + i % 5; ++j) absl::StrAppend(&rows, j > 0 ? ", " : "", 5 + (i + j) % 10);
      absl::StrAppend(&rows, "]}\n");
    }
    Write("data.jsonl", rows);
    request_.model_path = kModel;
    request_.data_path = folder_ / "data.jsonl";
    request_.work_directory = folder_ / "work";
    request_.options.steps = 12;
    request_.options.batch_size = 4;
    request_.options.optimizer.learning_rate = 0.01;
    request_.options.device = "cpu";
    request_.seed = 7;
    request_.round = 1;
    request_.site = "here";
    request_.targets = {
        {.module = "model.layers.0.self_attn.q_proj", .out = 64, .in = 64, .rank = 4, .alpha = 8, .scaling = 2},
        {.module = "model.layers.1.mlp.down_proj", .out = 64, .in = 160, .rank = 2, .alpha = 8, .scaling = 4}};
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void Write(const std::string& name, const std::string& text) {
    ASSERT_TRUE(runtime_.get().files.WriteFile(folder_ / name, text).ok());
  }
  // A program that logs its arguments, says its lines and copies FOLDER/made to --out.
  std::vector<std::string> Program(const std::string& lines, int code = 0) {
    Write("program.sh", absl::StrCat("echo \"$@\" > ", folder_.string(), "/arguments\n",
                                     "while [ $# -gt 0 ]; do if [ \"$1\" = --out ]; then out=$2; fi; shift; done\n",
                                     "cat <<'END'\n", lines, "END\n", "[ -d ", folder_.string(), "/made ] && cp -r ",
                                     folder_.string(), "/made \"$out\"\n", "exit ", code, "\n"));
    return {"/bin/sh", folder_ / "program.sh"};
  }
  absl::StatusOr<TrainResult> Run(std::vector<std::string> command) {
    CommandTrainer trainer(runtime_.get().files, std::move(command), 1);
    return trainer.Run(request_, [this](const TrainProgress& progress) {
      progress_ = progress;
      return ++reports_ <= max_reports_;
    });
  }

  runtime::SystemRuntime runtime_{1};
  std::filesystem::path folder_;
  TrainRequest request_;
  TrainProgress progress_;
  int reports_ = 0, max_reports_ = 1'000'000;
};

constexpr char kLines[] =
    "some chatter\n"
    "{\"step\":1,\"loss\":3.5,\"grad_norm\":1,\"learning_rate\":0.01,\"tokens\":30}\n"
    "{\"step\":2,\"loss\":3.25,\"grad_norm\":1,\"learning_rate\":0.01,\"tokens\":31}\n"
    "{\"done\":true,\"tokens_per_second\":1234,\"seconds\":2}\n";

TEST_F(CommandTrainerTest, RunsTheProgramAndReadsWhatItWrote) {
  adapter::PeftWriteOptions written;
  const auto made = MakeAdapter(5, request_.targets);
  ASSERT_TRUE(adapter::WritePeft(runtime_.get().files, folder_ / "made", *made, written).ok());
  const auto result = Run(Program(kLines));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->num_examples, 40);
  EXPECT_EQ(progress_.step, 2);
  EXPECT_EQ(progress_.of, 12);
  EXPECT_EQ(progress_.tokens, 61);
  std::map<std::string, double> metrics;
  for (const adapter::Metric& metric : result->metrics) metrics[metric.name] = metric.value;
  EXPECT_EQ(metrics["train_loss_first"], 3.5);
  EXPECT_EQ(metrics["train_loss_last"], 3.25);
  EXPECT_EQ(metrics["tokens_per_second"], 1234);
  ASSERT_NE(result->update, nullptr);
  for (const Target& target : request_.targets) {
    EXPECT_EQ(Product(*result->update->Find(target.module)), Product(*made->Find(target.module)));
  }
  const auto arguments = runtime_.get().files.ReadFile(folder_ / "arguments");
  EXPECT_NE(arguments->find("--model " + std::string(kModel)), std::string::npos);
  EXPECT_EQ(arguments->find("--base-adapter"), std::string::npos);
  EXPECT_EQ(arguments->find("--eval-data"), std::string::npos);
}

TEST_F(CommandTrainerTest, HandsOverTheVersionAndTheHeldOutRows) {
  adapter::PeftWriteOptions written;
  ASSERT_TRUE(
      adapter::WritePeft(runtime_.get().files, folder_ / "made", *MakeAdapter(5, request_.targets), written).ok());
  request_.base = {MakeAdapter(1, request_.targets), MakeAdapter(2, request_.targets)};
  request_.holdout = 0.25;
  request_.evaluate_before = true;
  const auto result = Run(Program(kLines));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_GT(result->num_examples, 20);
  EXPECT_LT(result->num_examples, 40);
  const auto base = adapter::ReadPeft(runtime_.get().files, folder_ / "work/command/base-adapter");
  ASSERT_TRUE(base.ok()) << base.status();
  EXPECT_EQ(base->first.Find(request_.targets[0].module)->rank, 8);
  const auto held = runtime_.get().files.ReadFile(folder_ / "work/command/held-out.jsonl");
  ASSERT_TRUE(held.ok());
  EXPECT_EQ(static_cast<uint64_t>(std::count(held->begin(), held->end(), '\n')) + result->num_examples, 40);
}

TEST_F(CommandTrainerTest, SaysWhatWentWrong) {
  auto result = Run(Program(kLines, 3));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInternal);
  EXPECT_NE(result.status().message().find("exit code 3"), std::string::npos);
  result = Run(Program("{\"step\":1}\n"));
  EXPECT_NE(result.status().message().find("\"done\":true"), std::string::npos);
  result = Run({"no-such-program-anywhere"});
  EXPECT_EQ(result.status().code(), absl::StatusCode::kNotFound);
  result = Run(Program(kLines));  // wrote nothing
  EXPECT_FALSE(result.ok());

  std::vector<Target> others = request_.targets;
  others[0].rank = 16;
  adapter::PeftWriteOptions written;
  ASSERT_TRUE(adapter::WritePeft(runtime_.get().files, folder_ / "made", *MakeAdapter(5, others), written).ok());
  result = Run(Program(kLines));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(result.status().message().find("of rank 16; expected [64, 64] of rank 4"), std::string::npos)
      << result.status();

  request_.start = config::Start::kWarm;
  EXPECT_EQ(Run(Program(kLines)).status().code(), absl::StatusCode::kUnimplemented);
}

TEST_F(CommandTrainerTest, EndsTheProgramWhenToldTo) {
  max_reports_ = 0;
  Write("endless.sh", "while true; do sleep 0.1; done\n");
  EXPECT_EQ(Run({"/bin/sh", folder_ / "endless.sh"}).status().code(), absl::StatusCode::kCancelled);
}

// The example that users start from, where Python has what it needs.
TEST_F(CommandTrainerTest, TheHfPeftExampleTrains) {
  std::string python = runtime::EnvironmentVariable("STRATA_PEFT_PYTHON");
  if (python.empty()) python = "python3";
  runtime::Command probe;
  probe.argv = {"/bin/sh", "-c", python + " -c 'import peft, torch, transformers, yaml' 2>/dev/null"};
  const auto found = runtime::RunCommand(probe);
  if (!found.ok() || *found != 0) {
    GTEST_SKIP() << python << " has no peft, torch, transformers and yaml; STRATA_PEFT_PYTHON may name one that has";
  }
  request_.holdout = 0.25;
  request_.evaluate_before = request_.evaluate_after = true;
  const std::vector<std::string> command = {python, STRATA_SOURCE_DIR "/deploy/examples/peft_trainer.py"};
  const auto first = Run(command);
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_NE(first->update, nullptr);
  const auto metric = [](const TrainResult& result, const std::string& name) {
    for (const adapter::Metric& m : result.metrics) {
      if (m.name == name) return m.value;
    }
    return std::nan("");
  };
  for (const Target& target : request_.targets) {
    const adapter::Factors* factors = first->update->Find(target.module);
    ASSERT_NE(factors, nullptr) << target.module;
    EXPECT_EQ(factors->rank, target.rank);
    EXPECT_DOUBLE_EQ(factors->scaling, target.scaling);
  }
  EXPECT_LT(metric(*first, "loss_after"), metric(*first, "loss_before"));

  // The next round starts from W0 + C_1: what the first one ended at.
  adapter::AdapterBuilder builder;
  for (const adapter::Factors& f : first->update->modules()) {
    builder.Add(f.module, f.rank, f.out, f.in, f.alpha, f.scaling, Floats(f.a), Floats(f.b));
  }
  request_.base = {std::make_shared<const adapter::Adapter>(std::move(builder).Build())};
  request_.train = false;
  const auto second = Run(command);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->update, nullptr);
  EXPECT_NEAR(metric(*second, "loss_before"), metric(*first, "loss_after"), 1e-5);
}

}  // namespace
}  // namespace strata::train
