// What lies beside the weights of an HF directory.
#ifndef STRATA_CLIENT_EXPORT_HF_FILES_H_
#define STRATA_CLIENT_EXPORT_HF_FILES_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "client/model/model_files.h"
#include "common/format/tensor.h"
#include "common/runtime/file_system.h"

namespace strata::exporting {

// Writes config.json, the tokenizer's, processor's and generation's files, the chat template and the licence of `model`
// into `directory`: copies from an HF directory, from a GGUF file what its metadata say. `dtype` goes into config.json.
absl::Status WriteModelTexts(runtime::FileSystem& files, const std::string& directory, const model::ModelFiles& model,
                             std::optional<format::DType> dtype);

}  // namespace strata::exporting

#endif  // STRATA_CLIENT_EXPORT_HF_FILES_H_
