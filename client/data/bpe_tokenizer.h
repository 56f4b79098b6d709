// The steps of a tokenizer joined: added tokens, normaliser, pre-tokeniser, byte pairs, post-processor, decoder.
#ifndef STRATA_CLIENT_DATA_BPE_TOKENIZER_H_
#define STRATA_CLIENT_DATA_BPE_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "client/data/added_tokens.h"
#include "client/data/bpe.h"
#include "client/data/decoder.h"
#include "client/data/json_fields.h"
#include "client/data/normalizer.h"
#include "client/data/pre_tokenizer.h"
#include "client/data/tokenizer.h"

namespace strata::data {

// What a post-processor puts around one text.
struct SpecialIds {
  std::vector<int32_t> before, after;
};

struct TokenizerParts {
  std::unique_ptr<Bpe> bpe;
  AddedTokens added;                            // not finished yet
  std::unique_ptr<Normalizer> normalizer;       // may be null
  std::unique_ptr<PreTokenizer> pre_tokenizer;  // may be null
  std::unique_ptr<Decoder> decoder;             // null: tokens joined by spaces
  SpecialIds special;
  std::optional<int32_t> eos, bos;
  std::string rules;  // canonical text of the steps

  // Id of a token, an added one before the model's.
  std::optional<int32_t> Id(std::string_view token) const;
};

// The keys normalizer, pre_tokenizer, post_processor, decoder of a tokenizer.json, each of which may be absent or null.
// After `bpe` and `added` are filled. INVALID_ARGUMENT: a step that is not supported (named), wrong fields, ids of no
// token.
absl::Status ParseSteps(const Fields& root, TokenizerParts& parts);

// A tokenizer.json's parts; `tokenizer_config_json` may be empty.
absl::StatusOr<TokenizerParts> ParseTokenizerParts(std::string_view json, std::string_view tokenizer_config_json,
                                                   std::string_view place);

std::unique_ptr<Tokenizer> JoinTokenizer(TokenizerParts parts);

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_BPE_TOKENIZER_H_
