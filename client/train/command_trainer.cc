#include "client/train/command_trainer.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/config/config.h"
#include "common/format/tensor.h"
#include "common/runtime/process.h"
#include "common/runtime/random.h"
#include "common/secure/digest.h"
#include "common/status/status_macros.h"
#include "nlohmann/json.hpp"

namespace strata::train {
namespace {

using nlohmann::json;
using runtime::JoinPath;

double Number(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number() ? found->get<double>() : 0;
}

// The value that most targets share; the smallest of equally frequent ones.
template <typename T, typename Get>
T MostFrequent(const std::vector<Target>& targets, Get get) {
  std::map<T, int> counts;
  for (const Target& target : targets) ++counts[get(target)];
  T best{};
  int most = 0;
  for (const auto& [value, count] : counts) {
    if (count > most) {
      best = value;
      most = count;
    }
  }
  return best;
}

struct SplitRows {
  std::string train, held_out;
  uint64_t num_train = 0, num_held_out = 0;
};

// By a hash of the line, so that the same row always falls on the same side.
SplitRows SplitLines(const std::string& text, double share, uint64_t seed) {
  SplitRows rows;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    const runtime::Philox draws(
        runtime::RandomKey{.purpose = "holdout", .seed = seed, .round = 0, .site = secure::Sha256(std::string(line))});
    const bool held = share > 0 && draws.Uniform(0) < share;
    absl::StrAppend(held ? &rows.held_out : &rows.train, line, "\n");
    ++(held ? rows.num_held_out : rows.num_train);
  }
  return rows;
}

struct Sum {
  int64_t rank = 0, out = 0, in = 0;
  std::vector<float> a;                                   // [rank, in], grows by rows
  std::vector<std::pair<int64_t, std::vector<float>>> b;  // (r, [out, r])
};

absl::Status Append(const adapter::Factors& factors, Sum& sum) {
  if (sum.out == 0) {
    sum.out = factors.out;
    sum.in = factors.in;
  }
  if (factors.out != sum.out || factors.in != sum.in) {
    return absl::InvalidArgumentError(absl::StrCat(factors.module, ": expected [", sum.out, ", ", sum.in, "], found [",
                                                   factors.out, ", ", factors.in, "]"));
  }
  std::vector<float> a(static_cast<size_t>(factors.rank * factors.in));
  std::vector<float> b(static_cast<size_t>(factors.out * factors.rank));
  STRATA_RETURN_IF_ERROR(format::ToFloat(factors.a, a));
  STRATA_RETURN_IF_ERROR(format::ToFloat(factors.b, b));
  for (float& value : b) value = static_cast<float>(factors.scaling * value);
  sum.a.insert(sum.a.end(), a.begin(), a.end());
  sum.rank += factors.rank;
  sum.b.emplace_back(factors.rank, std::move(b));
  return absl::OkStatus();
}

std::vector<float> JoinColumns(const Sum& sum) {
  std::vector<float> joined(static_cast<size_t>(sum.out * sum.rank));
  int64_t column = 0;
  for (const auto& [rank, b] : sum.b) {
    for (int64_t row = 0; row < sum.out; ++row) {
      std::copy_n(b.begin() + row * rank, rank, joined.begin() + row * sum.rank + column);
    }
    column += rank;
  }
  return joined;
}

}  // namespace

absl::StatusOr<adapter::Adapter> Concatenate(const std::vector<std::shared_ptr<const adapter::Adapter>>& adapters) {
  std::map<std::string, Sum> sums;
  for (const auto& one : adapters) {
    for (const adapter::Factors& factors : one->modules()) {
      if (factors.rank > 0) STRATA_RETURN_IF_ERROR(Append(factors, sums[factors.module]));
    }
  }
  adapter::AdapterBuilder builder;
  for (auto& [module, sum] : sums) {
    builder.Add(module, sum.rank, sum.out, sum.in, static_cast<double>(sum.rank), 1, std::move(sum.a),
                JoinColumns(sum));
  }
  return std::move(builder).Build();
}

config::AdapterOptions OptionsForTargets(const std::vector<Target>& targets, const config::AdapterOptions& job) {
  config::AdapterOptions options;
  options.specified = true;
  options.use_rslora = job.use_rslora;
  options.dropout = job.dropout;
  options.target_modules = {};
  const auto rank_of = [](const Target& target) { return static_cast<uint32_t>(target.rank); };
  options.rank = MostFrequent<uint32_t>(targets, rank_of);
  options.alpha = MostFrequent<double>(targets, [](const Target& target) { return target.alpha; });
  for (const Target& target : targets) {
    options.target_modules.suffixes.push_back(target.module);
    if (rank_of(target) != options.rank) options.rank_pattern.emplace_back(target.module, rank_of(target));
    if (target.alpha != options.alpha) options.alpha_pattern.emplace_back(target.module, target.alpha);
  }
  return options;
}

