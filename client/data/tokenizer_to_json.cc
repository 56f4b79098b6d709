#include "client/data/tokenizer_to_json.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "client/data/gguf_steps.h"
#include "client/data/tokenizer.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::data {
namespace {

using format::Gguf;

struct Token {
  std::string text;
  int type = kNormal;
};

// The tokenizer was read before, so keys that must be there are, and of their types.
std::vector<Token> TokensOf(const Gguf& gguf) {
  const std::vector<std::string> texts = gguf.GetStrings("tokenizer.ggml.tokens").value_or(std::vector<std::string>());
  const std::vector<double> types = gguf.GetNumbers("tokenizer.ggml.token_type").value_or(std::vector<double>());
  std::vector<Token> tokens;
  for (size_t id = 0; id < texts.size(); ++id) {
    tokens.push_back({texts[id], id < types.size() ? static_cast<int>(types[id]) : kNormal});
  }
  return tokens;
}

// Every split of a piece into two others is a merge, the best piece's first: what sentencepiece does, as rules.
Json MergesOfScores(const Gguf& gguf, const std::vector<Token>& tokens) {
  const std::vector<double> scores = gguf.GetNumbers("tokenizer.ggml.scores").value_or(std::vector<double>());
  std::unordered_map<std::string_view, size_t> ids;
  std::vector<size_t> order;
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (tokens[id].type != kNormal) continue;
    ids.emplace(tokens[id].text, id);
    order.push_back(id);
  }
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  Json merges = Json::array();
  for (const size_t id : order) {
    const std::string_view text = tokens[id].text;
    std::vector<std::pair<size_t, size_t>> splits;
    for (size_t cut = 1; cut < text.size(); ++cut) {
      const auto left = ids.find(text.substr(0, cut));
      const auto right = ids.find(text.substr(cut));
      if (left != ids.end() && right != ids.end()) splits.emplace_back(left->second, right->second);
    }
    std::sort(splits.begin(), splits.end());
    for (const auto& [left, right] : splits) merges.push_back({tokens[left].text, tokens[right].text});
  }
  return merges;
}

Json MergesOf(const Gguf& gguf) {
  Json merges = Json::array();
  for (const std::string& merge : gguf.GetStrings("tokenizer.ggml.merges").value_or(std::vector<std::string>())) {
    const size_t space = merge.find(' ');
    merges.push_back({merge.substr(0, space), merge.substr(space + 1)});
  }
  return merges;
}

// What is put around a text, for the post-processor.
Json TemplateOf(const std::vector<int32_t>& before, const std::vector<int32_t>& after,
                const std::vector<Token>& tokens) {
  Json single = Json::array();
  Json special = Json::object();
  const auto add = [&](int32_t id) {
    const std::string& text = tokens[static_cast<size_t>(id)].text;
    single.push_back({{"SpecialToken", {{"id", text}, {"type_id", 0}}}});
    special[text] = {{"id", text}, {"ids", {id}}, {"tokens", {text}}};
  };
  std::for_each(before.begin(), before.end(), add);
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  std::for_each(after.begin(), after.end(), add);
  Json pair = single;
  pair.push_back({{"Sequence", {{"id", "B"}, {"type_id", 1}}}});
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", special}};
}

Json PostProcessor(const Tokenizer& tokenizer, const std::vector<Token>& tokens) {
  std::vector<int32_t> before = tokenizer.Encode("", true);
  std::vector<int32_t> after;
  if (!before.empty() && tokenizer.eos_id() == before.back() &&
      (before.size() > 1 || tokenizer.bos_id() != tokenizer.eos_id())) {
    after.push_back(before.back());
    before.pop_back();
  }
  return before.empty() && after.empty() ? Json() : TemplateOf(before, after, tokens);
}

Json ModelOf(const Gguf& gguf, const std::vector<Token>& tokens, bool scored, const GgufSteps& steps) {
  Json vocab = Json::object();
  for (size_t id = 0; id < tokens.size(); ++id) vocab[tokens[id].text] = id;
  const uint64_t unk = gguf.GetUint("tokenizer.ggml.unknown_token_id").value_or(0);
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", scored && unk < tokens.size() ? Json(tokens[unk].text) : Json()},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", scored},
          {"byte_fallback", scored},
          {"ignore_merges", !scored && steps.ignore_merges},
          {"vocab", std::move(vocab)},
          {"merges", scored ? MergesOfScores(gguf, tokens) : MergesOf(gguf)}};
}

Json AddedTokens(const std::vector<Token>& tokens) {
  Json added = Json::array();
  for (size_t id = 0; id < tokens.size(); ++id) {
    const bool special = tokens[id].type == kControl || tokens[id].type == kUnknown;
    if ((!special && tokens[id].type != kUserDefined) || tokens[id].text.empty()) continue;
    added.push_back({{"id", id},
                     {"content", tokens[id].text},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", special}});
  }
  return added;
}

Json ConfigOf(const Gguf& gguf, const Tokenizer& tokenizer, const std::vector<Token>& tokens) {
  Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
  const auto set = [&](const char* key, std::optional<uint64_t> id) {
    if (id.has_value() && *id < tokens.size()) config[key] = tokens[*id].text;
  };
  const auto id_of = [&](const char* key) -> std::optional<uint64_t> {
    const auto id = gguf.GetUint(key);
    return id.ok() ? std::optional(*id) : std::nullopt;
  };
  set("bos_token", tokenizer.bos_id());
  set("eos_token", tokenizer.eos_id());
  set("unk_token", id_of("tokenizer.ggml.unknown_token_id"));
  set("pad_token", id_of("tokenizer.ggml.padding_token_id"));
  return config;
}

}  // namespace

absl::StatusOr<std::map<std::string, std::string>> TokenizerFilesOfGguf(const Gguf& gguf, std::string_view place) {
  std::map<std::string, std::string> files;
  const std::string model = gguf.GetString("tokenizer.ggml.model").value_or("none");
  if (model == "none" || model == "no_vocab") return files;
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, TokenizerFromGguf(gguf, place));
  const std::vector<Token> tokens = TokensOf(gguf);
  const bool scored = model == "llama";
  const std::string pre = gguf.GetString("tokenizer.ggml.pre").value_or("default");
  STRATA_ASSIGN_OR_RETURN(const GgufSteps steps, ByteLevelGgufSteps(scored ? "default" : pre));
  const bool space = gguf.GetBool("tokenizer.ggml.add_space_prefix").value_or(true);
  Json root = scored ? SentencepieceGgufSteps(space) : steps.steps;
  for (const char* key : {"normalizer", "pre_tokenizer"}) {
    if (!root.contains(key)) root[key] = nullptr;
  }
  root["version"] = "1.0";
  root["truncation"] = root["padding"] = nullptr;
  root["added_tokens"] = AddedTokens(tokens);
  root["post_processor"] = PostProcessor(*tokenizer, tokens);
  root["model"] = ModelOf(gguf, tokens, scored, steps);
  files["tokenizer.json"] = root.dump() + "\n";
  files["tokenizer_config.json"] = ConfigOf(gguf, *tokenizer, tokens).dump(2) + "\n";
  const auto chat = gguf.GetString("tokenizer.chat_template");
  if (chat.ok()) files["chat_template.jinja"] = *chat;
  return files;
}

}  // namespace strata::data
