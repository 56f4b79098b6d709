#include <algorithm>
#include <utility>

#include "absl/strings/str_split.h"
#include "client/data/bpe_tokenizer.h"
#include "client/data/json_fields.h"
#include "client/data/tokenizer.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::data {
namespace {

absl::StatusOr<BpeOptions> ParseOptions(const Fields& model) {
  BpeOptions options;
  if (model.Find("unk_token") != nullptr) {
    STRATA_ASSIGN_OR_RETURN(options.unk_token, model.String("unk_token"));
  }
  STRATA_ASSIGN_OR_RETURN(options.continuing_subword_prefix, model.String("continuing_subword_prefix", ""));
  STRATA_ASSIGN_OR_RETURN(options.end_of_word_suffix, model.String("end_of_word_suffix", ""));
  STRATA_ASSIGN_OR_RETURN(options.fuse_unk, model.Bool("fuse_unk", false));
  STRATA_ASSIGN_OR_RETURN(options.byte_fallback, model.Bool("byte_fallback", false));
  STRATA_ASSIGN_OR_RETURN(options.ignore_merges, model.Bool("ignore_merges", false));
  return options;
}

absl::StatusOr<std::vector<std::pair<std::string, int32_t>>> ParseVocab(const Fields& model) {
  STRATA_ASSIGN_OR_RETURN(const Json* json, model.Need("vocab"));
  if (!json->is_object()) {
    return absl::InvalidArgumentError(
        Cat(model.PlaceOf("vocab"), ": an object of tokens and ids is expected, found ", json->type_name()));
  }
  std::vector<std::pair<std::string, int32_t>> vocab;
  vocab.reserve(json->size());
  for (auto it = json->begin(); it != json->end(); ++it) {
    const Json& id = it.value();
    if (!id.is_number_integer() || id < 0 || id >= Bpe::kMaxId) {
      return absl::InvalidArgumentError(Cat(model.PlaceOf("vocab"), ": token '", it.key(), "' has id ", id.dump(),
                                            "; integers in [0, ", Bpe::kMaxId, ") are expected"));
    }
    vocab.emplace_back(it.key(), id.get<int32_t>());
  }
  return vocab;
}

// "a b" or ["a", "b"].
absl::StatusOr<std::pair<std::string, std::string>> ParseMerge(const Json& merge) {
  if (merge.is_string()) {
    std::vector<std::string> parts = absl::StrSplit(merge.get_ref<const std::string&>(), ' ');
    if (parts.size() == 2) return std::make_pair(std::move(parts[0]), std::move(parts[1]));
  } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return std::make_pair(merge[0].get<std::string>(), merge[1].get<std::string>());
  }
  return absl::InvalidArgumentError(Cat("\"a b\" or [\"a\", \"b\"] is expected, found ", merge.dump()));
}

absl::Status ParseMerges(const Fields& model, Bpe& bpe) {
  STRATA_ASSIGN_OR_RETURN(const Json* merges, model.Need("merges"));
  const std::string place = model.PlaceOf("merges");
  if (!merges->is_array()) {
    return absl::InvalidArgumentError(Cat(place, ": an array is expected, found ", merges->type_name()));
  }
  int32_t rank = 0;
  for (size_t i = 0; i < merges->size(); ++i) {
    const Json& merge = (*merges)[i];
    if (merge.is_string() && merge.get_ref<const std::string&>().starts_with("#version")) continue;
    const auto pair = ParseMerge(merge);
    if (!pair.ok()) return Annotate(pair.status(), Cat(place, "[", i, "]"));
    STRATA_RETURN_IF_ERROR(Annotate(bpe.AddMerge(pair->first, pair->second, rank++), place));
  }
  return absl::OkStatus();
}

absl::Status ParseModel(const Fields& root, TokenizerParts& parts) {
  STRATA_ASSIGN_OR_RETURN(const Fields model, root.Object("model"));
  STRATA_ASSIGN_OR_RETURN(const std::string type, model.String("type", model.Find("merges") != nullptr ? "BPE" : ""));
  if (type != "BPE") return model.Fault(Cat("model '", type, "' is not supported; BPE is"));
  STRATA_ASSIGN_OR_RETURN(BpeOptions options, ParseOptions(model));
  STRATA_ASSIGN_OR_RETURN(const auto vocab, ParseVocab(model));
  auto bpe = Bpe::Create(vocab, std::move(options));
  if (!bpe.ok()) return Annotate(bpe.status(), model.place());
  parts.bpe = *std::move(bpe);
  return ParseMerges(model, *parts.bpe);
}

