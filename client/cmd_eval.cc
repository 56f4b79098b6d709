#include <algorithm>
#include <cmath>
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
#include "client/data/choices.h"
#include "client/data/row_reader.h"
#include "client/model/non_finite.h"
#include "client/train/choices.h"
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
  std::string model, adapters_file, chat_template, dtype = "fp32", base_dtype, device = "auto", format;
  std::vector<std::string> data, choices, adapters;
  std::string on_bad_row = "stop";
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

// What a candidate reached on one file, in both formats.
struct Score {
  std::string text;
  Json json;
  bool is_choices = false;  // whose format is JSON unless text is asked for
};

Score ScoreOf(const train::EvaluationResult& result) {
  Json rows = Json::array();
  for (const train::RowLoss& row : result.rows) {
    rows.push_back({{"loss", row.tokens > 0 ? row.nll / static_cast<double>(row.tokens) : 0}, {"tokens", row.tokens}});
  }
  const double perplexity = std::exp(result.loss);
  return {.text = absl::StrFormat("loss %.6f, perplexity %.4f over %d tokens in %u rows", result.loss, perplexity,
                                  result.tokens, result.rows.size()),
          .json = {
              {"loss", result.loss}, {"perplexity", perplexity}, {"tokens", result.tokens}, {"rows", std::move(rows)}}};
}

Score ScoreOf(const train::ChoiceResult& result) {
  Json rows = Json::array();
  for (const train::ScoredRow& row : result.rows) {
    rows.push_back({{"log_likelihoods", row.log_likelihoods},
                    {"chosen", row.chosen},
                    {"chosen_normalized", row.chosen_normalized}});
  }
  const train::Share &plain = result.accuracy, &normalized = result.accuracy_normalized;
  return {.text = absl::StrFormat("accuracy %.4f [%.4f, %.4f], normalized by length %.4f [%.4f, %.4f], of %u questions",
                                  plain.value, plain.low, plain.high, normalized.value, normalized.low, normalized.high,
                                  result.rows.size()),
          .json = {{"accuracy", plain.value},
                   {"interval", {plain.low, plain.high}},
                   {"accuracy_normalized", normalized.value},
                   {"interval_normalized", {normalized.low, normalized.high}},
                   {"n", result.rows.size()},
                   {"rows", std::move(rows)}},
          .is_choices = true};
}

bool IsFinite(const train::RowLoss& row) { return std::isfinite(row.nll); }
bool IsFinite(const train::ScoredRow& row) {
  return std::all_of(row.log_likelihoods.begin(), row.log_likelihoods.end(), [](double x) { return std::isfinite(x); });
}

// OUT_OF_RANGE: a score that is no number, with its rows and, where the weights are to blame, with one of them.
template <typename Row>
absl::Status CheckFinite(const std::vector<Row>& rows, std::string_view score, const std::string& path,
                         const EvalFlags& flags, const model::ModelFiles& model) {
  constexpr size_t kMost = 10;
  std::vector<std::string> named;
  size_t count = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (IsFinite(rows[i])) continue;
    if (++count <= kMost) named.push_back(std::to_string(i + 1));
  }
  if (count == 0) return absl::OkStatus();
  if (count > kMost) named.push_back(Cat("and ", count - kMost, " more"));
  std::string why = model::NonFiniteWeight(model);
  if (why.empty()) {
    why = Cat("no weight was found that is not finite, what is computed with them overflows; ",
              flags.dtype == "fp32" ? "look at what trained the adapter" : "use --dtype fp32");
  }
  return absl::OutOfRangeError(Cat(path, ": the ", score, " is not finite in ", count, " of ", rows.size(),
                                   " scored rows (number ", absl::StrJoin(named, ", "), "): ", why));
}

