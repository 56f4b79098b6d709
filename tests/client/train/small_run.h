// A run of the native trainer that takes a moment: the small golden model on rows that it can learn.
#ifndef STRATA_TESTS_CLIENT_TRAIN_SMALL_RUN_H_
#define STRATA_TESTS_CLIENT_TRAIN_SMALL_RUN_H_

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <string>

#include "client/peft/lora_plan.h"
#include "client/train/native_trainer.h"
#include "common/adapter/adapter.h"
#include "common/runtime/system_clock.h"
#include "tests/client/model/golden_batch.h"
#include "tests/client/model/test_device.h"
#include "tests/testing/golden.h"
#include "tests/testing/status_matchers.h"

namespace strata::testing {

inline std::string SmallModel() { return GoldenDir("models/llama"); }

// 24 rows of unequal lengths that go round one cycle of five ids, each from its own place: what one row teaches helps
// with every other.
inline std::string DataFile() {
  std::string path = std::filesystem::temp_directory_path() / ("strata-trainer-" + std::to_string(getpid()) + ".jsonl");
  std::string text;
  for (int row = 0; row < 24; ++row) {
    text += "{\"input_ids\": [1";
    for (int i = 0; i < 8 + row % 7; ++i) text += ", " + std::to_string(10 + (row + i) % 5 * 17);
    text += "]}\n";
  }
  EXPECT_OK(Files().WriteFile(path, text));
  return path;
}

inline train::TrainRequest SmallRequest() {
  train::TrainRequest request;
  request.model_path = SmallModel();
  request.data_path = DataFile();
  request.options.steps = 3;
  request.options.batch_size = 4;
  request.options.optimizer.learning_rate = 1e-2;
  request.options.optimizer.schedule = config::Schedule::kConstant;
  request.seed = 7;
  request.site = "alpha";
  request.holdout = 0.25;
  request.evaluate_before = request.evaluate_after = true;
  auto files = model::ModelFiles::Open(Files(), SmallModel());
  config::AdapterOptions options;
  options.rank = 4;
  options.alpha = 8;
  request.targets = *peft::PlanLora(options, (*files)->LinearModules());
  return request;
}

inline train::NativeTrainer SmallTrainer() {
  static const runtime::SystemClock clock;
  return train::NativeTrainer(Files(), clock, {.device = TestDeviceName(), .threads = 2});
}

inline double Metric(const train::TrainResult& result, const std::string& name) {
  for (const adapter::Metric& m : result.metrics) {
    if (m.name == name) return m.value;
  }
  return NAN;
}

inline std::string Bytes(const adapter::Adapter& adapter) { return adapter::PeftTensorBytes(adapter, {}); }

}  // namespace strata::testing

#endif  // STRATA_TESTS_CLIENT_TRAIN_SMALL_RUN_H_
