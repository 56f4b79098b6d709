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

absl::Status NoToken(const std::string& path, const std::string& id) {
  return absl::InvalidArgumentError(Cat(path, ": eos_token_id ", id, " is no token of tokenizer.json"));
}

// eos_token_id of a config.json: a number, or a list of them. Empty: it says none.
absl::StatusOr<std::vector<int32_t>> EosOfConfig(runtime::FileSystem& files, const std::string& path) {
  std::vector<int32_t> ids;
  STRATA_ASSIGN_OR_RETURN(const std::string text, ReadIfThere(files, path));
  if (text.empty()) return ids;
  STRATA_ASSIGN_OR_RETURN(const Json document, ParseJson(text, path));
  STRATA_ASSIGN_OR_RETURN(const Fields config, Fields::Of(document, path));
  const Json* eos = config.Find("eos_token_id");
  if (eos == nullptr) return ids;
  for (const Json& id : eos->is_array() ? *eos : Json::array({*eos})) {
    if (!id.is_number_integer()) continue;
    if (id < 0 || id >= Bpe::kMaxId) return NoToken(path, id.dump());
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> OpenFolder(runtime::FileSystem& files, const std::string& folder) {
  const std::string path = runtime::JoinPath(folder, "tokenizer.json");
  STRATA_ASSIGN_OR_RETURN(const std::string json, files.ReadFile(path));
  STRATA_ASSIGN_OR_RETURN(const std::string config,
                          ReadIfThere(files, runtime::JoinPath(folder, "tokenizer_config.json")));
  STRATA_ASSIGN_OR_RETURN(TokenizerParts parts, ParseTokenizerParts(json, config, path));
  for (const char* name : {"config.json", "generation_config.json"}) {
    if (parts.eos.has_value()) break;
    const std::string config_path = runtime::JoinPath(folder, name);
    STRATA_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, EosOfConfig(files, config_path));
    if (ids.empty()) continue;
    if (parts.bpe->Token(ids[0]) == nullptr && parts.added.Find(ids[0]) == nullptr) {
      return NoToken(config_path, Cat(ids[0]));
    }
    parts.eos = ids[0];
  }
  return JoinTokenizer(std::move(parts));
}

absl::StatusOr<std::vector<int32_t>> EndIdsOfFolder(runtime::FileSystem& files, const std::string& folder) {
  for (const char* name : {"generation_config.json", "config.json"}) {
    STRATA_ASSIGN_OR_RETURN(std::vector<int32_t> ids, EosOfConfig(files, runtime::JoinPath(folder, name)));
    if (!ids.empty()) return ids;
  }
  return std::vector<int32_t>();
}

absl::StatusOr<std::vector<int32_t>> EndIdsOfGguf(runtime::FileSystem& files, const std::string& path) {
  STRATA_ASSIGN_OR_RETURN(const format::Gguf gguf, format::Gguf::Open(files, path));
  std::vector<int32_t> ids;
  for (const char* key : {"eos", "eot", "eom"}) {
    const auto id = gguf.GetUint(Cat("tokenizer.ggml.", key, "_token_id"));
    if (id.ok() && *id < Bpe::kMaxId) ids.push_back(static_cast<int32_t>(*id));
  }
  return ids;
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> EndIds(runtime::FileSystem& files, const std::string& path,
                                            const Tokenizer& tokenizer) {
  STRATA_ASSIGN_OR_RETURN(const runtime::FileInfo info, files.Stat(path));
  STRATA_ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                          info.is_directory ? EndIdsOfFolder(files, path) : EndIdsOfGguf(files, path));
  if (ids.empty() && tokenizer.eos_id().has_value()) ids.push_back(*tokenizer.eos_id());
  return ids;
}

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
