#include "common/runtime/file_system.h"

#include <algorithm>
#include <utility>

#include "common/runtime/pending_file.h"
#include "common/status/status_macros.h"

namespace strata::runtime {
namespace {

constexpr size_t kReadStep = size_t{1} << 20;

}  // namespace

absl::StatusOr<std::string> FileSystem::ReadFile(const std::string& path) {
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<File> file, Open(path, OpenMode::kRead));
  STRATA_ASSIGN_OR_RETURN(const uint64_t size, file->Size());
  std::string content;
  // Pipes and /proc say that their size is 0, so the end is where a read returns nothing.
  size_t step = std::clamp<size_t>(size + 1, 4096, size_t{1} << 30);
  while (true) {
    const size_t start = content.size();
    content.resize(start + step);
    auto got = file->ReadAt(start, std::as_writable_bytes(std::span(content)).subspan(start));
    if (!got.ok()) return std::move(got).status();
    content.resize(start + *got);
    if (*got == 0) return content;
    step = kReadStep;
  }
}

absl::Status FileSystem::WriteFile(const std::string& path, std::string_view content) {
  STRATA_ASSIGN_OR_RETURN(PendingFile file, PendingFile::Create(*this, path));
  STRATA_RETURN_IF_ERROR(file.Append(std::as_bytes(std::span(content))));
  return std::move(file).Commit();
}

std::string JoinPath(std::string_view a, std::string_view b) {
  if (a.empty() || b.starts_with('/')) return std::string(b);
  if (b.empty()) return std::string(a);
  std::string path(a);
  if (!a.ends_with('/')) path += '/';
  return path.append(b);
}

std::string BaseName(std::string_view path) {
  while (path.size() > 1 && path.ends_with('/')) path.remove_suffix(1);
  const size_t slash = path.rfind('/');
  if (slash == std::string_view::npos || path.size() == 1) return std::string(path);
  return std::string(path.substr(slash + 1));
}

std::string DirName(std::string_view path) {
  while (path.size() > 1 && path.ends_with('/')) path.remove_suffix(1);
  const size_t slash = path.rfind('/');
  if (slash == std::string_view::npos) return ".";
  path = path.substr(0, slash);
  while (path.ends_with('/')) path.remove_suffix(1);
  return path.empty() ? "/" : std::string(path);
}

}  // namespace strata::runtime
