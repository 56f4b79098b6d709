#include <cerrno>
#include <cstdio>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "client/commands.h"
#include "client/data/tokenizer.h"
#include "client/model/model_files.h"
#include "common/runtime/posix_file_system.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

using Json = nlohmann::json;

struct TokenizeOptions {
  std::string model;
  std::string file = "-";
  bool no_special = false;
  bool skip_special = false;
};

// Nobody reads any more: no failure of ours.
absl::Status ClosedPipe() { return absl::CancelledError("standard output was closed"); }

absl::Status WriteLine(const Json& row) {
  // In ASCII: many readers take U+2028 or U+0085 for the end of a line.
  std::string line = row.dump(-1, ' ', true, Json::error_handler_t::replace);
  line += '\n';
  errno = 0;
  if (std::fwrite(line.data(), 1, line.size(), stdout) == line.size()) return absl::OkStatus();
  return errno == EPIPE ? ClosedPipe() : absl::DataLossError("cannot write to standard output");
}

absl::Status Flush() {
  errno = 0;
  if (std::fflush(stdout) == 0) return absl::OkStatus();
  return errno == EPIPE ? ClosedPipe() : absl::DataLossError("cannot write to standard output");
}

using RowFunction = std::function<absl::StatusOr<Json>(const Json& row)>;

absl::Status TransformLine(std::string_view line, const std::string& place, const RowFunction& function) {
  if (line.find_first_not_of(" \t\r") == std::string_view::npos) return absl::OkStatus();
  Json row;
  try {
    row = Json::parse(line.begin(), line.end());
  } catch (const Json::exception&) {
    return absl::InvalidArgumentError(Cat(place, ": no valid JSON"));
  }
  if (!row.is_object()) return absl::InvalidArgumentError(Cat(place, ": an object is expected"));
  const auto result = function(row);
  if (!result.ok()) return Annotate(result.status(), place);
  return WriteLine(*result);
}

// Each line of the file ("-": standard input) through `function` to standard output.
absl::Status TransformLines(runtime::FileSystem& files, const std::string& path, const RowFunction& function) {
  uint64_t number = 0;
  if (path == "-") {
    for (std::string line; std::getline(std::cin, line);) {
      STRATA_RETURN_IF_ERROR(TransformLine(line, Cat("standard input:", ++number), function));
    }
    return Flush();
  }
  STRATA_ASSIGN_OR_RETURN(const auto mapping, files.Map(path));
  std::string_view text(reinterpret_cast<const char*>(mapping->bytes().data()), mapping->bytes().size());
  while (!text.empty()) {
    const size_t end = text.find('\n');
    STRATA_RETURN_IF_ERROR(TransformLine(text.substr(0, end), Cat(path, ":", ++number), function));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return Flush();
}

// Of a folder with a tokenizer.json, a GGUF file, or a model by its name in the HF cache.
absl::StatusOr<std::unique_ptr<data::Tokenizer>> OpenTokenizerOf(runtime::FileSystem& files, const std::string& model) {
  const auto info = files.Stat(model);
  if (info.ok() && (!info->is_directory || files.Exists(runtime::JoinPath(model, "tokenizer.json")))) {
    return data::OpenTokenizer(files, model);
  }
  STRATA_ASSIGN_OR_RETURN(const auto opened, model::ModelFiles::Open(files, model));
  return data::OpenTokenizer(files, opened->path());
}

absl::StatusOr<Json> TokenizeRow(const data::Tokenizer& tokenizer, bool add_special, const Json& row) {
  const auto text = row.find("text");
  if (text == row.end() || !text->is_string()) return absl::InvalidArgumentError("{\"text\": STRING} is expected");
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
  STRATA_ASSIGN_OR_RETURN(const auto tokenizer, OpenTokenizerOf(files, options.model));
  const absl::Status status = TransformLines(files, options.file, [&](const Json& row) {
    return decode ? DetokenizeRow(*tokenizer, options.skip_special, row)
                  : TokenizeRow(*tokenizer, !options.no_special, row);
  });
  return absl::IsCancelled(status) ? absl::OkStatus() : status;
}

}  // namespace

void AddTokenizeCommands(CLI::App& app, CommandContext& context) {
  for (const bool decode : {false, true}) {
    auto options = std::make_shared<TokenizeOptions>();
    CLI::App* command =
        decode ? app.add_subcommand("detokenize", "Ids to text: lines of {\"ids\"} become lines of {\"text\"}")
               : app.add_subcommand("tokenize", "Text to ids: lines of {\"text\"} become lines of {\"ids\"}");
    command->add_option("--model", options->model, "Folder with tokenizer.json, GGUF file, or org/name in the HF cache")
        ->required();
    if (decode) {
      command->add_flag("--skip-special", options->skip_special, "Leave special tokens out of the text");
    } else {
      command->add_flag("--no-special", options->no_special, "Add no BOS, EOS or other special tokens");
    }
    command->add_option("FILE", options->file, "JSONL file; standard input where it is left out or -");
    command->callback([options, decode, &context] {
      const absl::Status status = Run(*options, decode);
      if (!status.ok()) context.exit_code = ReportError(status, false);
    });
  }
}

}  // namespace strata
