#include <functional>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "client/commands.h"
#include "client/data/chat_rows.h"
#include "client/data/chat_template.h"
#include "client/data/row_source.h"
#include "client/data/tokenizer.h"
#include "client/model/model_files.h"
#include "client/standard_output.h"
#include "common/runtime/posix_file_system.h"
#include "common/runtime/system_clock.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

using Json = nlohmann::ordered_json;

struct TokenizeOptions {
  std::string model, chat_template;
  std::string file = "-";
  bool no_special = false;
  bool skip_special = false;
};

using RowFunction = std::function<absl::StatusOr<Json>(const Json& row)>;

// Each row of the file, or line of standard input ("-").
absl::Status ForEachRow(runtime::FileSystem& files, const std::string& path,
                        const std::function<absl::Status(const data::Row& row, const std::string& place)>& function) {
  std::unique_ptr<data::RowSource> rows;
  if (path == "-") {
    rows = data::RowsOf(data::LinesOf(std::cin), "standard input");
  } else {
    STRATA_ASSIGN_OR_RETURN(rows, data::OpenRows(files, path));
  }
  while (true) {
    STRATA_ASSIGN_OR_RETURN(const std::optional<data::Row> row, rows->Next());
    if (!row.has_value()) return FlushOut();
    STRATA_RETURN_IF_ERROR(function(*row, Cat(rows->place(), ":", row->number)));
  }
}

absl::StatusOr<Json> Transform(const data::Row& row, const RowFunction& function) {
  STRATA_RETURN_IF_ERROR(row.object.status());
  return function(*row.object);
}

// Each row through `function` to standard output; the first bad one ends it.
absl::Status TransformRows(runtime::FileSystem& files, const std::string& path, const RowFunction& function) {
  return ForEachRow(files, path, [&](const data::Row& row, const std::string& place) -> absl::Status {
    const auto line = Transform(row, function);
    if (!line.ok()) return Annotate(line.status(), place);
    return WriteLine(*line);
  });
}

// Of a folder with a tokenizer.json, a GGUF file, or a model by its name in the HF cache.
absl::StatusOr<std::string> PathOf(runtime::FileSystem& files, const std::string& model) {
  const auto info = files.Stat(model);
  if (info.ok() && (!info->is_directory || files.Exists(runtime::JoinPath(model, "tokenizer.json")))) return model;
  STRATA_ASSIGN_OR_RETURN(const auto opened, model::ModelFiles::Open(files, model));
  return opened->path();
}

absl::StatusOr<data::ChatTemplate> OpenChatTemplate(runtime::FileSystem& files, const TokenizeOptions& options) {
  STRATA_ASSIGN_OR_RETURN(const std::string path, PathOf(files, options.model));
  STRATA_ASSIGN_OR_RETURN(const std::string chosen, data::ChosenTemplate(files, options.chat_template));
  STRATA_ASSIGN_OR_RETURN(data::ChatTemplate chat, data::ChatTemplate::Open(files, path, chosen));
  chat.SetNow(runtime::SystemClock().Now(), absl::LocalTimeZone());
  return chat;
}

// A conversation's labels say what of it would be learned.
absl::StatusOr<Json> TokenizeChat(const data::Tokenizer& tokenizer, const absl::StatusOr<data::ChatTemplate>& chat,
                                  const Json& row) {
  STRATA_RETURN_IF_ERROR(chat.status());
  STRATA_ASSIGN_OR_RETURN(const data::TrainedChat trained, data::TrainedChatOf(row));
  STRATA_ASSIGN_OR_RETURN(const data::Example example, data::EncodeChat(*chat, tokenizer, trained));
  return Json{{"ids", example.ids}, {"labels", example.labels}};
}

absl::StatusOr<Json> TokenizeRow(const data::Tokenizer& tokenizer, bool add_special, const Json& row) {
  const auto text = row.find("text");
  if (text == row.end() || !text->is_string()) {
    std::vector<std::string> keys;
    for (const auto& entry : row.items()) keys.push_back(entry.key());
    const std::string found = text != row.end() ? Cat("'text' is ", text->type_name())
                              : keys.empty()    ? "the row is empty"
                                                : Cat("the row has ", absl::StrJoin(keys, ", "));
    return absl::InvalidArgumentError(
        Cat("expected {\"text\": STRING}, or a conversation as train takes it; ", found.substr(0, 200)));
  }
  return Json{{"ids", tokenizer.Encode(text->get_ref<const std::string&>(), add_special)}};
}

absl::StatusOr<Json> DetokenizeRow(const data::Tokenizer& tokenizer, bool skip_special, const Json& row) {
  const auto ids = row.find("ids");
  if (ids == row.end() || !ids->is_array()) return absl::InvalidArgumentError("{\"ids\": [INTEGER..]} is expected");
  std::vector<int32_t> values;
  for (const Json& id : *ids) {
    if (!id.is_number_integer() || id < 0 || id >= tokenizer.vocab_size()) {
      return absl::InvalidArgumentError(
          Cat("id ", id.dump(), " is not in the vocabulary of ", tokenizer.vocab_size(), " tokens"));
    }
    values.push_back(id.get<int32_t>());
  }
  return Json{{"text", tokenizer.Decode(values, skip_special)}};
}

