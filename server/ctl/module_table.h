// The module table of a base model from its files' headers.
#ifndef STRATA_SERVER_CTL_MODULE_TABLE_H_
#define STRATA_SERVER_CTL_MODULE_TABLE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/config/options.h"
#include "common/runtime/file_system.h"

namespace strata::ctl {

// The linear modules of an HF directory's decoder layers (two-dimensional `....layers.N....weight`), by name.
// INVALID_ARGUMENT: no directory with safetensors files, or none with such layers.
absl::StatusOr<std::vector<config::ModuleShape>> ReadModuleTable(runtime::FileSystem& files,
                                                                 const std::string& directory);

}  // namespace strata::ctl

#endif  // STRATA_SERVER_CTL_MODULE_TABLE_H_