struct CommandTrainer::Files {
  std::string out, config, train_data;
  std::string eval_data;     // empty: nothing to score
  std::string base_adapter;  // empty: C_0
  uint64_t num_examples = 0;
};

struct CommandTrainer::Report {
  std::vector<adapter::Metric> metrics;
  std::optional<uint64_t> num_examples;
  double first_loss = 0, last_loss = 0, tokens = 0;
  uint32_t steps = 0;
  bool done = false;

  void Read(const json& line, TrainProgress& progress);
};

absl::StatusOr<CommandTrainer::Files> CommandTrainer::Prepare(const TrainRequest& request) {
  const std::string folder = JoinPath(request.work_directory, "command");
  STRATA_RETURN_IF_ERROR(files_.RemoveAll(folder));
  STRATA_RETURN_IF_ERROR(files_.MakeDirectories(folder));
  Files files{.out = JoinPath(folder, "adapter"),
              .config = JoinPath(folder, "train.yaml"),
              .train_data = {},
              .eval_data = {},
              .base_adapter = {}};
  STRATA_ASSIGN_OR_RETURN(const std::string text, files_.ReadFile(request.data_path));
  const SplitRows rows = SplitLines(text, request.holdout, request.seed);
  files.num_examples = rows.num_train;
  files.train_data = request.data_path;
  if (request.holdout > 0) {
    files.train_data = JoinPath(folder, "train.jsonl");
    STRATA_RETURN_IF_ERROR(files_.WriteFile(files.train_data, rows.train));
    if ((request.evaluate_before || request.evaluate_after || !request.train) && rows.num_held_out > 0) {
      files.eval_data = JoinPath(folder, "held-out.jsonl");
      STRATA_RETURN_IF_ERROR(files_.WriteFile(files.eval_data, rows.held_out));
    }
  }
  config::TrainOptions options = request.options;
  options.adapter = OptionsForTargets(request.targets, request.options.adapter);
  options.seed =
      runtime::Philox(
          runtime::RandomKey{
              .purpose = "command_trainer", .seed = request.seed, .round = request.round, .site = request.site})
          .Word(0);
  STRATA_RETURN_IF_ERROR(files_.WriteFile(files.config, config::PrintTrain(options)));
  if (!request.base.empty()) {
    STRATA_ASSIGN_OR_RETURN(const adapter::Adapter base, Concatenate(request.base));
    if (!base.modules().empty()) {
      files.base_adapter = JoinPath(folder, "base-adapter");
      adapter::PeftWriteOptions written;
      written.base_model = request.model_path;
      STRATA_RETURN_IF_ERROR(adapter::WritePeft(files_, files.base_adapter, base, written));
    }
  }
  return files;
}

std::vector<std::string> CommandTrainer::Arguments(const TrainRequest& request, const Files& files) const {
  std::vector<std::string> arguments = command_;
  const auto add = [&](const char* flag, const std::string& value) {
    arguments.emplace_back(flag);
    arguments.push_back(value);
  };
  add("--model", request.model_path);
  add("--data", files.train_data);
  add("--out", files.out);
  add("--config", files.config);
  add("--format", "json");
  if (threads_ > 0) add("--threads", absl::StrCat(threads_));
  if (!files.base_adapter.empty()) add("--base-adapter", files.base_adapter);
  if (!files.eval_data.empty()) add("--eval-data", files.eval_data);
  if (!request.train) arguments.emplace_back("--eval-only");
  return arguments;
}

