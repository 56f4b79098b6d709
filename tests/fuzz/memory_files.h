// A read-only folder in memory, for entry points whose parsers open several files.
#ifndef STRATA_TESTS_FUZZ_MEMORY_FILES_H_
#define STRATA_TESTS_FUZZ_MEMORY_FILES_H_

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/runtime/file_system.h"

namespace strata::fuzz {

// Files by full path; a folder is what is a prefix of one.
class MemoryFiles : public runtime::FileSystem {
 public:
  explicit MemoryFiles(std::map<std::string, std::string> files) : files_(std::move(files)) {}

  absl::StatusOr<std::unique_ptr<runtime::File>> Open(const std::string& path, runtime::OpenMode mode) override {
    const auto it = files_.find(path);
    if (it == files_.end() || mode != runtime::OpenMode::kRead) return Missing(path);
    return std::make_unique<OpenFile>(it->second);
  }
  absl::StatusOr<std::shared_ptr<const runtime::Mapping>> Map(const std::string& path) override {
    const auto it = files_.find(path);
    if (it == files_.end()) return Missing(path);
    return std::make_shared<View>(it->second);
  }
  absl::StatusOr<runtime::FileInfo> Stat(const std::string& path) override {
    runtime::FileInfo info;
    if (const auto it = files_.find(path); it != files_.end()) {
      info.size_bytes = it->second.size();
      return info;
    }
    const auto entries = List(path);
    if (entries->empty()) return Missing(path);
    info.is_directory = true;
    return info;
  }
  absl::StatusOr<std::vector<std::string>> List(const std::string& directory) override {
    std::vector<std::string> names;
    const std::string prefix = directory + "/";
    for (const auto& [path, content] : files_) {
      if (path.compare(0, prefix.size(), prefix) == 0) names.push_back(path.substr(prefix.size()));
    }
    return names;
  }
  absl::Status MakeDirectories(const std::string& path) override { return ReadOnly(path); }
  absl::Status Rename(const std::string& from, const std::string& /*to*/) override { return ReadOnly(from); }
  absl::Status Remove(const std::string& path) override { return ReadOnly(path); }
  absl::Status RemoveAll(const std::string& path) override { return ReadOnly(path); }
  absl::Status SyncDirectory(const std::string& directory) override { return ReadOnly(directory); }

 private:
  class View : public runtime::Mapping {
   public:
    explicit View(const std::string& content) : content_(content) {}
    std::span<const std::byte> bytes() const override { return std::as_bytes(std::span(content_)); }
    void Release(size_t /*offset*/, size_t /*length*/) const override {}

   private:
    const std::string& content_;
  };
  class OpenFile : public runtime::File {
   public:
    explicit OpenFile(const std::string& content) : content_(content) {}
    absl::StatusOr<size_t> ReadAt(uint64_t offset, std::span<std::byte> out) override {
      if (offset >= content_.size()) return size_t{0};
      const size_t count = std::min<size_t>(out.size(), content_.size() - offset);
      std::memcpy(out.data(), content_.data() + offset, count);
      return count;
    }
    absl::StatusOr<uint64_t> Size() override { return content_.size(); }
    absl::Status WriteAt(uint64_t /*offset*/, std::span<const std::byte> /*data*/) override { return ReadOnly(""); }
    absl::Status Reserve(uint64_t /*size*/) override { return ReadOnly(""); }
    absl::Status Truncate(uint64_t /*size*/) override { return ReadOnly(""); }
    absl::Status Sync() override { return ReadOnly(""); }

   private:
    const std::string& content_;
  };
  static absl::Status Missing(const std::string& path) { return absl::NotFoundError("no " + path); }
  static absl::Status ReadOnly(const std::string& path) { return absl::PermissionDeniedError("read-only " + path); }

  std::map<std::string, std::string> files_;
};

}  // namespace strata::fuzz

#endif  // STRATA_TESTS_FUZZ_MEMORY_FILES_H_