// The reference numbers added tokens itself: by the model's vocabulary, else behind all others. A file that says
// something else would be read in two ways, so it is refused.
absl::Status CheckId(const AddedToken& token, const TokenizerParts& parts) {
  const int32_t size = parts.bpe->num_tokens(), max = parts.added.max_id();
  const int32_t expected = parts.bpe->Id(token.content).value_or(max >= size ? max + 1 : size);
  const std::string* other = parts.bpe->Token(token.id);
  if (token.id == expected && (other == nullptr || *other == token.content)) return absl::OkStatus();
  return absl::InvalidArgumentError(Cat("added token '", token.content, "' has id ", token.id,
                                        other != nullptr && *other != token.content
                                            ? Cat(", which belongs to '", *other, "'")
                                            : Cat(" where ", expected, " is expected")));
}

absl::Status ParseAddedTokens(const Fields& root, TokenizerParts& parts) {
  if (root.Find("added_tokens") == nullptr) return absl::OkStatus();
  STRATA_ASSIGN_OR_RETURN(const std::vector<Fields> list, root.Objects("added_tokens"));
  for (const Fields& fields : list) {
    AddedToken token;
    STRATA_ASSIGN_OR_RETURN(token.content, fields.String("content"));
    STRATA_ASSIGN_OR_RETURN(const int64_t id, fields.Int("id"));
    if (id < 0 || id >= Bpe::kMaxId) return fields.Fault(Cat("id ", id, " is out of range"));
    token.id = static_cast<int32_t>(id);
    STRATA_ASSIGN_OR_RETURN(token.single_word, fields.Bool("single_word", false));
    STRATA_ASSIGN_OR_RETURN(token.lstrip, fields.Bool("lstrip", false));
    STRATA_ASSIGN_OR_RETURN(token.rstrip, fields.Bool("rstrip", false));
    STRATA_ASSIGN_OR_RETURN(token.special, fields.Bool("special", false));
    STRATA_ASSIGN_OR_RETURN(token.normalized, fields.Bool("normalized", !token.special));
    if (parts.added.Find(token.id) == nullptr && !parts.added.Id(token.content).has_value()) {
      STRATA_RETURN_IF_ERROR(Annotate(CheckId(token, parts), fields.place()));
    }
    STRATA_RETURN_IF_ERROR(Annotate(parts.added.Add(std::move(token)), fields.place()));
  }
  return absl::OkStatus();
}

// "</s>" or {"content": "</s>", ..}; nothing where the key is absent or names no token.
absl::StatusOr<std::optional<int32_t>> NamedToken(const Fields& config, std::string_view key,
                                                  const TokenizerParts& parts) {
  const Json* value = config.Find(key);
  if (value == nullptr) return std::optional<int32_t>();
  std::string content;
  if (value->is_object()) {
    STRATA_ASSIGN_OR_RETURN(const Fields token, config.Object(key));
    STRATA_ASSIGN_OR_RETURN(content, token.String("content"));
  } else {
    STRATA_ASSIGN_OR_RETURN(content, config.String(key));
  }
  return parts.Id(content);
}

absl::Status ParseConfig(std::string_view json, std::string_view place, TokenizerParts& parts) {
  STRATA_ASSIGN_OR_RETURN(const Json document, ParseJson(json, place));
  STRATA_ASSIGN_OR_RETURN(const Fields config, Fields::Of(document, std::string(place)));
  STRATA_ASSIGN_OR_RETURN(parts.eos, NamedToken(config, "eos_token", parts));
  if (const Json* eos = config.Find("eos_token"); eos != nullptr && !parts.eos.has_value()) {
    return config.Fault(Cat("eos_token ", eos->dump(), " is no token of the vocabulary"));
  }
  STRATA_ASSIGN_OR_RETURN(parts.bos, NamedToken(config, "bos_token", parts));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerParts> ParseTokenizerParts(std::string_view json, std::string_view tokenizer_config_json,
                                                   std::string_view place) {
  STRATA_ASSIGN_OR_RETURN(const Json document, ParseJson(json, place));
  STRATA_ASSIGN_OR_RETURN(const Fields root, Fields::Of(document, std::string(place)));
  TokenizerParts parts;
  STRATA_RETURN_IF_ERROR(ParseModel(root, parts));
  STRATA_RETURN_IF_ERROR(ParseAddedTokens(root, parts));
  STRATA_RETURN_IF_ERROR(ParseSteps(root, parts));
  if (!tokenizer_config_json.empty()) {
    STRATA_RETURN_IF_ERROR(ParseConfig(tokenizer_config_json, Cat(place, " (tokenizer_config.json)"), parts));
  }
  return parts;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> ParseTokenizerJson(std::string_view json,
                                                              std::string_view tokenizer_config_json,
                                                              std::string_view place) {
  STRATA_ASSIGN_OR_RETURN(TokenizerParts parts, ParseTokenizerParts(json, tokenizer_config_json, place));
  return JoinTokenizer(std::move(parts));
}

}  // namespace strata::data
