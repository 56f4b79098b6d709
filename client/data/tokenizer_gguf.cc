#include <cmath>
#include <utility>

#include "absl/strings/str_split.h"
#include "client/data/bpe_tokenizer.h"
#include "client/data/gguf_steps.h"
#include "client/data/json_fields.h"
#include "client/data/tokenizer.h"
#include "client/data/unicode.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::data {
namespace {

// An absent key is `absent`; a wrong type stays an error.
template <typename T>
absl::StatusOr<T> OrElse(absl::StatusOr<T> value, T absent) {
  if (absl::IsNotFound(value.status())) return absent;
  return value;
}

absl::Status Missing(const absl::Status& status) {
  return absl::IsNotFound(status) ? absl::InvalidArgumentError(status.message()) : status;
}

struct Vocabulary {
  std::vector<std::string> tokens;
  std::vector<int> types;  // by id

  bool Is(size_t id, int type) const { return types[id] == type; }
};

absl::StatusOr<Vocabulary> ReadVocabulary(const format::Gguf& gguf) {
  Vocabulary vocabulary;
  auto tokens = gguf.GetStrings("tokenizer.ggml.tokens");
  if (!tokens.ok()) return Missing(tokens.status());
  vocabulary.tokens = *std::move(tokens);
  if (vocabulary.tokens.size() >= static_cast<size_t>(Bpe::kMaxId)) {
    return absl::InvalidArgumentError(Cat("tokenizer.ggml.tokens has ", vocabulary.tokens.size(),
                                          " entries; fewer than ", Bpe::kMaxId, " are expected"));
  }
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    if (!IsValidUtf8(vocabulary.tokens[id])) {
      return absl::InvalidArgumentError(Cat("tokenizer.ggml.tokens[", id, "] is not valid UTF-8"));
    }
  }
  STRATA_ASSIGN_OR_RETURN(const std::vector<double> types,
                          OrElse(gguf.GetNumbers("tokenizer.ggml.token_type"),
                                 std::vector<double>(vocabulary.tokens.size(), static_cast<double>(kNormal))));
  if (types.size() != vocabulary.tokens.size()) {
    return absl::InvalidArgumentError(
        Cat("tokenizer.ggml.token_type has ", types.size(), " entries for ", vocabulary.tokens.size(), " tokens"));
  }
  for (size_t id = 0; id < types.size(); ++id) {
    if (!(types[id] >= 0 && types[id] <= 6)) {
      return absl::InvalidArgumentError(
          Cat("tokenizer.ggml.token_type[", id, "] is ", types[id], "; 1 to 6 are known"));
    }
    vocabulary.types.push_back(static_cast<int>(types[id]));
  }
  return vocabulary;
}

absl::StatusOr<std::optional<int32_t>> TokenId(const format::Gguf& gguf, std::string_view key,
                                               const Vocabulary& vocabulary) {
  const auto id = gguf.GetUint(key);
  if (absl::IsNotFound(id.status())) return std::optional<int32_t>();
  if (!id.ok()) return id.status();
  if (*id >= vocabulary.tokens.size()) {
    return absl::InvalidArgumentError(Cat(key, " is ", *id, ", but there are ", vocabulary.tokens.size(), " tokens"));
  }
  return std::optional<int32_t>(static_cast<int32_t>(*id));
}

absl::Status AddMerges(const format::Gguf& gguf, Bpe& bpe) {
  const auto merges = gguf.GetStrings("tokenizer.ggml.merges");
  if (!merges.ok()) return Missing(merges.status());
  for (size_t i = 0; i < merges->size(); ++i) {
    const std::vector<std::string> parts = absl::StrSplit((*merges)[i], ' ');
    if (parts.size() != 2) {
      return absl::InvalidArgumentError(
          Cat("tokenizer.ggml.merges[", i, "]: two tokens are expected, found '", (*merges)[i], "'"));
    }
    STRATA_RETURN_IF_ERROR(
        Annotate(bpe.AddMerge(parts[0], parts[1], static_cast<int32_t>(i)), "tokenizer.ggml.merges"));
  }
  return absl::OkStatus();
}

