#include "tests/bench/train_bench.h"

#include <ATen/Parallel.h>
#include <c10/core/Device.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "client/data/dataset.h"
#include "client/peft/adapter_state.h"
#include "client/peft/lora_plan.h"
#include "client/train/loaded_model.h"
#include "client/train/training_loop.h"
#include "common/runtime/process.h"
#include "common/runtime/random.h"
#include "common/status/status_macros.h"
#include "tests/bench/floor.h"

namespace strata::bench {
namespace {

using Json = nlohmann::json;

constexpr int32_t kFirstPlainToken = 3;  // what comes before is a special token in most vocabularies

data::Rows RandomRows(const TrainCase& bench, int64_t vocab_size) {
  const runtime::Philox random({.purpose = "bench", .seed = bench.options.seed, .round = 0, .site = ""});
  std::vector<data::Example> rows((bench.warmup + bench.timed) * size_t{bench.options.batch_size});
  uint64_t index = 0;
  for (data::Example& row : rows) {
    row.ids.resize(bench.options.max_length);
    for (int32_t& id : row.ids) {
      id = kFirstPlainToken +
           static_cast<int32_t>(random.Below(index++, static_cast<uint64_t>(vocab_size - kFirstPlainToken)));
    }
    row.labels = row.ids;
  }
  return data::Rows(rows);
}

struct Step {
  double seconds = 0;
  uint64_t tokens = 0;
  double loss = 0;
  double rate() const { return static_cast<double>(tokens) / seconds; }
};

// Stamps the steps; the pauses in which floors are measured do not count.
class Watch {
 public:
  Watch(const TrainCase& bench, const runtime::Clock& clock, at::Device device)
      : bench_(bench), clock_(clock), device_(device), rates_(clock, device) {}

  void Start() { begin_ = clock_.Monotonic(); }
  void Step(const train::TrainProgress& progress) {
    const double seconds = absl::ToDoubleSeconds(clock_.Monotonic() - begin_);
    if (steps_.empty()) first_step_seconds_ = absl::ToDoubleSeconds(runtime::SinceProcessStart());
    steps_.push_back({.seconds = seconds, .tokens = progress.tokens, .loss = progress.loss});
    if (steps_.size() == bench_.warmup + (bench_.timed + 1) / 2) {
      peak_bytes_ = runtime::PeakResidentBytes();
      peak_device_bytes_ = PeakDeviceBytes(device_);
      if (bench_.floor) rates_.Measure(at::get_num_threads());
    }
    Start();
  }
  void Finish() {
    if (bench_.floor) rates_.Measure(at::get_num_threads());
  }

  std::vector<bench::Step> timed() const { return {steps_.begin() + bench_.warmup, steps_.end()}; }
  const std::vector<bench::Step>& steps() const { return steps_; }
  double first_step_seconds() const { return first_step_seconds_; }
  uint64_t peak_bytes() const { return peak_bytes_; }
  uint64_t peak_device_bytes() const { return peak_device_bytes_; }
  const GemmRates& rates() const { return rates_; }

