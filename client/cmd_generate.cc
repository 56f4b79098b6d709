#include <iostream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "client/command_runtime.h"
#include "client/commands.h"
#include "client/data/chat_template.h"
#include "client/data/lines.h"
#include "client/data/row_reader.h"
#include "client/data/row_source.h"
#include "client/data/unicode.h"
#include "client/generate/generator.h"
#include "client/standard_output.h"
#include "client/train/loaded_model.h"
#include "common/runtime/runtime.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata {
namespace {

struct GenerateFlags {
  std::string model, prompt, data = "-", chat_template, dtype = "fp32", base_dtype, device = "auto", format = "text";
  std::vector<std::string> adapters;
  bool has_prompt = false, chat = false;
  int threads = 0;
  std::optional<double> temperature;
  std::string piped;  // standard input
  generate::GenerateOptions options;
};

using Prompts = std::vector<std::vector<int32_t>>;

// The one of the command line, or those of the file or standard input; all bad ones are the error.
absl::StatusOr<Prompts> ReadPrompts(const GenerateFlags& flags, runtime::FileSystem& files,
                                    const data::RowReader& reader, const model::ModelConfig& config) {
  const data::PromptForm form = flags.chat ? data::PromptForm::kUserTurn : data::PromptForm::kText;
  Prompts prompts;
  const auto add = [&](absl::StatusOr<std::vector<int32_t>> ids) -> absl::Status {
    STRATA_RETURN_IF_ERROR(ids.status());
    prompts.push_back(*std::move(ids));
    return generate::CheckPrompt(config, prompts.back().size());
  };
  if (flags.has_prompt) {
    STRATA_RETURN_IF_ERROR(Annotate(add(reader.ReadPromptText(flags.prompt, form)), "--prompt"));
    return prompts;
  }
  absl::StatusOr<std::unique_ptr<data::RowSource>> rows = data::RowsOf(data::LinesOf(flags.piped), "standard input");
  if (flags.data != "-") rows = data::OpenRows(files, flags.data);
  STRATA_RETURN_IF_ERROR(rows.status());
  STRATA_RETURN_IF_ERROR(data::ForEachRow(**rows, /*skip=*/false, [&](const data::OrderedJson& row) {
                           return add(reader.ReadPrompt(row, form));
                         }).status());
  return prompts;
}

// One text alone is shown as it is written, unless it goes into JSON.
generate::GenerateEvents EventsOf(const GenerateFlags& flags, size_t num_prompts, const Interruptible& session) {
  const bool json = flags.format == "json";
  const bool streamed = num_prompts == 1 && !json;
  generate::GenerateEvents events;
  events.keep_going = [&session] { return !session.stopped(); };
  if (streamed) {
    events.on_text = [](size_t, std::string_view piece) -> absl::Status {
      STRATA_RETURN_IF_ERROR(WriteOut(piece));
      return FlushOut();
    };
  }
  events.on_done = [json, streamed](size_t, const generate::Generated& text) -> absl::Status {
    STRATA_RETURN_IF_ERROR(
        json ? WriteLine({{"text", text.text},
                          {"tokens", text.num_tokens},
                          {"finish_reason", text.finish == generate::FinishReason::kStop ? "stop" : "length"}})
             : WriteOut(streamed ? "\n" : text.text + "\n"));
    return FlushOut();
  };
  return events;
}

// Everything that can be wrong with the prompts is found before the model is loaded.
absl::Status RunGenerate(GenerateFlags flags, const config::Precision& precision, Interruptible& session) {
  runtime::Runtime runtime = session.runtime();
  STRATA_ASSIGN_OR_RETURN(std::unique_ptr<model::ModelFiles> files,
                          model::ModelFiles::Open(runtime.files, flags.model));
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<data::Tokenizer> tokenizer,
                          train::OpenTokenizerOf(runtime.files, *files));
  STRATA_ASSIGN_OR_RETURN(flags.options.end_ids, data::EndIds(runtime.files, files->path(), *tokenizer));
  STRATA_ASSIGN_OR_RETURN(const std::string chosen, data::ChosenTemplate(runtime.files, flags.chat_template));
  auto chat = data::ChatTemplate::Open(runtime.files, files->path(), chosen);
  if (!chat.ok() && !chosen.empty()) return chat.status();
  if (chat.ok()) chat->SetNow(runtime.clock.Now(), absl::LocalTimeZone());
  const data::RowReader reader{.tokenizer = tokenizer.get(),
                               .vocab_size = files->config().vocab_size,
                               .chat = chat.ok() ? &*chat : nullptr,
                               .no_chat = chat.status()};
  STRATA_ASSIGN_OR_RETURN(const Prompts prompts, ReadPrompts(flags, runtime.files, reader, files->config()));
  STRATA_ASSIGN_OR_RETURN(const at::Device device, model::ResolveDevice(flags.device));
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<model::Transformer> model,
                          model::Transformer::Load(std::move(files), precision, device, flags.threads));
  STRATA_ASSIGN_OR_RETURN(const auto factors, ReadFrozen(runtime.files, flags.adapters, *model));
  STRATA_RETURN_IF_ERROR(model->SetBase(factors, model::BaseRoute::kByDtype));
  return generate::Generate(*model, *tokenizer, prompts, flags.options, EventsOf(flags, prompts.size(), session));
}

