#include <utility>

#include "absl/strings/match.h"
#include "client/data/bpe_tokenizer.h"
#include "client/data/json_fields.h"
#include "client/data/tokenizer.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::data {
namespace {

// The file's content, empty where it does not exist.
absl::StatusOr<std::string> ReadIfThere(runtime::FileSystem& files, const std::string& path) {
  auto content = files.ReadFile(path);
  if (absl::IsNotFound(content.status())) return std::string();
  return content;
}

// eos_token_id of a config.json: a number, or the first of a list.
absl::StatusOr<std::optional<int32_t>> EosOfConfig(runtime::FileSystem& files, const std::string& path,
                                                   const TokenizerParts& parts) {
  STRATA_ASSIGN_OR_RETURN(const std::string text, ReadIfThere(files, path));
  if (text.empty()) return std::optional<int32_t>();
  STRATA_ASSIGN_OR_RETURN(const Json document, ParseJson(text, path));
  STRATA_ASSIGN_OR_RETURN(const Fields config, Fields::Of(document, path));
  const Json* eos = config.Find("eos_token_id");
  if (eos != nullptr && eos->is_array() && !eos->empty()) eos = &(*eos)[0];
  if (eos == nullptr || !eos->is_number_integer()) return std::optional<int32_t>();
  const bool known =
      *eos >= 0 && *eos < Bpe::kMaxId &&
      (parts.bpe->Token(eos->get<int32_t>()) != nullptr || parts.added.Find(eos->get<int32_t>()) != nullptr);
  if (!known) return config.Fault(Cat("eos_token_id ", eos->dump(), " is no token of tokenizer.json"));
  return std::optional<int32_t>(eos->get<int32_t>());
}

absl::StatusOr<std::unique_ptr<Tokenizer>> OpenFolder(runtime::FileSystem& files, const std::string& folder) {
  const std::string path = runtime::JoinPath(folder, "tokenizer.json");
  STRATA_ASSIGN_OR_RETURN(const std::string json, files.ReadFile(path));
  STRATA_ASSIGN_OR_RETURN(const std::string config,
                          ReadIfThere(files, runtime::JoinPath(folder, "tokenizer_config.json")));
  STRATA_ASSIGN_OR_RETURN(TokenizerParts parts, ParseTokenizerParts(json, config, path));
  for (const char* name : {"config.json", "generation_config.json"}) {
    if (parts.eos.has_value()) break;
    STRATA_ASSIGN_OR_RETURN(parts.eos, EosOfConfig(files, runtime::JoinPath(folder, name), parts));
  }
  return JoinTokenizer(std::move(parts));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> OpenTokenizer(runtime::FileSystem& files, const std::string& path) {
  STRATA_ASSIGN_OR_RETURN(const runtime::FileInfo info, files.Stat(path));
  if (info.is_directory) return OpenFolder(files, path);
  if (absl::EndsWith(path, ".json")) {
    STRATA_ASSIGN_OR_RETURN(const std::string json, files.ReadFile(path));
    return ParseTokenizerJson(json, "", path);
  }
  STRATA_ASSIGN_OR_RETURN(const format::Gguf gguf, format::Gguf::Open(files, path));
  return TokenizerFromGguf(gguf, path);
}

}  // namespace strata::data
