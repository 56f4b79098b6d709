// A GGUF file's tokenizer as the files that transformers reads.
#ifndef STRATA_CLIENT_DATA_TOKENIZER_TO_JSON_H_
#define STRATA_CLIENT_DATA_TOKENIZER_TO_JSON_H_

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "common/format/gguf.h"

namespace strata::data {

// Names and contents: tokenizer.json, tokenizer_config.json, and chat_template.jinja where the file has a template;
// none where it has no tokenizer. INVALID_ARGUMENT: what TokenizerFromGguf refuses.
absl::StatusOr<std::map<std::string, std::string>> TokenizerFilesOfGguf(const format::Gguf& gguf,
                                                                        std::string_view place);

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_TOKENIZER_TO_JSON_H_
