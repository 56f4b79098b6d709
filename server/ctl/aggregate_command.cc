#include "server/ctl/aggregate_command.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <iostream>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/blocking_counter.h"
#include "common/adapter/adapter.h"
#include "common/runtime/process.h"
#include "common/runtime/runtime.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"
#include "nlohmann/json.hpp"
#include "server/aggregate/aggregate.h"

namespace strata {
namespace {

constexpr int kFailed = 1;
constexpr int kMisuse = 2;

// The command line as it was given.
struct Flags {
  std::string out;
  bool exact = false, stack = false;
  double energy = 0;
  int64_t max_rank = 0;
  std::string weights;
  std::string dtype = "f32";
  std::string format = "text";
  int threads = 0;
  bool compare = false, renormalise = false;
  std::vector<std::string> directories;
};

struct Inputs {
  std::vector<adapter::Adapter> adapters;
  adapter::PeftWriteOptions write;
  std::vector<std::string> notes;
};

aggregate::Compression CompressionOf(const Flags& flags) {
  using Kind = aggregate::Compression::Kind;
  if (flags.stack) return {.kind = Kind::kRawStack};
  if (flags.energy > 0) return {.kind = Kind::kEnergy, .energy = flags.energy};
  if (flags.max_rank > 0) return {.kind = Kind::kMaxRank, .max_rank = flags.max_rank};
  return {.kind = Kind::kExact};
}

// INVALID_ARGUMENT: what was typed is no list of as many weights as there are adapters.
absl::StatusOr<std::vector<double>> WeightsOf(const Flags& flags) {
  const size_t count = flags.directories.size();
  if (flags.weights.empty()) return std::vector<double>(count, 1.0 / static_cast<double>(count));
  std::vector<double> weights;
  for (const std::string& text : std::vector<std::string>(absl::StrSplit(flags.weights, ','))) {
    double weight = 0;
    if (!absl::SimpleAtod(text, &weight) || !std::isfinite(weight) || weight < 0) {
      return absl::InvalidArgumentError(Cat("--weights: '", text, "' is no finite number of at least 0"));
    }
    weights.push_back(weight);
  }
  if (weights.size() != count) {
    return absl::InvalidArgumentError(
        Cat("--weights: ", weights.size(), " weights for ", count, " adapter directories; give one each"));
  }
  if (std::all_of(weights.begin(), weights.end(), [](double weight) { return weight == 0; })) {
    return absl::InvalidArgumentError("--weights: all are 0; there is nothing to add up");
  }
  return weights;
}

absl::StatusOr<Inputs> ReadInputs(runtime::FileSystem& files, const Flags& flags) {
  Inputs inputs;
  size_t transposed = 0;
  for (const std::string& directory : flags.directories) {
    auto read = adapter::ReadPeft(files, directory);
    if (!read.ok()) return Annotate(read.status(), Cat("adapter ", directory));
    auto& [adapter, config] = *read;
    if (absl::Status status = adapter::RequireNoMagnitudes(
            adapter,
            "sums are made of low-rank products, which magnitudes are not; merge it, or train without use_dora");
        !status.ok()) {
      return Annotate(status, Cat("adapter ", directory));
    }
    if (inputs.adapters.empty()) {
      inputs.write.base_model = config.base_model;
    } else if (config.base_model != inputs.write.base_model) {
      inputs.notes.push_back(Cat(directory, " was trained on base model '", config.base_model, "', ",
                                 flags.directories.front(), " on '", inputs.write.base_model, "'"));
    }
    if (config.fan_in_fan_out) ++transposed;
    inputs.adapters.push_back(std::move(adapter));
  }
  inputs.write.fan_in_fan_out = transposed == flags.directories.size();
  if (transposed > 0 && !inputs.write.fan_in_fan_out) {
    inputs.notes.emplace_back("some of the adapters say fan_in_fan_out and some do not; the result says it does not");
  }
  return inputs;
}

// Names that sort as the adapters were given and tell them apart in messages.
std::vector<aggregate::Member> MembersOf(const Inputs& inputs, const Flags& flags, const std::vector<double>& weights) {
  const size_t width = std::to_string(flags.directories.size()).size();
  std::vector<aggregate::Member> members;
  for (size_t i = 0; i < inputs.adapters.size(); ++i) {
    members.push_back({.site = absl::StrFormat("%0*d: %s", static_cast<int>(width), i + 1, flags.directories[i]),
                       .weight = weights[i],
                       .adapter = &inputs.adapters[i]});
  }
  return members;
}

// Runs on `threads` threads of the executor and waits for them.
aggregate::ParallelFor ParallelOn(runtime::Executor& executor, int threads) {
  return [&executor, threads](int64_t count, const std::function<void(int64_t)>& work) {
    std::atomic<int64_t> next = 0;
    absl::BlockingCounter running(threads);
    for (int t = 0; t < threads; ++t) {
      executor.Run([&] {
        for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) work(i);
        running.DecrementCount();
      });
    }
    running.Wait();
  };
}

void PrintJson(const aggregate::AggregateResult& result, const Flags& flags, const std::vector<double>& weights) {
  nlohmann::ordered_json json;
  json["modules"] = nlohmann::ordered_json::array();
  for (const aggregate::ModuleResult& module : result.modules) {
    json["modules"].push_back({{"name", module.module},
                               {"rank_in", module.rank_in},
                               {"rank_out", module.rank_out},
                               {"error", module.error},
                               {"norm", module.norm}});
  }
  json["error"] = result.error;
  if (flags.compare) {
    json["fedit_distance"] = nullptr;
    if (result.fedit_distance >= 0) json["fedit_distance"] = result.fedit_distance;
    json["zero_pad_distance"] = result.zero_pad_distance;
  }
  json["weights"] = weights;
  json["out"] = flags.out;
  std::cout << json.dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace) << "\n";
}

