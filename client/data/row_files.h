// Which files the path of some data means: a file, the shards in a folder, or those of a pattern.
#ifndef STRATA_CLIENT_DATA_ROW_FILES_H_
#define STRATA_CLIENT_DATA_ROW_FILES_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/runtime/file_system.h"

namespace strata::data {

// In the order in which their rows follow each other, at least one.
//   FILE: itself, whatever its name.
//   FOLDER: its files that end in .jsonl, .jsonl.zst or .parquet, by name; folders in it are not looked into.
//   FOLDER/PATTERN: its files that the shell's pattern (*, ?, [..]) matches, by name; not hidden ones.
// NOT_FOUND: nothing is there, or nothing of it is meant. INVALID_ARGUMENT: shards NAME-00000-of-00004 of several names
// (a folder that holds a test split beside the training data), or not all of a name's.
absl::StatusOr<std::vector<std::string>> RowFiles(runtime::FileSystem& files, const std::string& path);

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_ROW_FILES_H_
