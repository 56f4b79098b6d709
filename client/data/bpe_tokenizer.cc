#include "client/data/bpe_tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_join.h"
#include "client/data/unicode.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::data {
namespace {

constexpr int kMaxDepth = 32;

class BpeTokenizer : public Tokenizer {
 public:
  explicit BpeTokenizer(TokenizerParts parts) : parts_(std::move(parts)) {}

  std::vector<int32_t> Encode(std::string_view text, bool add_special) const override {
    std::string repaired;
    if (!IsValidUtf8(text)) {
      repaired = ToValidUtf8(text);
      text = repaired;
    }
    std::vector<int32_t> ids;
    if (add_special) ids = parts_.special.before;
    for (const Segment& segment : parts_.added.Split(text, false)) {
      if (segment.id >= 0) {
        ids.push_back(segment.id);
      } else {
        EncodePlain(text.substr(segment.begin, segment.end - segment.begin), segment.begin == 0, ids);
      }
    }
    if (add_special) ids.insert(ids.end(), parts_.special.after.begin(), parts_.special.after.end());
    return ids;
  }

  std::string Decode(const std::vector<int32_t>& ids, bool skip_special) const override {
    std::vector<std::string> tokens;
    tokens.reserve(ids.size());
    for (const int32_t id : ids) {
      const AddedToken* added = parts_.added.Find(id);
      const std::string* token = added != nullptr ? &added->shown : parts_.bpe->Token(id);
      if (token != nullptr && !(skip_special && parts_.added.IsSpecial(*token))) tokens.push_back(*token);
    }
    if (parts_.decoder == nullptr) return absl::StrJoin(tokens, " ");
    size_t num_bytes = 0;
    for (const std::string& token : tokens) num_bytes += token.size();
    return absl::StrJoin(parts_.decoder->Apply(std::move(tokens), MaxRewrittenBytes(num_bytes)), "");
  }

  int32_t vocab_size() const override { return std::max(parts_.bpe->max_id(), parts_.added.max_id()) + 1; }
  Last last_of_vocabulary() const override {
    int32_t id = parts_.bpe->max_id();
    while (id >= 0 && (parts_.bpe->Token(id) == nullptr || parts_.added.Find(id) != nullptr)) --id;
    return id < 0 ? Last() : Last{.id = id, .token = *parts_.bpe->Token(id)};
  }
  std::optional<int32_t> eos_id() const override { return parts_.eos; }
  std::optional<int32_t> bos_id() const override { return parts_.bos; }
  std::string Canonical() const override {
    return Cat("strata tokenizer 1\n", parts_.rules, parts_.added.Canonical(), parts_.bpe->Canonical());
  }

 private:
  // A text without tokens that are looked for before normalisation.
  void EncodePlain(std::string_view text, bool at_start, std::vector<int32_t>& ids) const {
    std::string normal(text);
    if (parts_.normalizer != nullptr)
      normal = parts_.normalizer->Apply(std::move(normal), MaxRewrittenBytes(text.size()));
    for (const Segment& segment : parts_.added.Split(normal, true)) {
      if (segment.id >= 0) {
        ids.push_back(segment.id);
        continue;
      }
      std::vector<Piece> pieces{
          {normal.substr(segment.begin, segment.end - segment.begin), at_start && segment.begin == 0}};
      if (parts_.pre_tokenizer != nullptr) parts_.pre_tokenizer->Apply(pieces);
      for (const Piece& piece : pieces) parts_.bpe->Encode(piece.text, ids);
    }
  }