void CommandTrainer::Report::Read(const json& line, TrainProgress& progress) {
  if (line.value("done", json(false)) == json(true)) {
    done = true;
    metrics.push_back({"tokens_per_second", Number(line, "tokens_per_second")});
    metrics.push_back({"seconds", Number(line, "seconds")});
    if (line.contains("num_examples"))
      num_examples = static_cast<uint64_t>(std::max(0.0, Number(line, "num_examples")));
  } else if (const auto eval = line.find("eval"); eval != line.end() && eval->is_string()) {
    metrics.push_back({eval->get<std::string>() == "after" ? "loss_after" : "loss_before", Number(line, "loss")});
    if (eval->get<std::string>() != "after") metrics.push_back({"heldout_tokens", Number(line, "tokens")});
  } else if (line.contains("step")) {
    progress.step = static_cast<uint32_t>(std::max(0.0, Number(line, "step")));
    progress.loss = Number(line, "loss");
    progress.grad_norm = Number(line, "grad_norm");
    progress.learning_rate = Number(line, "learning_rate");
    progress.tokens += static_cast<uint64_t>(std::max(0.0, Number(line, "tokens")));
    if (steps++ == 0) first_loss = progress.loss;
    last_loss = progress.loss;
    tokens = static_cast<double>(progress.tokens);
  }
}

absl::StatusOr<CommandTrainer::Report> CommandTrainer::Execute(
    std::vector<std::string> arguments, const TrainRequest& request,
    const std::function<bool(const TrainProgress&)>& on_progress) const {
  Report report;
  TrainProgress progress;
  progress.of = request.options.steps.value_or(0);
  bool stopped = false;
  const auto go_on = [&] {
    stopped = stopped || !on_progress(progress);
    return !stopped;
  };
  runtime::Command command;
  command.argv = std::move(arguments);
  command.keep_going = go_on;
  command.on_line = [&](std::string_view line) {
    const json parsed = json::parse(line, nullptr, false);
    if (!parsed.is_object()) return true;
    report.Read(parsed, progress);
    return go_on();
  };
  const auto code = runtime::RunCommand(command);
  if (stopped) return absl::CancelledError("the training was stopped");
  STRATA_RETURN_IF_ERROR(Annotate(code.status(), "trainer.command"));
  if (*code != 0) {
    return absl::InternalError(absl::StrCat("trainer.command `", command_.front(), "` ended with exit code ", *code,
                                            "; what it said stands above in this log"));
  }
  if (!report.done) {
    return absl::InternalError(absl::StrCat("trainer.command `", command_.front(),
                                            "` ended well, but its output lacks the last line {\"done\":true,..}"));
  }
  if (report.steps > 0) {
    report.metrics.push_back({"train_loss_first", report.first_loss});
    report.metrics.push_back({"train_loss_last", report.last_loss});
    report.metrics.push_back({"tokens", report.tokens});
  }
  return report;
}

absl::StatusOr<std::unique_ptr<adapter::Adapter>> CommandTrainer::ReadUpdate(const TrainRequest& request,
                                                                             const Files& files) {
  auto read = adapter::ReadPeft(files_, files.out);
  if (!read.ok()) return Annotate(read.status(), "what trainer.command wrote");
  STRATA_RETURN_IF_ERROR(
      adapter::RequireNoMagnitudes(read->first, "what trainer.command writes must be low-rank products alone"));
  for (const adapter::Factors& factors : read->first.modules()) {
    const auto target = std::find_if(request.targets.begin(), request.targets.end(),
                                     [&](const Target& t) { return t.module == factors.module; });
    if (target == request.targets.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("trainer.command adapted ", factors.module, ", which is no target of the job"));
    }
    if (factors.out != target->out || factors.in != target->in || factors.rank > target->rank) {
      return absl::InvalidArgumentError(absl::StrCat(
          "trainer.command wrote ", factors.module, " as [", factors.out, ", ", factors.in, "] of rank ", factors.rank,
          "; expected [", target->out, ", ", target->in, "] of rank ", target->rank, " at most"));
    }
  }
  return std::make_unique<adapter::Adapter>(std::move(read->first));
}

absl::StatusOr<TrainResult> CommandTrainer::Run(const TrainRequest& request,
                                                const std::function<bool(const TrainProgress&)>& on_progress) {
  if (request.train && request.start != config::Start::kFresh) {
    return absl::UnimplementedError("rounds.start: warm needs the native trainer; a command starts fresh each round");
  }
  STRATA_ASSIGN_OR_RETURN(const Files files, Prepare(request));
  TrainResult result;
  result.num_examples = files.num_examples;
  if (!request.train && files.eval_data.empty()) return result;
  STRATA_ASSIGN_OR_RETURN(Report report, Execute(Arguments(request, files), request, on_progress));
  result.metrics = std::move(report.metrics);
  result.num_examples = report.num_examples.value_or(files.num_examples);
  if (request.train) {
    STRATA_ASSIGN_OR_RETURN(result.update, ReadUpdate(request, files));
  }
  return result;
}

}  // namespace strata::train