void PrintTable(const aggregate::AggregateResult& result, const Flags& flags) {
  size_t width = std::string("module").size();
  for (const aggregate::ModuleResult& module : result.modules) width = std::max(width, module.module.size());
  std::cout << absl::StrFormat("%-*s %8s %9s %10s\n", static_cast<int>(width), "module", "rank in", "rank out",
                               "error");
  int64_t in = 0;
  int64_t out = 0;
  for (const aggregate::ModuleResult& module : result.modules) {
    std::cout << absl::StrFormat("%-*s %8d %9d %10.2e\n", static_cast<int>(width), module.module, module.rank_in,
                                 module.rank_out, module.error);
    in += module.rank_in;
    out += module.rank_out;
  }
  std::cout << absl::StrFormat("%-*s %8d %9d %10.2e\n", static_cast<int>(width), "all", in, out, result.error);
  if (flags.compare) {
    std::cout << absl::StrFormat("zero-padded averaging would be off by %.2e", result.zero_pad_distance);
    if (result.fedit_distance >= 0) std::cout << absl::StrFormat(", fedit by %.2e", result.fedit_distance);
    std::cout << "\n";
  }
  std::cout << "written to " << flags.out << "\n";
}

absl::Status Run(const Flags& flags, const std::vector<double>& weights) {
  const int threads = flags.threads > 0 ? flags.threads : std::max(1, runtime::NumCores());
  runtime::SystemRuntime system(threads);
  runtime::Runtime runtime = system.get();
  STRATA_ASSIGN_OR_RETURN(Inputs inputs, ReadInputs(runtime.files, flags));
  const double total = [&weights] {
    double sum = 0;
    for (const double weight : weights) sum += weight;
    return sum;
  }();
  if (std::abs(total - 1) > 1e-9) {
    inputs.notes.push_back(Cat("the weights sum to ", total, ", not to 1; they are used as given"));
  }
  const aggregate::AggregateOptions options{.method = config::AggregationMethod::kStack,
                                            .compression = CompressionOf(flags),
                                            .renormalise_absent = flags.renormalise,
                                            .compare_methods = flags.compare,
                                            .num_threads = threads};
  STRATA_ASSIGN_OR_RETURN(
      const aggregate::AggregateResult result,
      aggregate::Aggregate(MembersOf(inputs, flags, weights), options, ParallelOn(runtime.executor, threads)));
  STRATA_RETURN_IF_ERROR(adapter::WritePeft(runtime.files, flags.out, result.sum, inputs.write));
  if (result.sum.modules().empty()) {
    inputs.notes.emplace_back("the sum is zero in every module: the adapter holds none, and PEFT refuses to load it");
  }
  for (const std::string& note : inputs.notes) std::cerr << "note: " << note << "\n";
  flags.format == "json" ? PrintJson(result, flags, weights) : PrintTable(result, flags);
  return absl::OkStatus();
}

int RunCommand(const Flags& flags) {
  const absl::StatusOr<std::vector<double>> weights = WeightsOf(flags);
  if (!weights.ok()) {
    std::cerr << "error: " << weights.status().message() << "\n";
    return kMisuse;
  }
  if (const absl::Status status = Run(flags, *weights); !status.ok()) {
    std::cerr << "error: " << status.message() << "\n";
    return kFailed;
  }
  return 0;
}

void AddKindFlags(CLI::App& command, Flags& flags) {
  auto* exact = command.add_flag("--exact", flags.exact, "Lossless: re-factorise at the sum's own rank (the default)");
  auto* stack = command.add_flag("--stack", flags.stack, "Join the factors along the rank, as they are");
  auto* energy = command
                     .add_option("--energy", flags.energy,
                                 "Keep the smallest rank with this share of the sum of squared singular values")
                     ->check([](const std::string& text) -> std::string {
                       double value = 0;
                       if (absl::SimpleAtod(text, &value) && value > 0 && value <= 1) return "";
                       return "'" + text + "' is no number above 0 and at most 1";
                     });
  auto* max_rank = command.add_option("--max-rank", flags.max_rank, "Keep at most this rank in every module")
                       ->check(CLI::Range(1, std::numeric_limits<int>::max()));
  const std::vector<CLI::Option*> kinds = {exact, stack, energy, max_rank};
  for (CLI::Option* one : kinds) {
    for (CLI::Option* other : kinds) {
      if (one != other) one->excludes(other);
    }
  }
}

}  // namespace

void AddAggregateCommand(CLI::App& app, int& exit_code) {
  const auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand(
      "aggregate", "Add up PEFT adapters: the weighted sum of their products, whatever their ranks and alphas");
  command->add_option("ADAPTER_DIR", flags->directories, "Directories of PEFT adapters")->required();
  command->add_option("--out", flags->out, "Directory to write the sum to, as a PEFT adapter")->required();
  AddKindFlags(*command, *flags);
  command->add_option("--weights", flags->weights, "One weight per adapter, w1,w2,.. (default: the same for all, 1/N)");
  command->add_option("--dtype", flags->dtype, "Of the written factors")->check(CLI::IsMember({"f32"}));
  command->add_flag("--renormalise", flags->renormalise,
                    "Divide a module by the weight of the adapters that hold it (default: a missing module is zero)");
  command->add_flag("--compare", flags->compare, "Also say how far averaging the factors would have been off");
  command->add_option("--format", flags->format, "Of what is printed")->check(CLI::IsMember({"text", "json"}));
  command->add_option("--threads", flags->threads, "Modules at a time (default: one per core)")
      ->check(CLI::Range(0, std::numeric_limits<int>::max()));
  command->callback([flags, &exit_code] { exit_code = RunCommand(*flags); });
}

}  // namespace strata
