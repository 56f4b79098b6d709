#include "client/train/run_inputs.h"

#include <algorithm>
#include <vector>

#include "absl/time/time.h"
#include "client/data/row_files.h"
#include "common/secure/digest.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::train {

absl::StatusOr<std::string> FileDigest(runtime::FileSystem& files, const std::string& path) {
  STRATA_ASSIGN_OR_RETURN(const auto mapping, files.Map(path));
  secure::Sha256Stream digest;
  constexpr size_t kBlock = size_t{16} << 20;
  for (size_t begin = 0; begin < mapping->bytes().size(); begin += kBlock) {
    const size_t length = std::min(kBlock, mapping->bytes().size() - begin);
    digest.Update(mapping->bytes().subspan(begin, length));
    mapping->Release(begin, length);  // the file may be larger than memory
  }
  return secure::ToHex(digest.Finish());
}

absl::StatusOr<std::string> DataDigest(runtime::FileSystem& files, const std::string& path) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<std::string> paths, data::RowFiles(files, path));
  if (paths.size() == 1) return FileDigest(files, paths.front());
  std::string text;
  for (const std::string& file : paths) {
    STRATA_ASSIGN_OR_RETURN(const std::string digest, FileDigest(files, file));
    text += Cat(runtime::BaseName(file), " ", digest, "\n");
  }
  return secure::ToHex(secure::Sha256(text));
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
