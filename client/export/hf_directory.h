// A merged model as an HF directory.
#ifndef STRATA_CLIENT_EXPORT_HF_DIRECTORY_H_
#define STRATA_CLIENT_EXPORT_HF_DIRECTORY_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/export/merged_model.h"
#include "client/export/written.h"
#include "common/format/tensor.h"
#include "common/runtime/file_system.h"

namespace strata::exporting {

struct HfOptions {
  std::optional<format::DType> dtype = {};       // of every tensor; default: each as it is, F32 where it is quantised
  uint64_t max_shard_bytes = uint64_t{5} << 30;  // of tensor data in one file; a larger model gets shards and an index
};

// Writes DIRECTORY with config.json, the weights under their HF names and the tokenizer's files: from an HF directory
// copies of them (config.json's dtype follows `dtype`), from a GGUF file what its metadata say. Everything is written
// to DIRECTORY.tmp and renamed: the directory is complete or not there. ALREADY_EXISTS: something is at `directory`.
// Errors of reading the model; RESOURCE_EXHAUSTED: the disk is full.
absl::StatusOr<Written> WriteHfDirectory(runtime::FileSystem& files, const std::string& directory,
                                         const MergedModel& merged, const HfOptions& options);

}  // namespace strata::exporting

#endif  // STRATA_CLIENT_EXPORT_HF_DIRECTORY_H_
