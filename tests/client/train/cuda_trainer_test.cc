// Training runs on a CUDA device: in fp16, and as one of replicas that sum up through NCCL.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "client/train/checkpoint.h"
#include "client/train/gloo_replicas.h"
#include "client/train/nccl_replicas.h"
#include "client/train/training_loop.h"
#include "tests/client/train/small_run.h"

namespace strata::train {
namespace {

using testing::Bytes;
using testing::Metric;
using testing::SmallRequest;

class CudaTrainer : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto device = model::ResolveDevice("cuda");
    if (!device.ok()) GTEST_SKIP() << device.status().message();
    device_ = *device;
  }
  static NativeTrainer Trainer() {
    static const runtime::SystemClock clock;
    return {testing::Files(), clock, {.device = "cuda", .threads = 2}};
  }
  at::Device device_ = at::kCPU;
};

TEST_F(CudaTrainer, Fp16LearnsAsFp32Does) {
  NativeTrainer trainer = Trainer();
  TrainRequest request = SmallRequest();
  request.options.steps = 30;
  ASSERT_OK_AND_ASSIGN(const TrainResult wide, trainer.Run(request, nullptr));
  request.options.dtype = config::ComputeDType::kFp16;
  ASSERT_OK_AND_ASSIGN(const TrainResult half, trainer.Run(request, nullptr));
  EXPECT_NEAR(Metric(half, "train_loss_first"), Metric(wide, "train_loss_first"), 0.01);
  EXPECT_NEAR(Metric(half, "loss_after"), Metric(wide, "loss_after"), 0.05);
  ASSERT_OK_AND_ASSIGN(const TrainResult again, trainer.Run(request, nullptr));
  EXPECT_EQ(Bytes(*half.update), Bytes(*again.update));
}

// From a checkpoint whose scale is far beyond what fp16 holds.
TEST_F(CudaTrainer, AGradientThatOverflowsHalvesItsScaleAndLosesNoStep) {
  const TrainRequest request = SmallRequest();
  config::TrainOptions options = request.options;
  options.dtype = config::ComputeDType::kFp16;
  ASSERT_OK_AND_ASSIGN(auto files, model::ModelFiles::Open(testing::Files(), request.model_path));
  ASSERT_OK_AND_ASSIGN(auto model, model::Transformer::Load(std::move(files), options.precision(), device_, 2));
  peft::AdapterState state(request.targets, device_);
  state.InitFresh(5, 0, "");
  static const runtime::SystemClock clock;
  const std::string folder = ::testing::TempDir() + "/scale-" + std::to_string(getpid());
  CheckpointStore store(testing::Files(), clock, {.directory = folder}, {});
  std::vector<at::Tensor> kept;
  std::vector<format::TensorView> views;
  for (const auto& [name, buffer] : {std::pair("values", state.values()),
                                     {"first_moments", state.first_moments()},
                                     {"second_moments", state.second_moments()}}) {
    kept.push_back(buffer.cpu());
    views.push_back(
        {.name = name,
         .dtype = format::DType::kF32,
         .shape = {buffer.numel()},
         .data = std::as_bytes(std::span(kept.back().const_data_ptr<float>(), static_cast<size_t>(buffer.numel())))});
  }
  ASSERT_OK(store.Save({.steps = 1, .updates = 1, .loss_scale = 0x1p40, .scaled_steps = 7}, views));
  ASSERT_OK_AND_ASSIGN(const FoundRun found, store.Latest());
  ASSERT_EQ(found.run->position.loss_scale, 0x1p40);
  const LoopContext context{
      .model = *model, .state = state, .clock = clock, .seed = 3, .site = {}, .resume = &*found.run};
  data::Example row;
  for (int i = 0; i < 40; ++i) row.ids.push_back(3 + i * 5 % 200);
  row.labels = row.ids;
  ASSERT_OK_AND_ASSIGN(const LoopSummary summary, RunTraining(context, options, data::Rows({row, row}), nullptr));
  EXPECT_EQ(summary.position.steps, *options.steps);
  EXPECT_EQ(summary.position.updates, *options.steps);
  EXPECT_LT(summary.position.loss_scale, 0x1p30);
  EXPECT_GE(summary.position.loss_scale, 1);
  EXPECT_OK(model->SetTrained({}));
  std::filesystem::remove_all(folder);
}

TEST_F(CudaTrainer, OneReplicaThroughNcclTrainsTheSameBytes) {
  const TrainRequest request = SmallRequest();
  ASSERT_OK_AND_ASSIGN(auto files, model::ModelFiles::Open(testing::Files(), request.model_path));
  ASSERT_OK_AND_ASSIGN(auto model, model::Transformer::Load(std::move(files), config::ComputeDType::kBf16, device_, 2));
  data::Example row;
  for (int i = 0; i < 40; ++i) row.ids.push_back(3 + i * 5 % 200);
  row.labels = row.ids;
  const data::Rows rows({row, row, row, row});
  static const runtime::SystemClock clock;
  const auto train = [&](Replicas* replicas) {
    peft::AdapterState state(request.targets, device_);
    state.InitFresh(5, 0, "");
    const LoopContext context{
        .model = *model, .state = state, .clock = clock, .seed = 3, .site = {}, .replicas = replicas};
    EXPECT_OK(RunTraining(context, request.options, rows, nullptr));
    EXPECT_OK(model->SetTrained({}));
    return Bytes(state.ToAdapter());
  };
  const std::string folder = ::testing::TempDir() + "/nccl-" + std::to_string(getpid());
  std::filesystem::create_directories(folder);
  ASSERT_OK_AND_ASSIGN(auto met, JoinReplicas({.rank = 0, .size = 1, .folder = folder}));
  ASSERT_OK_AND_ASSIGN(const auto replicas, MeetOnDevice(std::move(met), device_));
  EXPECT_EQ(replicas->size(), 1);
  const at::Tensor values = at::arange(1000, at::TensorOptions().dtype(at::kFloat).device(device_));
  const at::Tensor before = values.clone();
  ASSERT_OK(replicas->Sum(values));
  EXPECT_TRUE(values.equal(before));
  EXPECT_EQ(train(replicas.get()), train(nullptr));
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace strata::train