void Print(const EvalFlags& flags, const Candidate& candidate, const std::string& file, Score score) {
  const bool several = flags.data.size() + flags.choices.size() > 1 || !flags.adapters_file.empty();
  if (flags.format == "text" || (flags.format.empty() && !score.is_choices)) {
    if (several) std::cout << candidate.name << "  " << file << "  ";
    std::cout << score.text << std::endl;
    return;
  }
  if (several) {
    score.json["name"] = candidate.name;
    score.json["data"] = file;
  }
  std::cout << score.json.dump() << std::endl;
}

void NoteRows(const std::string& path, uint64_t num_truncated, uint64_t num_bad, const std::string& bad_rows) {
  if (num_truncated > 0) {
    std::cerr << "note: " << path << ": " << num_truncated << " rows are longer than --max-length and were cut\n";
  }
  if (num_bad > 0) std::cerr << "note: " << path << ": " << num_bad << " bad rows were left out\n" << bad_rows << "\n";
}

// The rows of every file, read before anything is scored.
struct Inputs {
  std::vector<data::Dataset> data;
  std::vector<data::ChoiceSet> choices;
};

absl::StatusOr<Inputs> ReadInputs(const EvalFlags& flags, runtime::FileSystem& files, train::ModelCache& models,
                                  const train::LoadedModel& loaded) {
  const bool skip = flags.on_bad_row == "skip";
  train::RowPolicy policy{.max_length = flags.max_length, .skip_bad_rows = skip};
  STRATA_ASSIGN_OR_RETURN(policy.chat_template, data::ChosenTemplate(files, flags.chat_template));
  Inputs inputs;
  for (const std::string& path : flags.data) {
    STRATA_ASSIGN_OR_RETURN(data::Dataset rows, models.ReadRows(loaded, path, policy));
    NoteRows(path, rows.num_truncated, rows.num_bad, rows.bad_rows);
    if (rows.rows.empty()) return absl::InvalidArgumentError(Cat(path, ": no row has a token to score"));
    inputs.data.push_back(std::move(rows));
  }
  const data::RowReader reader{.tokenizer = loaded.tokenizer.get(),
                               .vocab_size = loaded.transformer->config().vocab_size,
                               .chat = nullptr,
                               .no_chat = {}};
  for (const std::string& path : flags.choices) {
    auto rows = data::ReadChoices(files, path, reader, {.max_length = flags.max_length, .skip_bad_rows = skip});
    if (!rows.ok()) return train::ExplainRows(loaded, rows.status());
    NoteRows(path, rows->num_truncated, rows->bad.count, rows->bad.text);
    inputs.choices.push_back(*std::move(rows));
  }
  return inputs;
}

absl::Status Evaluate(const EvalFlags& flags, const std::vector<Candidate>& candidates,
                      const config::Precision& precision, Interruptible& session) {
  runtime::Runtime runtime = session.runtime();
  train::ModelCache models(runtime.files, flags.threads);
  STRATA_ASSIGN_OR_RETURN(train::LoadedModel* const loaded,
                          models.Get(flags.model, precision, {.device = flags.device}));
  STRATA_ASSIGN_OR_RETURN(const Inputs inputs, ReadInputs(flags, runtime.files, models, *loaded));
  const auto keep_going = [&] { return !session.stopped(); };
  model::Transformer& model = *loaded->transformer;
  std::vector<std::string> faults;  // of scores that are no numbers; the others are printed
  const auto print = [&](const Candidate& candidate, const std::string& file, const auto& result,
                         std::string_view score) {
    const absl::Status finite = Annotate(CheckFinite(result.rows, score, file, flags, model.files()), candidate.name);
    if (finite.ok()) {
      Print(flags, candidate, file, ScoreOf(result));
    } else {
      faults.emplace_back(finite.message());
    }
  };
  for (const Candidate& candidate : candidates) {
    STRATA_ASSIGN_OR_RETURN(const std::vector<model::NamedFactors> factors,
                            ReadFrozen(runtime.files, candidate.directories, model));
    if (absl::Status status = model.SetBase(factors, model::BaseRoute::kByDtype); !status.ok())
      return Annotate(status, candidate.name);
    for (size_t i = 0; i < inputs.data.size(); ++i) {
      STRATA_ASSIGN_OR_RETURN(const auto result, train::EvaluateRows(model, inputs.data[i].rows, keep_going));
      print(candidate, flags.data[i], result, "loss");
    }
    for (size_t i = 0; i < inputs.choices.size(); ++i) {
      STRATA_ASSIGN_OR_RETURN(const auto result, train::ScoreChoices(model, inputs.choices[i].rows, keep_going));
      print(candidate, flags.choices[i], result, "log-likelihood");
    }
  }
  return faults.empty() ? absl::OkStatus() : absl::OutOfRangeError(absl::StrJoin(faults, "\n"));
}

