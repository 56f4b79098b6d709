// An HF tokenizer as GGUF metadata.
#ifndef STRATA_CLIENT_DATA_TOKENIZER_TO_GGUF_H_
#define STRATA_CLIENT_DATA_TOKENIZER_TO_GGUF_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "common/format/gguf_writer.h"
#include "common/runtime/file_system.h"

namespace strata::data {

// Sets the tokenizer.* keys from DIRECTORY/tokenizer.json: tokens, types, merges (byte-level BPE) or scores
// (sentencepiece's BPE, whose scores are recovered as the order of the merges), the special tokens and whether they are
// added, and the chat template (chat_template.jinja or tokenizer_config.json). Ids up to `vocab_size` that the
// tokenizer does not use become unused tokens, as llama.cpp wants one for each row of the embedding. Without a
// tokenizer.json only tokenizer.ggml.model = none is set. INVALID_ARGUMENT: what OpenTokenizer refuses, a token beyond
// `vocab_size`. UNIMPLEMENTED: another model than BPE, or steps that GGUF has no name for.
absl::Status TokenizerToGguf(runtime::FileSystem& files, const std::string& directory, int64_t vocab_size,
                             format::GgufMetadata& metadata);

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_TOKENIZER_TO_GGUF_H_
