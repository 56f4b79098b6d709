// Text that a model writes behind prompts, several at a time.
#ifndef STRATA_CLIENT_GENERATE_GENERATOR_H_
#define STRATA_CLIENT_GENERATE_GENERATOR_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "client/data/tokenizer.h"
#include "client/generate/sampling.h"
#include "client/model/transformer.h"

namespace strata::generate {

struct GenerateOptions {
  size_t max_new_tokens = 256;
  SamplingOptions sampling = {};
  uint64_t seed = 0;
  std::vector<int32_t> end_ids = {};    // tokens that end a text
  std::vector<std::string> stops = {};  // strings that end a text, without being part of it; not empty ones
  size_t batch_size = 8;                // texts that are written at a time
};

enum class FinishReason {
  kStop,    // an end token or a stop string
  kLength,  // max_new_tokens, or the end of the model's context
};

struct Generated {
  std::string text;
  size_t num_tokens = 0;  // that were drawn, an end token among them
  FinishReason finish = FinishReason::kLength;
};

// A status that is not OK ends the generation with it.
struct GenerateEvents {
  std::function<bool()> keep_going;                                            // before each step; false: CANCELLED
  std::function<absl::Status(size_t prompt, std::string_view piece)> on_text;  // as it is written; may be empty
  std::function<absl::Status(size_t prompt, const Generated& text)> on_done;   // in the prompts' order
};

// INVALID_ARGUMENT: a prompt of so many tokens is empty, or leaves no room in the positions that the model knows.
absl::Status CheckPrompt(const model::ModelConfig& config, size_t num_tokens);

// Continues each prompt. The same options give the same texts: prompt i draws from its own stream of `seed`, whatever
// is written beside it. INVALID_ARGUMENT: a prompt without tokens, or that fills the context; ids outside the
// vocabulary. INTERNAL: logits that are not finite. Else errors of Transformer::Continue.
absl::Status Generate(model::Transformer& model, const data::Tokenizer& tokenizer,
                      const std::vector<std::vector<int32_t>>& prompts, const GenerateOptions& options,
                      const GenerateEvents& events);

}  // namespace strata::generate

#endif  // STRATA_CLIENT_GENERATE_GENERATOR_H_