  TokenizerParts parts_;
};

// Ids of a named special token of a template.
absl::StatusOr<std::vector<int32_t>> TemplateIds(const Fields& fields, const std::string& name,
                                                 const TokenizerParts& parts) {
  STRATA_ASSIGN_OR_RETURN(const Fields tokens, fields.Object("special_tokens"));
  STRATA_ASSIGN_OR_RETURN(const Fields token, tokens.Object(name));
  STRATA_ASSIGN_OR_RETURN(const Json* list, token.Need("ids"));
  std::vector<int32_t> ids;
  if (!list->is_array()) return token.Fault("'ids' must be an array");
  for (const Json& id : *list) {
    const bool known =
        id.is_number_integer() && id >= 0 && id < Bpe::kMaxId &&
        (parts.bpe->Token(id.get<int32_t>()) != nullptr || parts.added.Find(id.get<int32_t>()) != nullptr);
    if (!known) return token.Fault(Cat("no token has the id ", id.dump()));
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

absl::StatusOr<SpecialIds> ParseTemplate(const Fields& fields, const TokenizerParts& parts) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Fields> pieces, fields.Objects("single"));
  SpecialIds special;
  int num_texts = 0;
  for (const Fields& piece : pieces) {
    if (piece.Find("Sequence") != nullptr) {
      STRATA_ASSIGN_OR_RETURN(const Fields sequence, piece.Object("Sequence"));
      STRATA_ASSIGN_OR_RETURN(const std::string id, sequence.String("id"));
      if (id != "A" || ++num_texts > 1) return piece.Fault("a template of one text holds the sequence A once");
      continue;
    }
    STRATA_ASSIGN_OR_RETURN(const Fields token, piece.Object("SpecialToken"));
    STRATA_ASSIGN_OR_RETURN(const std::string name, token.String("id"));
    STRATA_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, TemplateIds(fields, name, parts));
    std::vector<int32_t>& side = num_texts == 0 ? special.before : special.after;
    side.insert(side.end(), ids.begin(), ids.end());
  }
  if (num_texts != 1) return fields.Fault("the template of one text lacks the sequence A");
  return special;
}

// ["</s>", 2]
absl::StatusOr<int32_t> TokenPair(const Fields& fields, std::string_view key) {
  STRATA_ASSIGN_OR_RETURN(const Json* pair, fields.Need(key));
  if (!pair->is_array() || pair->size() != 2 || !(*pair)[1].is_number_integer() || (*pair)[1] < 0 ||
      (*pair)[1] >= Bpe::kMaxId) {
    return fields.Fault(Cat("'", key, "' must be a pair of a token and its id"));
  }
  return (*pair)[1].get<int32_t>();
}

absl::StatusOr<SpecialIds> ParsePostProcessor(const Fields& fields, const TokenizerParts& parts, int depth) {
  STRATA_ASSIGN_OR_RETURN(const std::string type, fields.String("type"));
  SpecialIds special;
  if (type == "ByteLevel") return special;  // it only moves offsets
  if (type == "TemplateProcessing") return ParseTemplate(fields, parts);
  if (type == "BertProcessing" || type == "RobertaProcessing") {
    STRATA_ASSIGN_OR_RETURN(const int32_t cls, TokenPair(fields, "cls"));
    STRATA_ASSIGN_OR_RETURN(const int32_t sep, TokenPair(fields, "sep"));
    return SpecialIds{{cls}, {sep}};
  }
  if (type != "Sequence") return fields.Fault(Cat("post-processor '", type, "' is not supported"));
  if (depth >= kMaxDepth) return fields.Fault("sequences nested too deeply");
  STRATA_ASSIGN_OR_RETURN(const std::vector<Fields> steps, fields.Objects("processors"));
  for (const Fields& step : steps) {
    STRATA_ASSIGN_OR_RETURN(const SpecialIds outer, ParsePostProcessor(step, parts, depth + 1));
    special.before.insert(special.before.begin(), outer.before.begin(), outer.before.end());
    special.after.insert(special.after.end(), outer.after.begin(), outer.after.end());
  }
  return special;
}

}  // namespace

std::optional<int32_t> TokenizerParts::Id(std::string_view token) const {
  const auto id = added.Id(token);
  return id.has_value() ? id : bpe->Id(token);
}

absl::Status ParseSteps(const Fields& root, TokenizerParts& parts) {
  for (const std::string_view key : {"normalizer", "pre_tokenizer", "post_processor", "decoder"}) {
    const Json* json = root.Find(key);
    parts.rules += Cat(key, " ", json == nullptr ? "none" : json->dump(), "\n");
    if (json == nullptr) continue;
    STRATA_ASSIGN_OR_RETURN(const Fields fields, root.Object(key));
    if (key == "normalizer") {
      STRATA_ASSIGN_OR_RETURN(parts.normalizer, ParseNormalizer(fields));
    } else if (key == "pre_tokenizer") {
      STRATA_ASSIGN_OR_RETURN(parts.pre_tokenizer, ParsePreTokenizer(fields));
    } else if (key == "post_processor") {
      STRATA_ASSIGN_OR_RETURN(parts.special, ParsePostProcessor(fields, parts, 0));
    } else {
      STRATA_ASSIGN_OR_RETURN(parts.decoder, ParseDecoder(fields));
    }
  }
  return absl::OkStatus();
}

std::unique_ptr<Tokenizer> JoinTokenizer(TokenizerParts parts) {
  parts.added.Finish(parts.normalizer.get());
  return std::make_unique<BpeTokenizer>(std::move(parts));
}

}  // namespace strata::data