 private:
  const TrainCase& bench_;
  const runtime::Clock& clock_;
  at::Device device_;
  GemmRates rates_;
  absl::Duration begin_;
  std::vector<bench::Step> steps_;
  uint64_t peak_bytes_ = 0, peak_device_bytes_ = 0;
  double first_step_seconds_ = 0;
};

template <typename F>
double Median(const std::vector<Step>& steps, const F& value) {
  std::vector<double> values;
  values.reserve(steps.size());
  for (const Step& step : steps) values.push_back(value(step));
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

double Rounded(double value, int decimals) {
  const double scale = std::pow(10, decimals);
  return std::round(value * scale) / scale;
}

// What the rows of one pass are like, for the floor.
struct Shape {
  double length = 0, supervised = 0;
};

Shape ShapeOf(const data::Rows& rows) {
  double tokens = 0;
  double squares = 0;
  double targets = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    const data::Example row = rows[i];
    const auto n = static_cast<double>(row.ids.size());
    tokens += n;
    squares += n * n;
    targets += static_cast<double>(row.num_targets());
  }
  return {.length = squares / tokens, .supervised = targets / tokens};
}

Json Report(const TrainCase& bench, const Watch& watch) {
  const std::vector<Step> timed = watch.timed();
  const double rate = Median(timed, [](const Step& s) { return s.rate(); });
  double best = 0;
  Json losses = Json::array();
  for (const Step& step : timed) best = std::max(best, step.rate());
  for (const Step& step : watch.steps()) losses.push_back(Rounded(step.loss, 6));
  const config::TrainOptions& options = bench.options;
  return {{"bench", "train"},
          {"dtype", config::ComputeDTypeWord(options.dtype)},
          {"base_dtype", config::BaseDTypeWord(options.precision().base)},
          {"data", bench.data.empty() ? "random" : bench.data.substr(bench.data.rfind('/') + 1)},
          {"device", options.device},
          {"batch", options.batch_size},
          {"seq", options.max_length},
          {"checkpointing", options.gradient_checkpointing},
          {"dropout", options.adapter.dropout},
          {"host_layers", options.host_layers},
          {"threads", at::get_num_threads()},
          {"ms_step", Rounded(1e3 * Median(timed, [](const Step& s) { return s.seconds; }), 1)},
          {"tok_s", Rounded(rate, 1)},
          {"tok_s_best", Rounded(best, 1)},
          {"first_step_s", Rounded(watch.first_step_seconds(), 2)},
          {"peak_rss_mb", watch.peak_bytes() >> 20},
          {"peak_device_mb", watch.peak_device_bytes() >> 20},
          {"losses", losses}};
}

void AddFloor(const Watch& watch, double flops_per_token, Json& report) {
  Json rates = Json::object();
  for (const auto& [name, rate] : watch.rates().best()) rates[name] = Rounded(rate, 1);
  const bool half = report["dtype"] != "fp32";  // fp16's products are as fast as bf16's
  const double floor = watch.rates().Fastest(half) * 1e9 / flops_per_token;
  report["gflop_token"] = Rounded(flops_per_token * 1e-9, 4);
  report["gemm_gflops"] = std::move(rates);
  report["floor_tok_s"] = Rounded(floor, 1);
  report["floor_share"] = Rounded(report["tok_s"].get<double>() / floor, 3);
}

}  // namespace

absl::StatusOr<Json> RunTrainCase(const TrainCase& bench, runtime::Runtime runtime) {
  config::TrainOptions options = bench.options;
  options.steps = bench.warmup + bench.timed;
  options.checkpoint_steps = 0;
  train::ModelCache models(runtime.files, bench.threads);
  STRATA_ASSIGN_OR_RETURN(
      train::LoadedModel* const loaded,
      models.Get(bench.model, options.precision(), {options.device, static_cast<int64_t>(options.host_layers)}));
  model::Transformer& model = *loaded->transformer;
  data::Rows rows;
  if (bench.data.empty()) {
    rows = RandomRows(bench, model.config().vocab_size);
  } else {
    STRATA_ASSIGN_OR_RETURN(data::Dataset read,
                            models.ReadRows(*loaded, bench.data, train::RowPolicyOf(options, /*scratch=*/"")));
    rows = std::move(read.rows);
  }
  STRATA_ASSIGN_OR_RETURN(std::vector<train::Target> targets,
                          peft::PlanLora(options.adapter, model.files().LinearModules()));
  const auto trained = static_cast<int64_t>(train::NumParameters(targets));
  peft::AdapterState state(std::move(targets), model.device());
  state.InitFresh(options.seed, 0, "");

  Watch watch(bench, runtime.clock, model.device());
  const train::LoopContext context{
      .model = model,
      .state = state,
      .clock = runtime.clock,
      .seed = options.seed,
      .round = 0,
      .site = {},
      .shape = {.micro_batch_tokens = train::kMicroBatchTokens, .recompute = options.gradient_checkpointing}};
  watch.Start();
  STRATA_RETURN_IF_ERROR(train::RunTraining(context, options, rows, [&](const train::TrainProgress& progress) {
                           watch.Step(progress);
                           return true;
                         }).status());
  watch.Finish();
  Json report = Report(bench, watch);
  if (bench.floor) {
    const Shape shape = ShapeOf(rows);
    AddFloor(watch, FlopsPerToken(model.files(), shape.length, shape.supervised, trained), report);
  }
  return report;
}

}  // namespace strata::bench