absl::Status Run(const TokenizeOptions& options, bool decode) {
  runtime::PosixFileSystem files;
  STRATA_ASSIGN_OR_RETURN(const std::string path, PathOf(files, options.model));
  STRATA_ASSIGN_OR_RETURN(const auto tokenizer, data::OpenTokenizer(files, path));
  absl::StatusOr<data::ChatTemplate> chat = absl::NotFoundError("not looked for");
  if (!decode) chat = OpenChatTemplate(files, options);
  const absl::Status status = TransformRows(files, options.file, [&](const Json& row) {
    if (decode) return DetokenizeRow(*tokenizer, options.skip_special, row);
    const bool chat_row = row.contains("messages") || (row.contains("completion") && row["completion"].is_array());
    if (chat_row) return TokenizeChat(*tokenizer, chat, row);
    return TokenizeRow(*tokenizer, !options.no_special, row);
  });
  return absl::IsCancelled(status) ? absl::OkStatus() : status;
}

absl::StatusOr<Json> RenderRow(const data::ChatTemplate& chat, const Json& row) {
  const auto prompt = row.find("add_generation_prompt");
  if (prompt != row.end() && !prompt->is_boolean()) {
    return absl::InvalidArgumentError("'add_generation_prompt' must be true or false");
  }
  STRATA_ASSIGN_OR_RETURN(std::string text, chat.Render(row, prompt != row.end() && prompt->get<bool>()));
  return Json{{"text", std::move(text)}};
}

// A row that cannot be rendered is an {"error"} in its place, and a failure at the end.
absl::Status RunRender(const TokenizeOptions& options, CommandContext& context) {
  runtime::PosixFileSystem files;
  STRATA_ASSIGN_OR_RETURN(const data::ChatTemplate chat, OpenChatTemplate(files, options));
  const absl::Status status =
      ForEachRow(files, options.file, [&](const data::Row& row, const std::string& place) -> absl::Status {
        const auto line = Transform(row, [&](const Json& json) { return RenderRow(chat, json); });
        if (line.ok()) return WriteLine(*line);
        context.exit_code = ReportError(Annotate(line.status(), place), false);
        return WriteLine(Json{{"error", std::string(line.status().message())}});
      });
  return absl::IsCancelled(status) ? absl::OkStatus() : status;
}

constexpr char kModelHelp[] = "Folder with tokenizer.json, GGUF file, or org/name in the HF cache";
constexpr char kFileHelp[] = "JSONL (also .zst) or Parquet; lines of standard input where it is left out or -";

void AddTemplateOption(CLI::App& command, TokenizeOptions& options) {
  command.add_option("--chat-template", options.chat_template,
                     "Instead of the model's: a file of Jinja, or a built-in one (" + data::BuiltinList() + ")");
}

void AddRenderCommand(CLI::App& app, CommandContext& context) {
  auto options = std::make_shared<TokenizeOptions>();
  CLI::App* command = app.add_subcommand(
      "render",
      "Conversations to text by the model's chat template: lines of {\"messages\", \"add_generation_prompt\"} become "
      "lines of {\"text\"}");
  command->add_option("--model", options->model, kModelHelp)->required();
  AddTemplateOption(*command, *options);
  command->add_option("FILE,--data", options->file, kFileHelp);
  command->callback([options, &context] {
    const absl::Status status = RunRender(*options, context);
    if (!status.ok()) context.exit_code = ReportError(status, false);
  });
}

}  // namespace

void AddTokenizeCommands(CLI::App& app, CommandContext& context) {
  AddRenderCommand(app, context);
  for (const bool decode : {false, true}) {
    auto options = std::make_shared<TokenizeOptions>();
    CLI::App* command =
        decode ? app.add_subcommand("detokenize", "Ids to text: lines of {\"ids\"} become lines of {\"text\"}")
               : app.add_subcommand(
                     "tokenize",
                     "Text to ids: lines of {\"text\"} become lines of {\"ids\"}, conversations (as for train) of "
                     "{\"ids\", \"labels\"}");
    command->add_option("--model", options->model, kModelHelp)->required();
    if (decode) {
      command->add_flag("--skip-special", options->skip_special, "Leave special tokens out of the text");
    } else {
      AddTemplateOption(*command, *options);
      command->add_flag("--no-special", options->no_special, "Add no BOS, EOS or other special tokens");
    }
    command->add_option("FILE", options->file, kFileHelp);
    command->callback([options, decode, &context] {
      const absl::Status status = Run(*options, decode);
      if (!status.ok()) context.exit_code = ReportError(status, false);
    });
  }
}

}  // namespace strata
