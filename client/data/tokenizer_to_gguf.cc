#include "client/data/tokenizer_to_gguf.h"

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "client/data/gguf_steps.h"
#include "client/data/tokenizer.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::data {
namespace {

using format::GgufMetadata;
using runtime::JoinPath;

struct Vocabulary {
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  std::map<std::string, int32_t, std::less<>> ids;
};

bool IsByteToken(std::string_view token) {
  return token.size() == 6 && token.starts_with("<0x") && token.back() == '>' &&
         token.find_first_not_of("0123456789ABCDEFabcdef", 3) == 5;
}

// The tokens by id; the tokenizer was parsed before, so names and ids are of their types and in range.
absl::StatusOr<Vocabulary> VocabularyOf(const Json& tokenizer, int64_t vocab_size, bool scored) {
  Vocabulary out;
  for (const auto& [token, id] : tokenizer["model"]["vocab"].items()) out.ids[token] = id.get<int32_t>();
  for (const Json& added : tokenizer.value("added_tokens", Json::array())) {
    out.ids[added["content"].get<std::string>()] = added["id"].get<int32_t>();
  }
  for (const auto& [token, id] : out.ids) {
    if (id >= vocab_size) {
      return absl::InvalidArgumentError(
          Cat("token '", token, "' has id ", id, ", the model's embedding has ", vocab_size, " rows"));
    }
  }
  out.tokens.resize(static_cast<size_t>(vocab_size));
  out.types.assign(static_cast<size_t>(vocab_size), kUnused);
  for (const auto& [token, id] : out.ids) {
    out.tokens[static_cast<size_t>(id)] = token;
    out.types[static_cast<size_t>(id)] = scored && IsByteToken(token) ? kByte : kNormal;
  }
  for (const Json& added : tokenizer.value("added_tokens", Json::array())) {
    out.types[added["id"].get<size_t>()] = added.value("special", false) ? kControl : kUserDefined;
  }
  for (size_t id = 0; id < out.tokens.size(); ++id) {
    if (out.types[id] == kUnused) out.tokens[id] = Cat("[PAD", id, "]");
  }
  const Json unk = tokenizer["model"].value("unk_token", Json());
  if (scored && unk.is_string() && out.ids.contains(unk.get<std::string>())) {
    out.types[static_cast<size_t>(out.ids[unk.get<std::string>()])] = kUnknown;
  }
  return out;
}

// Old files write a merge as "a b", new ones as ["a", "b"].
std::pair<std::string, std::string> MergeOf(const Json& merge) {
  if (merge.is_array()) return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  const auto text = merge.get<std::string>();
  const size_t space = text.find(' ');
  return {text.substr(0, space), text.substr(space + 1)};
}

std::vector<std::string> MergesOf(const Json& model) {
  std::vector<std::string> merges;
  for (const Json& merge : model["merges"]) {
    const auto [left, right] = MergeOf(merge);
    merges.push_back(Cat(left, " ", right));
  }
  return merges;
}

// A reader joins the two pieces whose whole has the highest score first: the earlier a merge, the higher. Pieces that
// no merge makes follow in order of their ids, as sentencepiece numbers them.
std::vector<float> ScoresOf(const Json& model, const Vocabulary& vocabulary) {
  constexpr float kNone = 1;
  std::vector<float> scores(vocabulary.tokens.size(), kNone);
  float next = 0;
  for (const Json& merge : model["merges"]) {
    const auto [left, right] = MergeOf(merge);
    const auto whole = vocabulary.ids.find(left + right);
    if (whole == vocabulary.ids.end() || scores[static_cast<size_t>(whole->second)] != kNone) continue;
    scores[static_cast<size_t>(whole->second)] = next;
    next -= 1;
  }
  for (size_t id = 0; id < scores.size(); ++id) {
    if (scores[id] != kNone) continue;
    const bool ordinary = vocabulary.types[id] == kNormal;
    scores[id] = ordinary ? next : 0;
    if (ordinary) next -= 1;
  }
  return scores;
}

// Whether "a" becomes "▁a": by what the tokenizer does.
bool AddsSpace(const Tokenizer& tokenizer, const Vocabulary& vocabulary) {
  const std::vector<int32_t> ids = tokenizer.Encode("a", false);
  return !ids.empty() && vocabulary.tokens[static_cast<size_t>(ids.front())].starts_with("\xe2\x96\x81");
}

void SetId(std::string_view name, std::optional<int32_t> id, GgufMetadata& metadata) {
  if (id.has_value()) metadata.SetUint(Cat("tokenizer.ggml.", name, "_token_id"), static_cast<uint32_t>(*id));
}

// A special token that tokenizer_config.json names: a string, or an object with `content`.
std::optional<int32_t> Named(const Json& config, const char* key, const Vocabulary& vocabulary) {
  const Json token = config.is_object() ? config.value(key, Json()) : Json();
  const Json& content = token.is_object() && token.contains("content") ? token["content"] : token;
  const auto it = content.is_string() ? vocabulary.ids.find(content.get<std::string>()) : vocabulary.ids.end();
  return it == vocabulary.ids.end() ? std::nullopt : std::optional(it->second);
}

std::string ChatTemplate(runtime::FileSystem& files, const std::string& directory, const Json& config) {
  if (auto text = files.ReadFile(JoinPath(directory, "chat_template.jinja")); text.ok()) return *std::move(text);
  const Json chat = config.is_object() ? config.value("chat_template", Json()) : Json();
  if (chat.is_string()) return chat.get<std::string>();
  for (const Json& named : chat.is_array() ? chat : Json::array()) {
    if (named.is_object() && named.value("name", Json()) == "default" && named.value("template", Json()).is_string()) {
      return named["template"].get<std::string>();
    }
  }
  return "";
}

void SetSpecial(const Tokenizer& tokenizer, const Json& config, const Vocabulary& vocabulary, GgufMetadata& metadata) {
  SetId("bos", tokenizer.bos_id(), metadata);
  SetId("eos", tokenizer.eos_id(), metadata);
  SetId("unknown", Named(config, "unk_token", vocabulary), metadata);
  SetId("padding", Named(config, "pad_token", vocabulary), metadata);
  const std::vector<int32_t> added = tokenizer.Encode("", true);
  const auto first = added.empty() ? std::nullopt : std::optional(added.front());
  const auto last = added.empty() ? std::nullopt : std::optional(added.back());
  metadata.SetBool("tokenizer.ggml.add_bos_token", first.has_value() && first == tokenizer.bos_id());
  metadata.SetBool("tokenizer.ggml.add_eos_token", last.has_value() && last == tokenizer.eos_id());
}

absl::Status SetModel(const Json& json, const Tokenizer& tokenizer, const Json& config, int64_t vocab_size,
                      GgufMetadata& metadata) {
  const Json& model = json["model"];
  if (model.value("type", Json("BPE")) != "BPE") {
    return absl::UnimplementedError(Cat("a tokenizer of type ", model["type"].dump(), " is not written; BPE is"));
  }
  const Json fallback = model.value("byte_fallback", Json());
  const bool scored = fallback.is_boolean() && fallback.get<bool>();
  STRATA_ASSIGN_OR_RETURN(const Vocabulary vocabulary, VocabularyOf(json, vocab_size, scored));
  metadata.SetString("tokenizer.ggml.model", scored ? "llama" : "gpt2");
  if (scored) {
    metadata.SetString("tokenizer.ggml.pre", "default");
    metadata.SetFloats("tokenizer.ggml.scores", ScoresOf(model, vocabulary));
    metadata.SetBool("tokenizer.ggml.add_space_prefix", AddsSpace(tokenizer, vocabulary));
  } else {
    STRATA_ASSIGN_OR_RETURN(const std::string pre, ByteLevelGgufName(json));
    metadata.SetString("tokenizer.ggml.pre", pre);
    metadata.SetStrings("tokenizer.ggml.merges", MergesOf(model));
  }
  metadata.SetStrings("tokenizer.ggml.tokens", vocabulary.tokens);
  metadata.SetInts("tokenizer.ggml.token_type", vocabulary.types);
  SetSpecial(tokenizer, config, vocabulary, metadata);
  return absl::OkStatus();
}

}  // namespace

absl::Status TokenizerToGguf(runtime::FileSystem& files, const std::string& directory, int64_t vocab_size,
                             format::GgufMetadata& metadata) {
  const std::string path = JoinPath(directory, "tokenizer.json");
  if (!files.Exists(path)) {
    metadata.SetString("tokenizer.ggml.model", "none");
    return absl::OkStatus();
  }
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, OpenTokenizer(files, directory));
  STRATA_ASSIGN_OR_RETURN(const std::string text, files.ReadFile(path));
  STRATA_ASSIGN_OR_RETURN(const Json json, ParseJson(text, path));
  const std::string config_text = files.ReadFile(JoinPath(directory, "tokenizer_config.json")).value_or("");
  const Json config = Json::parse(config_text, nullptr, /*allow_exceptions=*/false);
  STRATA_RETURN_IF_ERROR(Annotate(SetModel(json, *tokenizer, config, vocab_size, metadata), path));
  const std::string chat = ChatTemplate(files, directory, config);
  if (!chat.empty()) metadata.SetString("tokenizer.chat_template", chat);
  return absl::OkStatus();
}

}  // namespace strata::data
