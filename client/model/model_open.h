// The two kinds of model on disk.
#ifndef STRATA_CLIENT_MODEL_MODEL_OPEN_H_
#define STRATA_CLIENT_MODEL_MODEL_OPEN_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "client/model/model_files.h"
#include "common/runtime/file_system.h"

namespace strata::model {

// Errors as ModelFiles::Open's. `directory` exists.
absl::StatusOr<std::unique_ptr<ModelFiles>> OpenHfDirectory(runtime::FileSystem& files, const std::string& directory);
absl::StatusOr<std::unique_ptr<ModelFiles>> OpenGgufModel(runtime::FileSystem& files, const std::string& path);

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_MODEL_OPEN_H_