absl::Status AddScores(const format::Gguf& gguf, const Vocabulary& vocabulary, Bpe& bpe) {
  const auto scores = gguf.GetNumbers("tokenizer.ggml.scores");
  if (!scores.ok()) return Missing(scores.status());
  if (scores->size() != vocabulary.tokens.size()) {
    return absl::InvalidArgumentError(
        Cat("tokenizer.ggml.scores has ", scores->size(), " entries for ", vocabulary.tokens.size(), " tokens"));
  }
  std::vector<bool> mergeable;
  for (size_t id = 0; id < scores->size(); ++id) {
    if (std::isnan((*scores)[id])) {
      return absl::InvalidArgumentError(Cat("tokenizer.ggml.scores[", id, "] is no number"));
    }
    mergeable.push_back(vocabulary.Is(id, kNormal));
  }
  bpe.AddScoredMerges(*scores, mergeable);
  return absl::OkStatus();
}

absl::Status AddSpecialTokens(const Vocabulary& vocabulary, AddedTokens& added) {
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const bool special = vocabulary.Is(id, kControl) || vocabulary.Is(id, kUnknown);
    if ((!special && !vocabulary.Is(id, kUserDefined)) || vocabulary.tokens[id].empty()) continue;
    AddedToken token;
    token.content = vocabulary.tokens[id];
    token.id = static_cast<int32_t>(id);
    token.special = special;
    STRATA_RETURN_IF_ERROR(Annotate(added.Add(std::move(token)), "tokenizer.ggml.tokens"));
  }
  return absl::OkStatus();
}

absl::StatusOr<TokenizerParts> ReadParts(const format::Gguf& gguf) {
  const auto model = gguf.GetString("tokenizer.ggml.model");
  if (!model.ok()) return Missing(model.status());
  if (*model != "gpt2" && *model != "llama") {
    return absl::InvalidArgumentError(Cat("tokenizer.ggml.model '", *model, "' is not supported; gpt2 and llama are"));
  }
  const bool scored = *model == "llama";
  STRATA_ASSIGN_OR_RETURN(const Vocabulary vocabulary, ReadVocabulary(gguf));
  STRATA_ASSIGN_OR_RETURN(const auto unk, TokenId(gguf, "tokenizer.ggml.unknown_token_id", vocabulary));
  STRATA_ASSIGN_OR_RETURN(const std::string pre, OrElse(gguf.GetString("tokenizer.ggml.pre"), std::string("default")));
  STRATA_ASSIGN_OR_RETURN(const GgufSteps byte_level, ByteLevelGgufSteps(scored ? "default" : pre));

  TokenizerParts parts;
  std::vector<std::pair<std::string, int32_t>> vocab;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    vocab.emplace_back(vocabulary.tokens[id], static_cast<int32_t>(id));
  }
  BpeOptions options;
  options.byte_fallback = options.fuse_unk = scored;
  options.ignore_merges = byte_level.ignore_merges;
  if (scored && !vocab.empty()) options.unk_token = vocabulary.tokens[unk.value_or(0)];
  STRATA_ASSIGN_OR_RETURN(parts.bpe, Bpe::Create(vocab, std::move(options)));
  STRATA_RETURN_IF_ERROR(scored ? AddScores(gguf, vocabulary, *parts.bpe) : AddMerges(gguf, *parts.bpe));
  STRATA_RETURN_IF_ERROR(AddSpecialTokens(vocabulary, parts.added));

  STRATA_ASSIGN_OR_RETURN(const bool space, OrElse(gguf.GetBool("tokenizer.ggml.add_space_prefix"), true));
  const Json steps = scored ? SentencepieceGgufSteps(space) : byte_level.steps;
  STRATA_ASSIGN_OR_RETURN(const Fields fields, Fields::Of(steps, "tokenizer.ggml"));
  STRATA_RETURN_IF_ERROR(ParseSteps(fields, parts));

  STRATA_ASSIGN_OR_RETURN(parts.eos, TokenId(gguf, "tokenizer.ggml.eos_token_id", vocabulary));
  STRATA_ASSIGN_OR_RETURN(parts.bos, TokenId(gguf, "tokenizer.ggml.bos_token_id", vocabulary));
  STRATA_ASSIGN_OR_RETURN(const bool add_bos,
                          OrElse(gguf.GetBool("tokenizer.ggml.add_bos_token"), scored || byte_level.add_bos));
  STRATA_ASSIGN_OR_RETURN(const bool add_eos, OrElse(gguf.GetBool("tokenizer.ggml.add_eos_token"), false));
  if (add_bos && parts.bos.has_value()) parts.special.before.push_back(*parts.bos);
  if (add_eos && parts.eos.has_value()) parts.special.after.push_back(*parts.eos);
  return parts;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> TokenizerFromGguf(const format::Gguf& gguf, std::string_view place) {
  auto parts = ReadParts(gguf);
  if (!parts.ok()) return Annotate(parts.status(), place);
  return JoinTokenizer(*std::move(parts));
}

}  // namespace strata::data
