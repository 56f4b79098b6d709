#include "client/train/run_inputs.h"

#include <vector>

#include "absl/time/time.h"
#include "common/secure/digest.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::train {

absl::StatusOr<std::string> FileDigest(runtime::FileSystem& files, const std::string& path) {
  STRATA_ASSIGN_OR_RETURN(const auto mapping, files.Map(path));
  return secure::ToHex(secure::Sha256(mapping->bytes()));
}

absl::StatusOr<std::string> ModelFingerprint(runtime::FileSystem& files, const model::ModelFiles& model) {
  std::vector<std::string> paths = model.weight_files();
  // An HF directory: the tokenizer's and the configuration's files too.
  if (const auto names = files.List(model.path()); names.ok()) {
    for (const std::string& name : *names) {
      if (name.ends_with(".json")) paths.push_back(runtime::JoinPath(model.path(), name));
    }
  }
  std::string text = model.config().Canonical();
  for (const std::string& path : paths) {
    STRATA_ASSIGN_OR_RETURN(const runtime::FileInfo info, files.Stat(path));
    text += Cat("\n", runtime::BaseName(path), " ", info.size_bytes, " ", absl::ToUnixNanos(info.modified));
  }
  return secure::ToHex(secure::Sha256(text));
}

}  // namespace strata::train
