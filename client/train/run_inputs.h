// What a training run is made from, told apart cheaply.
#ifndef STRATA_CLIENT_TRAIN_RUN_INPUTS_H_
#define STRATA_CLIENT_TRAIN_RUN_INPUTS_H_

#include <string>

#include "absl/status/statusor.h"
#include "client/model/model_files.h"
#include "common/runtime/file_system.h"

namespace strata::train {

// SHA-256 in hex of a file's bytes.
absl::StatusOr<std::string> FileDigest(runtime::FileSystem& files, const std::string& path);

// Of the names and bytes of all files that a data path means (data/row_files.h), in their order; of a single file as
// above.
absl::StatusOr<std::string> DataDigest(runtime::FileSystem& files, const std::string& path);

// A digest of the model's description and of name, size and time of change of its files: weights are too large to be
// read for this. A copy that keeps the times is the same model; one that was written again is another.
absl::StatusOr<std::string> ModelFingerprint(runtime::FileSystem& files, const model::ModelFiles& model);

}  // namespace strata::train

#endif  // STRATA_CLIENT_TRAIN_RUN_INPUTS_H_
