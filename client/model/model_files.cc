#include "client/model/model_files.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/model/model_open.h"
#include "common/runtime/process.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::model {
namespace {

using runtime::JoinPath;

// "name" or "org/name" as the hub allows them.
bool IsHubName(std::string_view model) {
  const auto plain = [](std::string_view part) {
    return !part.empty() && part.front() != '.' && std::all_of(part.begin(), part.end(), [](char c) {
      return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.';
    });
  };
  const size_t slash = model.find('/');
  if (slash == std::string_view::npos) return plain(model);
  return plain(model.substr(0, slash)) && plain(model.substr(slash + 1));
}

// As the hub's own library finds its cache.
std::string HubCache() {
  if (std::string cache = runtime::EnvironmentVariable("HF_HUB_CACHE"); !cache.empty()) return cache;
  if (const std::string home = runtime::EnvironmentVariable("HF_HOME"); !home.empty()) return JoinPath(home, "hub");
  std::string cache = runtime::EnvironmentVariable("XDG_CACHE_HOME");
  if (cache.empty()) cache = JoinPath(runtime::EnvironmentVariable("HOME"), ".cache");
  return JoinPath(cache, "huggingface/hub");
}

// The snapshot that refs/main names; where there is no such file, the only snapshot.
absl::StatusOr<std::string> FindSnapshot(runtime::FileSystem& files, const std::string& folder) {
  const std::string snapshots = JoinPath(folder, "snapshots");
  const std::string ref = JoinPath(folder, "refs/main");
  const auto revision = files.ReadFile(ref);
  if (revision.ok()) {
    const std::string name(absl::StripAsciiWhitespace(*revision));
    if (name.empty() || name.find('/') != std::string::npos || name.front() == '.') {
      return absl::InvalidArgumentError(Cat(ref, ": expected the name of a snapshot"));
    }
    std::string path = JoinPath(snapshots, name);
    if (files.Exists(path)) return path;
    return absl::NotFoundError(Cat(path, ", which ", ref, " names, is not there; download the model again"));
  }
  const auto list = files.List(snapshots);
  if (list.ok() && list->size() == 1) return JoinPath(snapshots, list->front());
  if (list.ok() && list->size() > 1) {
    return absl::InvalidArgumentError(
        Cat(snapshots, ": holds ", list->size(), " snapshots and no refs/main says which; give the path of one"));
  }
  return absl::NotFoundError(Cat(snapshots, ": no snapshot is there"));
}

absl::StatusOr<std::unique_ptr<ModelFiles>> OpenFile(runtime::FileSystem& files, const std::string& path) {
  if (absl::AsciiStrToLower(path).ends_with(".gguf")) return OpenGgufModel(files, path);
  STRATA_ASSIGN_OR_RETURN(const auto file, files.Open(path, runtime::OpenMode::kRead));
  std::string magic(4, '\0');
  STRATA_ASSIGN_OR_RETURN(const size_t got, file->ReadAt(0, std::as_writable_bytes(std::span(magic))));
  if (got == 4 && magic == "GGUF") return OpenGgufModel(files, path);
  return absl::InvalidArgumentError(Cat(path,
                                        ": expected a GGUF file or a directory with config.json and safetensors; "
                                        "of an HF model give the directory"));
}

absl::StatusOr<std::unique_ptr<ModelFiles>> OpenDirectory(runtime::FileSystem& files, const std::string& path) {
  if (files.Exists(JoinPath(path, "config.json"))) return OpenHfDirectory(files, path);
  STRATA_ASSIGN_OR_RETURN(const std::vector<std::string> entries, files.List(path));
  std::vector<std::string> ggufs;
  for (const std::string& entry : entries) {
    if (entry == "adapter_config.json") {
      return absl::InvalidArgumentError(Cat(path, ": is an adapter (adapter_config.json), expected a base model"));
    }
    if (entry.ends_with(".gguf")) ggufs.push_back(entry);
  }
  if (ggufs.size() == 1) return OpenGgufModel(files, JoinPath(path, ggufs.front()));
  if (ggufs.size() > 1) {
    return absl::InvalidArgumentError(Cat(path, ": holds several GGUF files, name one: ", absl::StrJoin(ggufs, ", ")));
  }
  return absl::NotFoundError(Cat(path, ": no config.json and no GGUF file is there"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelFiles>> ModelFiles::Open(runtime::FileSystem& files, const std::string& model) {
  const auto info = files.Stat(model);
  if (info.ok()) return info->is_directory ? OpenDirectory(files, model) : OpenFile(files, model);
  if (!absl::IsNotFound(info.status())) return info.status();
  if (!IsHubName(model)) return absl::NotFoundError(Cat("model '", model, "': no such file or directory"));
  const std::string folder = JoinPath(HubCache(), Cat("models--", absl::StrJoin(absl::StrSplit(model, '/'), "--")));
  if (!files.Exists(folder)) {
    return absl::NotFoundError(
        Cat("model '", model, "': neither that path nor ", folder,
            " is there; models are not downloaded: give a directory, a GGUF file, or a name that "
            "is in the HF cache (HF_HOME)"));
  }
  STRATA_ASSIGN_OR_RETURN(const std::string snapshot, FindSnapshot(files, folder));
  return OpenDirectory(files, snapshot);
}

}  // namespace strata::model
