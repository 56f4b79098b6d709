// The LoRA step of strata-client, timed the way ../shared's peers are.
#ifndef STRATA_TESTS_BENCH_TRAIN_BENCH_H_
#define STRATA_TESTS_BENCH_TRAIN_BENCH_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "common/config/options.h"
#include "common/runtime/runtime.h"
#include "nlohmann/json.hpp"

namespace strata::bench {

struct TrainCase {
  std::string model;
  std::string data;  // JSONL; empty: random tokens in rows of max_length
  config::TrainOptions options;
  uint32_t warmup = 1, timed = 6;  // steps
  int threads = 0;                 // 0: all cores
  bool floor = true;
};

// Trains warmup + timed steps and reports medians over the timed ones: ms_step, tok_s, tok_s_best, floor_tok_s,
// floor_share, first_step_s (since the process began), peak_rss_mb (up to the middle of the timed steps, before floors
// are measured), peak_device_mb (likewise), losses, gemm_gflops.
absl::StatusOr<nlohmann::json> RunTrainCase(const TrainCase& bench, runtime::Runtime runtime);

}  // namespace strata::bench

#endif  // STRATA_TESTS_BENCH_TRAIN_BENCH_H_
