// The validated options of every program, as plain structs with the defaults applied. Made by common/config from YAML,
// JSON or a proto message; nothing here knows where they came from. Field meanings and defaults: proto/config.proto.
#ifndef STRATA_COMMON_CONFIG_OPTIONS_H_
#define STRATA_COMMON_CONFIG_OPTIONS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "common/config/precision.h"

namespace strata::config {

struct TlsOptions {
  std::string cert, key, ca;  // PEM files; all empty: no TLS
  bool enabled() const { return !cert.empty(); }
};

// How modules are named: one regular expression that must match the whole name, or suffixes ("q_proj" matches any name
// that is it or ends in ".q_proj"). "all-linear" is kept as such.
struct ModuleSelector {
  bool all_linear = false;
  std::string expression;             // set: a full-match regex (PCRE2, as Python's re.fullmatch)
  std::vector<std::string> suffixes;  // else
  bool empty() const { return !all_linear && expression.empty() && suffixes.empty(); }
};

// No adapter's rank is larger, asked for or read: products of sizes stay far below 64 bits.
inline constexpr uint32_t kMaxRank = 1 << 20;

struct AdapterOptions {
  uint32_t rank = 8;
  double alpha = 8;
  ModuleSelector target_modules = {.all_linear = true, .expression = {}, .suffixes = {}};
  ModuleSelector exclude_modules;
  std::vector<uint32_t> layers_to_transform;                   // empty: all
  std::vector<std::pair<std::string, uint32_t>> rank_pattern;  // file order; PEFT: `(.*\.)?(key)$`, first match wins
  std::vector<std::pair<std::string, double>> alpha_pattern;
  bool use_rslora = false;
  bool use_dora = false;
  double dropout = 0;
  bool specified = false;  // an `adapter:` key was given
};

enum class Schedule { kConstant, kLinear, kCosine };

struct OptimizerOptions {
  double learning_rate = 5e-5;
  double beta1 = 0.9, beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;
  double max_grad_norm = 1;  // 0: no clipping
  Schedule schedule = Schedule::kLinear;
  uint32_t warmup_steps = 0;
};

// What becomes of a step whose loss or gradient is not finite: the training ends; the step's rows are passed over; the
// update before it is taken back and the training goes on from there with half the learning rate.
enum class NonFinitePolicy { kStop, kSkip, kHalveScale };

struct TrainOptions {
  AdapterOptions adapter;
  OptimizerOptions optimizer;
  std::optional<uint32_t> steps;  // else epochs
  double epochs = 3;
  uint32_t batch_size = 8;
  uint32_t max_length = 1024;
  bool pack = false;
  bool shuffle = true;
  uint64_t seed = 42;
  ComputeDType dtype = ComputeDType::kFp32;
  std::optional<BaseDType> base_dtype;  // else as dtype
  std::string device = "auto";
  uint32_t gradient_accumulation_steps = 1;
  bool gradient_checkpointing = false;
  uint32_t checkpoint_steps = 50;  // 0: no checkpoints
  NonFinitePolicy on_non_finite = NonFinitePolicy::kStop;
  uint64_t max_memory = 0;       // bytes; 0: no limit
  uint32_t host_layers = 0;      // layers whose matrices stay in the host's memory; CUDA devices
  bool skip_bad_rows = false;    // else a bad row of the data ends the training before it begins
  bool split_long_rows = false;  // else what is longer than max_length is cut off
  std::string chat_template;     // empty: the model's own
  Precision precision() const { return base_dtype.has_value() ? Precision(dtype, *base_dtype) : Precision(dtype); }
};

struct ServerOptions {
  std::string listen = "127.0.0.1:7433";
  std::string admin_socket;
  std::string state_dir;
  TlsOptions tls;
  uint64_t max_update_bytes = uint64_t{2} << 30;
  absl::Duration progress_interval = absl::Seconds(10);
  absl::Duration liveness_timeout = absl::Seconds(60);
  std::string log_level = "info";
};

struct ClientOptions {
  std::string server;
  TlsOptions tls;
  std::string state_dir;
  std::map<std::string, std::string> models;  // label -> path
  std::map<std::string, std::string> data;
  std::string device = "auto";
  std::optional<uint32_t> rank;
  std::optional<double> alpha;
  std::optional<uint32_t> max_rank;
  uint32_t threads = 0;                      // 0: all cores
  std::vector<std::string> trainer_command;  // empty: native
  std::string log_level = "info";
  std::string name;  // loopback without TLS
  std::optional<uint32_t> max_rounds;
};

enum class Start { kFresh, kWarm };
enum class AggregationMethod { kStack, kFedit, kZeroPad };

struct RoundsOptions {
  uint32_t count = 1;
  std::optional<uint32_t> report_goal;
  uint32_t min_sites = 3;
  absl::Duration timeout = absl::Hours(1);
  Start start = Start::kFresh;
  uint32_t max_attempts = 3;
};

struct AggregationOptions {
  AggregationMethod method = AggregationMethod::kStack;
  std::optional<double> energy;
  std::optional<uint32_t> max_rank;  // neither: exact
  bool raw_stack = false;
  double server_learning_rate = 1;
  uint32_t max_blobs = 8;
  bool renormalise_absent = false;
  std::optional<uint32_t> compaction_max_rank;
};

struct EvaluationOptions {
  double holdout = 0;
  uint32_t every = 1;
};

struct ModuleShape {
  std::string name;
  int64_t out = 0, in = 0;
  bool operator==(const ModuleShape&) const = default;
};

struct JobOptions {
  std::string name;
  std::vector<std::string> model_digests;  // "weights:semantics" in hex
  std::string data;
  std::vector<std::string> sites;  // empty: all
  RoundsOptions rounds;
  TrainOptions training;
  AggregationOptions aggregation;
  EvaluationOptions evaluation;
  uint32_t max_rank = 256;
  std::vector<ModuleShape> modules;
};

struct SimSitesOptions {
  uint32_t count = 3;
  std::vector<uint32_t> ranks;
  std::string data;
  std::string partition = "iid";  // iid | dirichlet | key
  double concentration = 0.5;
  std::string key;
};

struct SimOptions {
  JobOptions job;
  SimSitesOptions sites;
  std::string model;
  std::string out;
  uint64_t seed = 42;
  uint32_t threads = 0;
  bool single_sites = false;
};

}  // namespace strata::config

#endif  // STRATA_COMMON_CONFIG_OPTIONS_H_
