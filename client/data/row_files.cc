#include "client/data/row_files.h"

#include <fnmatch.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <string_view>

#include "absl/strings/str_join.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::data {
namespace {

constexpr const char* kEndings[] = {".jsonl", ".jsonl.zst", ".parquet"};

bool HasRows(const std::string& name) {
  return !name.starts_with('.') && std::any_of(std::begin(kEndings), std::end(kEndings),
                                               [&](const char* ending) { return name.ends_with(ending); });
}

// Of a set that was written as NAME-00000-of-00004.parquet and so on.
struct Shard {
  std::string_view set;
  int64_t count = 0;
};

std::optional<int64_t> NumberOf(std::string_view digits) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  return error == std::errc() && end == digits.data() + digits.size() ? std::optional(number) : std::nullopt;
}

std::optional<Shard> ShardOf(std::string_view name) {
  constexpr std::string_view kOf = "-of-";
  const std::string_view stem = name.substr(0, name.find('.'));
  const size_t of = stem.rfind(kOf);
  const size_t dash = of == std::string_view::npos ? of : stem.substr(0, of).rfind('-');
  if (dash == std::string_view::npos) return std::nullopt;
  const auto count = NumberOf(stem.substr(of + kOf.size()));
  if (!count.has_value() || !NumberOf(stem.substr(dash + 1, of - dash - 1)).has_value()) return std::nullopt;
  return Shard{.set = stem.substr(0, dash), .count = *count};
}

// Rows of a test split do not slip in among those that are learned, nor does a file that was not copied go unnoticed.
absl::Status CheckShards(const std::vector<std::string>& names, const std::string& folder) {
  std::map<std::string_view, int64_t> found;
  for (const std::string& name : names) {
    if (const auto shard = ShardOf(name); shard.has_value()) ++found[shard->set];
  }
  if (found.size() > 1) {
    std::vector<std::string> patterns;
    for (const auto& [set, count] : found) patterns.push_back(Cat("'", runtime::JoinPath(folder, Cat(set, "-*")), "'"));
    return absl::InvalidArgumentError(
        Cat(folder, ": holds shards of several sets; give one of ", absl::StrJoin(patterns, ", ")));
  }
  for (const std::string& name : names) {
    const auto shard = ShardOf(name);
    if (!shard.has_value() || shard->count == found[shard->set]) continue;
    return absl::InvalidArgumentError(Cat(runtime::JoinPath(folder, name), ": one of ", shard->count, " shards, but ",
                                          found[shard->set], " of them are there"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> FilesWhere(runtime::FileSystem& files, const std::string& folder,
                                                    const auto& wanted, const absl::Status& none) {
  STRATA_ASSIGN_OR_RETURN(std::vector<std::string> names, files.List(folder));
  std::erase_if(names, [&](const std::string& name) {
    if (!wanted(name)) return true;
    const auto info = files.Stat(runtime::JoinPath(folder, name));
    return info.ok() && info->is_directory;
  });
  if (names.empty()) return none;
  STRATA_RETURN_IF_ERROR(CheckShards(names, folder));
  for (std::string& name : names) name = runtime::JoinPath(folder, name);
  return names;
}

}  // namespace

absl::StatusOr<std::vector<std::string>> RowFiles(runtime::FileSystem& files, const std::string& path) {
  const auto info = files.Stat(path);
  if (info.ok() && !info->is_directory) return std::vector<std::string>{path};
  if (info.ok()) {
    return FilesWhere(
        files, path, HasRows,
        absl::NotFoundError(Cat(path, ": no file that ends in ", absl::StrJoin(kEndings, ", "), " is there")));
  }
  const std::string pattern = runtime::BaseName(path);
  if (!absl::IsNotFound(info.status()) || pattern.find_first_of("*?[") == std::string::npos) return info.status();
  return FilesWhere(
      files, runtime::DirName(path),
      [&](const std::string& name) { return fnmatch(pattern.c_str(), name.c_str(), FNM_PERIOD) == 0; },
      absl::NotFoundError(Cat(path, ": no file is called so")));
}

}  // namespace strata::data
