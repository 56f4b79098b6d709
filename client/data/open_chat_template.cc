#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "client/data/chat_template.h"
#include "client/data/json_fields.h"
#include "common/config/chat_templates.h"
#include "common/format/gguf.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::data {
namespace {

// A model's templates by name ("default", "tool_use") and the texts of its special tokens.
struct Found {
  std::vector<std::pair<std::string, std::string>> sources;
  ChatTemplate::SpecialTokens tokens;
  std::string place;
};

void AddTokens(const Json& config, ChatTemplate::SpecialTokens& tokens) {
  for (auto it = config.begin(); it != config.end(); ++it) {
    if (!absl::EndsWith(it.key(), "_token")) continue;
    const Json& value = it.value().is_object() ? it.value().value("content", Json()) : it.value();
    const auto same = [&](const auto& token) { return token.first == it.key(); };
    if (!value.is_string() || std::any_of(tokens.begin(), tokens.end(), same)) continue;
    tokens.emplace_back(it.key(), value.get<std::string>());
  }
}

// "chat_template": one source, or a list of {"name", "template"}.
absl::Status AddSources(const Fields& config, Found& found) {
  const Json* sources = config.Find("chat_template");
  if (sources == nullptr) return absl::OkStatus();
  if (!sources->is_array()) {
    STRATA_ASSIGN_OR_RETURN(std::string source, config.String("chat_template"));
    found.sources.emplace_back("default", std::move(source));
    return absl::OkStatus();
  }
  STRATA_ASSIGN_OR_RETURN(const std::vector<Fields> list, config.Objects("chat_template"));
  for (const Fields& entry : list) {
    STRATA_ASSIGN_OR_RETURN(std::string name, entry.String("name"));
    STRATA_ASSIGN_OR_RETURN(std::string source, entry.String("template"));
    found.sources.emplace_back(std::move(name), std::move(source));
  }
  return absl::OkStatus();
}

absl::StatusOr<Found> FromFolder(runtime::FileSystem& files, const std::string& folder) {
  Found found;
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    const std::string path = runtime::JoinPath(folder, name);
    if (!files.Exists(path)) continue;
    STRATA_ASSIGN_OR_RETURN(const std::string text, files.ReadFile(path));
    STRATA_ASSIGN_OR_RETURN(const Json document, ParseJson(text, path));
    STRATA_ASSIGN_OR_RETURN(const Fields config, Fields::Of(document, path));
    AddTokens(document, found.tokens);
    if (found.place.empty()) STRATA_RETURN_IF_ERROR(AddSources(config, found));
    found.place = path + ": chat_template";
  }
  const std::string path = runtime::JoinPath(folder, "chat_template.jinja");
  if (files.Exists(path)) {
    STRATA_ASSIGN_OR_RETURN(std::string source, files.ReadFile(path));
    found.sources = {{"default", std::move(source)}};
    found.place = path;
  }
  return found;
}

absl::StatusOr<Found> FromGguf(runtime::FileSystem& files, const std::string& path) {
  STRATA_ASSIGN_OR_RETURN(const format::Gguf gguf, format::Gguf::Open(files, path));
  Found found;
  found.place = path + ": tokenizer.chat_template";
  const auto source = gguf.GetString("tokenizer.chat_template");
  if (!source.ok() && !absl::IsNotFound(source.status())) return Annotate(source.status(), path);
  if (source.ok()) found.sources.emplace_back("default", *source);
  const auto tokens = gguf.GetStrings("tokenizer.ggml.tokens");
  for (const auto& [key, name] :
       {std::pair("bos", "bos_token"), {"eos", "eos_token"}, {"unknown", "unk_token"}, {"padding", "pad_token"}}) {
    const auto id = gguf.GetUint(Cat("tokenizer.ggml.", key, "_token_id"));
    if (tokens.ok() && id.ok() && *id < tokens->size()) found.tokens.emplace_back(name, (*tokens)[*id]);
  }
  return found;
}

absl::StatusOr<Found> Look(runtime::FileSystem& files, const std::string& model) {
  STRATA_ASSIGN_OR_RETURN(const runtime::FileInfo info, files.Stat(model));
  if (info.is_directory) return FromFolder(files, model);
  if (absl::EndsWith(model, ".json")) return FromFolder(files, runtime::DirName(model));
  return FromGguf(files, model);
}

// A chosen template is a name of ours, or a source.
absl::Status Choose(std::string_view chosen, Found& found) {
  const bool is_source = config::IsJinja(chosen);
  const std::string_view source = is_source ? chosen : BuiltinSource(chosen);
  if (source.empty()) {
    return absl::InvalidArgumentError(
        Cat("chat_template '", chosen, "' is not known; expected Jinja source or one of ", BuiltinList()));
  }
  found.sources = {{"default", std::string(source)}};
  found.place = is_source ? "chat_template" : Cat("chat_template ", chosen);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ChosenTemplate(runtime::FileSystem& files, const std::string& word) {
  if (word.empty() || !BuiltinSource(word).empty()) return word;
  if (!files.Exists(word)) {
    return absl::NotFoundError(Cat("chat template '", word, "' is no file, and none of ", BuiltinList()));
  }
  STRATA_ASSIGN_OR_RETURN(std::string source, files.ReadFile(word));
  // What says nothing of a conversation is a template all the same, not the name of one.
  return config::IsJinja(source) ? source : "{{ '' }}" + source;
}

absl::StatusOr<ChatTemplate> ChatTemplate::Open(runtime::FileSystem& files, const std::string& model,
                                                std::string_view chosen) {
  STRATA_ASSIGN_OR_RETURN(Found found, Look(files, model));
  if (!chosen.empty()) STRATA_RETURN_IF_ERROR(Choose(chosen, found));
  const auto named = [&](std::string_view name) -> const std::string* {
    for (const auto& [known, source] : found.sources) {
      if (known == name) return &source;
    }
    return nullptr;
  };
  const std::string* source = named("default");
  if (source == nullptr) {
    return absl::NotFoundError(Cat(model, ": the model has no chat template; name one in `chat_template`"));
  }
  STRATA_ASSIGN_OR_RETURN(ChatTemplate chat, Parse(*source, found.place, std::move(found.tokens)));
  if (const std::string* tools = named("tool_use"); tools != nullptr) {
    STRATA_ASSIGN_OR_RETURN(chat.with_tools_, jinja::Template::Parse(*tools, found.place + " (tool_use)"));
  }
  return chat;
}

}  // namespace strata::data
