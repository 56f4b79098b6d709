#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/command_runtime.h"
#include "client/commands.h"
#include "client/data/chat_template.h"
#include "client/train/evaluation.h"
#include "client/train/loaded_model.h"
#include "common/runtime/runtime.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

using Json = nlohmann::json;

struct EvalFlags {
  std::string model, adapters_file, chat_template, dtype = "fp32", device = "auto", format = "text";
  std::vector<std::string> data, adapters;
  uint32_t max_length = 1024;
  int threads = 0;
};

// One adapter to score: the sum of these directories; none: the base model.
struct Candidate {
  std::string name;
  std::vector<std::string> directories;
};

absl::StatusOr<Candidate> ParseCandidate(const std::string& line) {
  const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  Candidate candidate;
  if (!json.is_object() || !json.contains("name") || !json["name"].is_string() || !json.contains("adapters") ||
      !json["adapters"].is_array()) {
    return absl::InvalidArgumentError(R"(expected {"name": "..", "adapters": ["DIR", ..]})");
  }
  candidate.name = json["name"].get<std::string>();
  for (const Json& directory : json["adapters"]) {
    if (!directory.is_string()) return absl::InvalidArgumentError("adapters: expected names of folders");
    candidate.directories.push_back(directory.get<std::string>());
  }
  return candidate;
}

absl::StatusOr<std::vector<Candidate>> ReadCandidates(runtime::FileSystem& files, const EvalFlags& flags) {
  if (flags.adapters_file.empty()) {
    return std::vector<Candidate>{
        {.name = flags.adapters.empty() ? "base" : absl::StrJoin(flags.adapters, "+"), .directories = flags.adapters}};
  }
  STRATA_ASSIGN_OR_RETURN(const std::string text, files.ReadFile(flags.adapters_file));
  std::vector<Candidate> candidates;
  size_t begin = 0;
  for (int number = 1; begin < text.size(); ++number) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    auto candidate = ParseCandidate(line);
    if (!candidate.ok()) return Annotate(candidate.status(), Cat(flags.adapters_file, ":", number));
    candidates.push_back(*std::move(candidate));
  }
  return candidates;
}

void Print(const EvalFlags& flags, const Candidate& candidate, const std::string& data,
           const train::EvaluationResult& result) {
  const bool several = flags.data.size() > 1 || !flags.adapters_file.empty();
  if (flags.format == "text") {
    if (several) std::cout << candidate.name << "  " << data << "  ";
    std::cout << absl::StrFormat("loss %.6f over %d tokens in %u rows\n", result.loss, result.tokens,
                                 result.rows.size())
              << std::flush;
    return;
  }
  Json rows = Json::array();
  for (const train::RowLoss& row : result.rows) {
    rows.push_back({{"loss", row.tokens > 0 ? row.nll / static_cast<double>(row.tokens) : 0}, {"tokens", row.tokens}});
  }
  Json line = {{"loss", result.loss}, {"tokens", result.tokens}, {"rows", std::move(rows)}};
  if (several) {
    line["name"] = candidate.name;
    line["data"] = data;
  }
  std::cout << line.dump() << std::endl;
}

absl::Status Evaluate(const EvalFlags& flags, const std::vector<Candidate>& candidates, Interruptible& session) {
  runtime::Runtime runtime = session.runtime();
  train::ModelCache models(runtime.files, flags.threads);
  STRATA_ASSIGN_OR_RETURN(train::LoadedModel* const loaded,
                          models.Get(flags.model, ParseDType(flags.dtype), flags.device));
  train::RowPolicy policy{.max_length = flags.max_length};
  STRATA_ASSIGN_OR_RETURN(policy.chat_template, data::ChosenTemplate(runtime.files, flags.chat_template));
  std::vector<data::Dataset> datasets;
  for (const std::string& path : flags.data) {
    STRATA_ASSIGN_OR_RETURN(data::Dataset dataset, models.ReadRows(*loaded, path, policy));
    if (dataset.num_truncated > 0)
      std::cerr << "note: " << path << ": " << dataset.num_truncated
                << " rows are longer than --max-length and were cut\n";
    datasets.push_back(std::move(dataset));
  }
  model::Transformer& model = *loaded->transformer;
  for (const Candidate& candidate : candidates) {
    STRATA_ASSIGN_OR_RETURN(const std::vector<model::NamedFactors> factors,
                            ReadFrozen(runtime.files, candidate.directories, model.device()));
    if (absl::Status status = model.SetBase(factors, model::BaseRoute::kByDtype); !status.ok())
      return Annotate(status, candidate.name);
    for (size_t i = 0; i < datasets.size(); ++i) {
      STRATA_ASSIGN_OR_RETURN(const train::EvaluationResult result,
                              train::EvaluateRows(model, datasets[i].rows, [&] { return !session.stopped(); }));
      Print(flags, candidate, flags.data[i], result);
    }
  }
  return absl::OkStatus();
}

int Run(const EvalFlags& flags) {
  Interruptible session;
  const auto candidates = ReadCandidates(session.runtime().files, flags);
  if (!candidates.ok()) return ReportError(candidates.status(), true);
  const absl::Status status = Evaluate(flags, *candidates, session);
  return status.ok() ? 0 : ReportError(status, false);
}

}  // namespace

void AddEvalCommand(CLI::App& app, CommandContext& context) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* command = app.add_subcommand("eval", "Mean and per-row loss of a model, with or without adapters");
  command->add_option("--model", flags->model, "Model folder, GGUF file, or org/name in the HF cache")->required();
  command->add_option("--data", flags->data, "JSONL file; several are scored one after another")->required();
  CLI::Option* adapters = command->add_option("--adapter", flags->adapters, "PEFT folder; several add up");
  command
      ->add_option("--adapters-file", flags->adapters_file,
                   "Lines of {\"name\", \"adapters\": [DIR, ..]}, each scored on every --data")
      ->excludes(adapters);
  command->add_option("--chat-template", flags->chat_template,
                      "For rows of {\"messages\"}: a file of Jinja or a built-in one, instead of the model's");
  command->add_option("--max-length", flags->max_length, "Longer rows are cut (default 1024)")
      ->check(CLI::PositiveNumber);
  command->add_option("--dtype", flags->dtype, "fp32 (default) or bf16")->check(CLI::IsMember({"fp32", "bf16"}));
  command->add_option("--device", flags->device, "auto (default), cpu or cuda:N");
  command->add_option("--threads", flags->threads, "Threads that compute (default: all cores)")
      ->check(CLI::PositiveNumber);
  command->add_option("--format", flags->format, "text or json")->check(CLI::IsMember({"text", "json"}));
  command->callback([flags, &context] { context.exit_code = Run(*flags); });
}

}  // namespace strata