int Run(GenerateFlags flags) {
  const auto precision = PrecisionOf(flags.dtype, flags.base_dtype, flags.device);
  if (!precision.ok()) return ReportError(precision.status(), true);
  generate::SamplingOptions& sampling = flags.options.sampling;
  const bool drawn = sampling.top_k > 0 || sampling.top_p < 1 || sampling.min_p > 0;
  sampling.temperature = flags.temperature.value_or(drawn ? 1 : 0);
  // Before signals are caught: what waits for its input ends at once.
  if (!flags.has_prompt && flags.data == "-") {
    flags.piped.assign(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
  }
  Interruptible session;
  const absl::Status status = RunGenerate(std::move(flags), *precision, session);
  if (!absl::IsCancelled(status)) return status.ok() ? 0 : ReportError(status, false);
  if (!session.stopped()) return 0;  // nobody reads any more
  ReportError(status, false);
  return session.exit_code();
}

// Checks of words that CLI11 has no check for: empty means right.
std::string CheckStop(const std::string& word) {
  if (word.empty()) return "must not be empty";
  return data::IsValidUtf8(word) ? "" : "must be UTF-8";
}

void AddTextOptions(CLI::App& command, GenerateFlags& flags) {
  generate::GenerateOptions& options = flags.options;
  command.add_option("--max-new-tokens", options.max_new_tokens, "Longest text, in tokens (default 256)")
      ->check(AtLeastOne());
  command
      .add_option(
          "--temperature", flags.temperature,
          "0: always the likeliest token; 1: as probable as the model says; more: bolder (default 0, or 1 where "
          "one of the next three is given)")
      ->check(CLI::Range(0.0, 100.0));
  command.add_option("--top-k", options.sampling.top_k, "Draw from so many of the likeliest tokens (default 0: all)");
  command
      .add_option("--top-p", options.sampling.top_p,
                  "Draw from the fewest of the likeliest tokens that have this probability together (default 1: all)")
      ->check(CLI::Range(1e-9, 1.0));
  command
      .add_option("--min-p", options.sampling.min_p,
                  "Draw from tokens at least this probable, in units of the likeliest one's (default 0: all)")
      ->check(CLI::Range(0.0, 1.0));
  command.add_option("--seed", options.seed, "Of the draws (default 0); the same seed, the same texts");
  command.add_option("--stop", options.stops, "A text ends before this string; may be given several times")
      ->take_all()
      ->expected(1)
      ->check(CheckStop);
  command.add_option("--batch-size", options.batch_size, "Texts written at a time (default 8)")->check(AtLeastOne());
}

}  // namespace

void AddGenerateCommand(CLI::App& app, CommandContext& context) {
  auto flags = std::make_shared<GenerateFlags>();
  CLI::App* command = app.add_subcommand(
      "generate", "Text behind prompts: --prompt, or lines of {\"prompt\"}, {\"messages\"} or {\"input_ids\"}");
  command->add_option("--model", flags->model, "Model folder, GGUF file, or org/name in the HF cache")->required();
  command->add_option("--adapter", flags->adapters, "PEFT folder; several add up");
  CLI::Option* prompt =
      command->add_option("--prompt", flags->prompt, "One prompt; its text is shown as it is written");
  command
      ->add_option("FILE,--data", flags->data,
                   "JSONL (also .zst) or Parquet; lines of standard input where it is left out or -")
      ->excludes(prompt);
  command->add_flag(
      "--chat", flags->chat,
      "Prompts are what a user says: they go through the chat template. Rows of {\"messages\"} always do");
  command->add_option("--chat-template", flags->chat_template,
                      "Instead of the model's: a file of Jinja, or a built-in one (" + data::BuiltinList() + ")");
  AddTextOptions(*command, *flags);
  command->add_option("--dtype", flags->dtype, "fp32 (default), bf16, or fp16 on CUDA")
      ->check(CLI::IsMember(config::kComputeDTypeWords));
  command->add_option("--base-dtype", flags->base_dtype, "fp32, bf16, fp16, int8 or nf4 (default: as --dtype)")
      ->check(CLI::IsMember(config::kBaseDTypeWords));
  command->add_option("--device", flags->device, "auto (default), cpu or cuda:N");
  command->add_option("--threads", flags->threads, "Threads that compute (default: all cores)")->check(AtLeastOne());
  command->add_option("--format", flags->format, "text, or json: lines of {\"text\", \"tokens\", \"finish_reason\"}")
      ->check(CLI::IsMember({"text", "json"}));
  command->callback([flags, prompt, &context] {
    flags->has_prompt = prompt->count() > 0;
    context.exit_code = Run(*flags);
  });
}

}  // namespace strata
