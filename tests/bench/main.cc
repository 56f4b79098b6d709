// strata-bench: named cases, one line of JSON each. Run every case in a process of its own: memory and start-up are
// the process's.
#include <cstdint>
#include <iostream>
#include <limits>
#include <string>

#include "CLI/CLI.hpp"
#include "common/runtime/runtime.h"
#include "tests/bench/train_bench.h"

namespace {

using strata::bench::TrainCase;

struct TrainFlags {
  std::string dtype = "bf16", base_dtype;
  uint32_t rank = 16;
  double alpha = 32;
};

int RunTrain(const TrainFlags& flags, TrainCase& bench) {
  strata::config::TrainOptions& options = bench.options;
  options.dtype = strata::config::ParseComputeDType(flags.dtype);
  options.base_dtype = strata::config::ParseBaseDType(flags.base_dtype);
  const std::string fault = strata::config::PrecisionFault(options.precision(), options.device != "cpu");
  if (!fault.empty()) {
    std::cerr << "strata-bench: " << fault << "\n";
    return 2;
  }
  options.adapter.rank = flags.rank;
  options.adapter.alpha = flags.alpha;
  options.optimizer.max_grad_norm = 0;
  options.optimizer.schedule = strata::config::Schedule::kConstant;
  strata::runtime::SystemRuntime runtime(1);
  const auto report = strata::bench::RunTrainCase(bench, runtime.get());
  if (!report.ok()) {
    std::cerr << "strata-bench: " << report.status().message() << "\n";
    return 1;
  }
  std::cout << report->dump() << "\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Times what Strata does beside the floor that the machine sets");
  app.set_version_flag("--version", "strata-bench " STRATA_VERSION);
  app.require_subcommand(1);
  TrainCase bench;
  TrainFlags flags;
  int exit_code = 0;
  strata::config::TrainOptions& options = bench.options;
  options.batch_size = 1;
  options.max_length = 512;
  options.pack = true;
  options.optimizer.learning_rate = 2e-4;
  CLI::App* train = app.add_subcommand("train", "The LoRA step: rows 1-6 and 14 of PERFORMANCE.md");
  train->add_option("--model", bench.model, "Model folder, GGUF file, or org/name in the HF cache")->required();
  train->add_option("--data", bench.data, "JSONL or Parquet as strata-client train takes it; without it random tokens");
  train->add_option("--dtype", flags.dtype, "fp32, bf16, or fp16 on CUDA")
      ->check(CLI::IsMember(strata::config::kComputeDTypeWords));
  train->add_option("--base-dtype", flags.base_dtype, "fp32, bf16, fp16, int8 or nf4 (default: as --dtype)")
      ->check(CLI::IsMember(strata::config::kBaseDTypeWords));
  train->add_option("--device", options.device, "auto, cpu or cuda:N");
  train->add_option("--batch", options.batch_size, "Rows a step")
      ->check(CLI::Range(1, std::numeric_limits<int>::max()));
  train->add_option("--seq", options.max_length, "Length of random rows; longer rows of a file are cut")
      ->check(CLI::Range(uint32_t{2}, uint32_t{1} << 20));
  train->add_option("--rank", flags.rank, "Of the adapter, on all linear modules")
      ->check(CLI::Range(1, std::numeric_limits<int>::max()));
  train->add_option("--alpha", flags.alpha, "Of the adapter");
  train->add_flag("--checkpointing", options.gradient_checkpointing, "Compute layers again in the backward pass");
  train->add_option("--dropout", options.adapter.dropout, "Of the adapter")->check(CLI::Range(0.0, 0.99));
  train->add_option("--host-layers", options.host_layers, "Layers whose matrices stay in the host's memory, on CUDA");
  train->add_option("--warmup", bench.warmup, "Steps that do not count");
  train->add_option("--steps", bench.timed, "Steps that count")->check(CLI::Range(1, std::numeric_limits<int>::max()));
  train->add_option("--threads", bench.threads, "Threads that compute (default: all cores)")
      ->check(CLI::Range(1, std::numeric_limits<int>::max()));
  train->add_flag("!--no-floor", bench.floor, "Measure no matrix products beside the steps");
  train->callback([&] { exit_code = RunTrain(flags, bench); });
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return exit_code;
}