int Run(const EvalFlags& flags) {
  if (flags.data.empty() && flags.choices.empty()) {
    return ReportError(absl::InvalidArgumentError("nothing to score: name --data FILE or --choices FILE"), true);
  }
  Interruptible session;
  const auto candidates = ReadCandidates(session.runtime().files, flags);
  if (!candidates.ok()) return ReportError(candidates.status(), true);
  const auto precision = PrecisionOf(flags.dtype, flags.base_dtype, flags.device);
  if (!precision.ok()) return ReportError(precision.status(), true);
  const absl::Status status = Evaluate(flags, *candidates, *precision, session);
  if (status.ok()) return 0;
  const int code = ReportError(status, false);
  return absl::IsCancelled(status) && session.stopped() ? session.exit_code() : code;
}

}  // namespace

void AddEvalCommand(CLI::App& app, CommandContext& context) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* command = app.add_subcommand(
      "eval", "Loss of a model on rows, or its accuracy on multiple choice, with or without adapters");
  command->add_option("--model", flags->model, "Model folder, GGUF file, or org/name in the HF cache")->required();
  command->add_option(
      "--data", flags->data,
      "JSONL (also .zst) or Parquet file, folder or 'pattern' of such files, scored by its mean loss and perplexity; "
      "several one after another");
  command->add_option(
      "--choices", flags->choices,
      "JSONL (also .zst) or Parquet file of {\"question\", \"choices\": [TEXT, ..], \"answer\": INDEX}: does the model "
      "find the right text likeliest behind the question? Texts are joined as they stand");
  CLI::Option* adapters = command->add_option("--adapter", flags->adapters, "PEFT folder; several add up");
  command
      ->add_option("--adapters-file", flags->adapters_file,
                   "Lines of {\"name\", \"adapters\": [DIR, ..]}, each scored on every file")
      ->excludes(adapters);
  command->add_option("--chat-template", flags->chat_template,
                      "For rows of {\"messages\"}: a file of Jinja or a built-in one, instead of the model's");
  command
      ->add_option("--max-length", flags->max_length,
                   "Longer rows are cut, questions at their beginning (default 1024)")
      ->check(AtLeastOne());
  command->add_option("--on-bad-row", flags->on_bad_row, "stop (default) or skip")
      ->check(CLI::IsMember({"stop", "skip"}));
  command->add_option("--dtype", flags->dtype, "fp32 (default), bf16, or fp16 on CUDA")
      ->check(CLI::IsMember(config::kComputeDTypeWords));
  command->add_option("--base-dtype", flags->base_dtype, "fp32, bf16, fp16, int8 or nf4 (default: as --dtype)")
      ->check(CLI::IsMember(config::kBaseDTypeWords));
  command->add_option("--device", flags->device, "auto (default), cpu or cuda:N");
  command->add_option("--threads", flags->threads, "Threads that compute (default: all cores)")->check(AtLeastOne());
  command->add_option("--format", flags->format, "text or json (default: json for --choices, else text)")
      ->check(CLI::IsMember({"text", "json"}));
  command->callback([flags, &context] { context.exit_code = Run(*flags); });
}

}  // namespace strata
