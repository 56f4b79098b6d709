#include "tests/testing/sim_file_system.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/status/status_macros.h"

namespace strata::testing {

using runtime::File;
using runtime::FileInfo;
using runtime::Mapping;
using runtime::OpenMode;

struct SimFileSystem::Node {
  using Content = std::shared_ptr<std::string>;
  using Entries = std::map<std::string, std::shared_ptr<Node>>;

  explicit Node(bool is_directory) : directory(is_directory) {}
  ~Node() {
    if (used != nullptr) *used -= allocated;
  }
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  bool directory;
  uint64_t inode = 0;
  absl::Time modified;
  // Shared with mappings and with the durable state: replaced, not changed, while anybody else holds it.
  Content content = std::make_shared<std::string>();
  Content durable_content = std::make_shared<std::string>();
  Entries entries;
  Entries durable_entries;
  uint64_t allocated = 0;
  std::shared_ptr<uint64_t> used;

  std::string& Writable() {
    if (content.use_count() > 1) content = std::make_shared<std::string>(*content);
    return *content;
  }
  void Allocate(uint64_t bytes) {
    *used = *used + bytes - allocated;
    allocated = bytes;
  }
  void Restore() {
    content = durable_content;
    if (used != nullptr) Allocate(content->size());
    entries = durable_entries;
    for (const auto& [name, node] : entries) node->Restore();
  }
  void MakeDurable() {
    durable_content = content;
    durable_entries = entries;
    for (const auto& [name, node] : entries) node->MakeDurable();
  }
};

struct SimFileSystem::State {
  explicit State(const runtime::Clock& c) : clock(c) {}

  absl::Status Check() const {
    return halted ? absl::AbortedError("the simulated machine has halted") : absl::OkStatus();
  }
  // Counts one changing call.
  absl::Status Change() {
    if (!halted && changes_left == 0) halted = true;
    STRATA_RETURN_IF_ERROR(Check());
    if (changes_left != kNever) --changes_left;
    ++num_changes;
    return absl::OkStatus();
  }
  std::shared_ptr<Node> NewNode(bool directory) {
    auto node = std::make_shared<Node>(directory);
    node->inode = next_inode++;
    node->modified = clock.Now();
    node->used = used;
    return node;
  }
  std::shared_ptr<Node> Find(const std::vector<std::string>& parts) const {
    std::shared_ptr<Node> node = root;
    for (const std::string& part : parts) {
      const auto entry = node->entries.find(part);
      if (entry == node->entries.end()) return nullptr;
      node = entry->second;
    }
    return node;
  }
  // The folder that holds the path's last part, or null.
  std::shared_ptr<Node> FindParent(std::vector<std::string> parts) const {
    if (parts.empty()) return nullptr;
    parts.pop_back();
    std::shared_ptr<Node> node = Find(parts);
    return node != nullptr && node->directory ? node : nullptr;
  }
  void Restart() {
    halted = false;
    changes_left = kNever;
    ++generation;
  }

  static constexpr uint64_t kNever = std::numeric_limits<uint64_t>::max();
  const runtime::Clock& clock;
  absl::Mutex mutex;  // guards everything here and every node
  std::shared_ptr<uint64_t> used = std::make_shared<uint64_t>(0);
  std::shared_ptr<Node> root = std::make_shared<Node>(true);
  uint64_t next_inode = 2;
  uint64_t capacity = kNever;
  uint64_t changes_left = kNever;
  uint64_t num_changes = 0;
  uint64_t generation = 0;
  bool halted = false;
};

namespace {

std::vector<std::string> Split(const std::string& path) {
  std::vector<std::string> parts;
  size_t start = 0;
  while (start <= path.size()) {
    const size_t end = std::min(path.find('/', start), path.size());
    const std::string part = path.substr(start, end - start);
    if (part == ".." && !parts.empty()) {
      parts.pop_back();
    } else if (!part.empty() && part != "." && part != "..") {
      parts.push_back(part);
    }
    start = end + 1;
  }
  return parts;
}

absl::Status Missing(const std::string& action, const std::string& path) {
  return absl::NotFoundError(absl::StrCat("cannot ", action, " ", path, ": No such file or directory"));
}

absl::Status Full(const std::string& path) {
  return absl::ResourceExhaustedError(absl::StrCat("cannot write ", path, ": No space left on device"));
}

absl::Status Wrong(const std::string& action, const std::string& path, const std::string& why) {
  return absl::FailedPreconditionError(absl::StrCat("cannot ", action, " ", path, ": ", why));
}

class SimMapping : public Mapping {
 public:
  explicit SimMapping(std::shared_ptr<const std::string> content) : content_(std::move(content)) {}
  std::span<const std::byte> bytes() const override { return std::as_bytes(std::span(*content_)); }
  void Release(size_t /*offset*/, size_t /*length*/) const override {}

 private:
  std::shared_ptr<const std::string> content_;
};

}  // namespace

class SimFileSystem::OpenFile : public File {
 public:
  OpenFile(std::shared_ptr<State> state, std::shared_ptr<Node> node, std::string path, bool writable)
      : state_(std::move(state)),
        node_(std::move(node)),
        path_(std::move(path)),
        writable_(writable),
        generation_(state_->generation) {}
  ~OpenFile() override {
    const absl::MutexLock lock(&state_->mutex);
    node_.reset();
  }

  absl::Status WriteAt(uint64_t offset, std::span<const std::byte> data) override {
    const absl::MutexLock lock(&state_->mutex);
    STRATA_RETURN_IF_ERROR(Change());
    const uint64_t room = state_->capacity - std::min(state_->capacity, *state_->used) + node_->allocated;
    const uint64_t end = offset + data.size();
    const uint64_t stop = std::min(end, std::max(room, node_->allocated));
    if (stop > offset) {
      std::string& content = node_->Writable();
      content.resize(std::max<uint64_t>(content.size(), stop));
      std::memcpy(content.data() + offset, data.data(), stop - offset);
      node_->Allocate(std::max<uint64_t>(node_->allocated, content.size()));
      node_->modified = state_->clock.Now();
    }
    return stop < end ? Full(path_) : absl::OkStatus();
  }

  absl::StatusOr<size_t> ReadAt(uint64_t offset, std::span<std::byte> out) override {
    const absl::MutexLock lock(&state_->mutex);
    STRATA_RETURN_IF_ERROR(Check());
    const std::string& content = *node_->content;
    if (offset >= content.size()) return 0;
    const size_t count = std::min<uint64_t>(out.size(), content.size() - offset);
    if (count > 0) std::memcpy(out.data(), content.data() + offset, count);
    return count;
  }

  absl::Status Reserve(uint64_t size) override {
    const absl::MutexLock lock(&state_->mutex);
    STRATA_RETURN_IF_ERROR(Change());
    if (size <= node_->allocated) return absl::OkStatus();
    if (*state_->used - node_->allocated + size > state_->capacity) return Full(path_);
    node_->Allocate(size);
    return absl::OkStatus();
  }

  absl::Status Truncate(uint64_t size) override {
    const absl::MutexLock lock(&state_->mutex);
    STRATA_RETURN_IF_ERROR(Change());
    node_->Writable().resize(size);
    node_->Allocate(size);
    node_->modified = state_->clock.Now();
    return absl::OkStatus();
  }

  absl::Status Sync() override {
    const absl::MutexLock lock(&state_->mutex);
    STRATA_RETURN_IF_ERROR(Change());
    node_->durable_content = node_->content;
    return absl::OkStatus();
  }

  absl::StatusOr<uint64_t> Size() override {
    const absl::MutexLock lock(&state_->mutex);
    STRATA_RETURN_IF_ERROR(Check());
    return node_->content->size();
  }

 private:
  absl::Status Check() const {
    STRATA_RETURN_IF_ERROR(state_->Check());
    if (generation_ != state_->generation)
      return absl::AbortedError(absl::StrCat(path_, " was opened before the crash"));
    return absl::OkStatus();
  }
  absl::Status Change() {
    STRATA_RETURN_IF_ERROR(Check());
    if (!writable_) return absl::PermissionDeniedError(absl::StrCat("cannot write ", path_, ": opened for reading"));
    return state_->Change();
  }

  std::shared_ptr<State> state_;
  std::shared_ptr<Node> node_;
  std::string path_;
  bool writable_;
  uint64_t generation_;
};

SimFileSystem::SimFileSystem(const runtime::Clock& clock) : state_(std::make_shared<State>(clock)) {}

SimFileSystem::~SimFileSystem() = default;

void SimFileSystem::Crash() {
  const absl::MutexLock lock(&state_->mutex);
  state_->root->Restore();
  state_->Restart();
}

void SimFileSystem::Kill() {
  const absl::MutexLock lock(&state_->mutex);
  state_->Restart();
}

void SimFileSystem::SyncAll() {
  const absl::MutexLock lock(&state_->mutex);
  state_->root->MakeDurable();
}

void SimFileSystem::SetCapacity(uint64_t bytes) {
  const absl::MutexLock lock(&state_->mutex);
  state_->capacity = bytes;
}

uint64_t SimFileSystem::used_bytes() const {
  const absl::MutexLock lock(&state_->mutex);
  return *state_->used;
}

void SimFileSystem::HaltAfter(uint64_t num_changes) {
  const absl::MutexLock lock(&state_->mutex);
  state_->changes_left = num_changes;
}

bool SimFileSystem::halted() const {
  const absl::MutexLock lock(&state_->mutex);
  return state_->halted;
}

uint64_t SimFileSystem::num_changes() const {
  const absl::MutexLock lock(&state_->mutex);
  return state_->num_changes;
}

absl::StatusOr<std::unique_ptr<File>> SimFileSystem::Open(const std::string& path, OpenMode mode) {
  const absl::MutexLock lock(&state_->mutex);
  STRATA_RETURN_IF_ERROR(state_->Check());
  const std::vector<std::string> parts = Split(path);
  std::shared_ptr<Node> node = state_->Find(parts);
  if (node != nullptr) {
    if (mode == OpenMode::kCreateNew)
      return absl::AlreadyExistsError(absl::StrCat("cannot create ", path, ": File exists"));
    if (node->directory) return Wrong("open", path, "Is a directory");
  } else {
    if (mode == OpenMode::kRead || mode == OpenMode::kReadWrite) return Missing("open", path);
    const std::shared_ptr<Node> parent = state_->FindParent(parts);
    if (parent == nullptr) return Missing("create", path);
    STRATA_RETURN_IF_ERROR(state_->Change());
    node = state_->NewNode(false);
    parent->entries[parts.back()] = node;
  }
  return std::make_unique<OpenFile>(state_, node, path, mode != OpenMode::kRead);
}

absl::StatusOr<std::shared_ptr<const Mapping>> SimFileSystem::Map(const std::string& path) {
  const absl::MutexLock lock(&state_->mutex);
  STRATA_RETURN_IF_ERROR(state_->Check());
  const std::shared_ptr<Node> node = state_->Find(Split(path));
  if (node == nullptr) return Missing("open", path);
  if (node->directory) return Wrong("map", path, "Is a directory");
  return std::make_shared<SimMapping>(node->content);
}

absl::StatusOr<FileInfo> SimFileSystem::Stat(const std::string& path) {
  const absl::MutexLock lock(&state_->mutex);
  STRATA_RETURN_IF_ERROR(state_->Check());
  const std::shared_ptr<Node> node = state_->Find(Split(path));
  if (node == nullptr) return Missing("find", path);
  return FileInfo{.size_bytes = node->content->size(),
                  .is_directory = node->directory,
                  .device = 1,
                  .inode = node->inode,
                  .modified = node->modified};
}

absl::StatusOr<std::vector<std::string>> SimFileSystem::List(const std::string& directory) {
  const absl::MutexLock lock(&state_->mutex);
  STRATA_RETURN_IF_ERROR(state_->Check());
  const std::shared_ptr<Node> node = state_->Find(Split(directory));
  if (node == nullptr) return Missing("list", directory);
  if (!node->directory) return Wrong("list", directory, "Not a directory");
  std::vector<std::string> names;
  for (const auto& [name, entry] : node->entries) names.push_back(name);
  return names;
}

absl::Status SimFileSystem::MakeDirectories(const std::string& path) {
  const absl::MutexLock lock(&state_->mutex);
  STRATA_RETURN_IF_ERROR(state_->Change());
  std::shared_ptr<Node> node = state_->root;
  for (const std::string& part : Split(path)) {
    std::shared_ptr<Node>& entry = node->entries[part];
    if (entry == nullptr) entry = state_->NewNode(true);
    if (!entry->directory) return Wrong("make the folder", path, "Not a directory");
    node = entry;
  }
  return absl::OkStatus();
}

absl::Status SimFileSystem::Rename(const std::string& from, const std::string& to) {
  const absl::MutexLock lock(&state_->mutex);
  STRATA_RETURN_IF_ERROR(state_->Change());
  const std::vector<std::string> from_parts = Split(from);
  const std::vector<std::string> to_parts = Split(to);
  const std::shared_ptr<Node> node = state_->Find(from_parts);
  const std::shared_ptr<Node> parent = state_->FindParent(to_parts);
  if (node == nullptr || parent == nullptr || from_parts.empty())
    return Missing(absl::StrCat("rename ", from, " to"), to);
  const std::shared_ptr<Node> target = state_->Find(to_parts);
  if (target != nullptr && target->directory && (!node->directory || !target->entries.empty())) {
    return Wrong(absl::StrCat("rename ", from, " to"), to, node->directory ? "Directory not empty" : "Is a directory");
  }
  if (target != nullptr && !target->directory && node->directory) {
    return Wrong(absl::StrCat("rename ", from, " to"), to, "Not a directory");
  }
  state_->FindParent(from_parts)->entries.erase(from_parts.back());
  parent->entries[to_parts.back()] = node;
  return absl::OkStatus();
}

absl::Status SimFileSystem::Remove(const std::string& path) {
  const absl::MutexLock lock(&state_->mutex);
  STRATA_RETURN_IF_ERROR(state_->Change());
  const std::vector<std::string> parts = Split(path);
  const std::shared_ptr<Node> node = state_->Find(parts);
  if (node == nullptr || parts.empty()) return Missing("remove", path);
  if (!node->entries.empty()) return Wrong("remove", path, "Directory not empty");
  state_->FindParent(parts)->entries.erase(parts.back());
  return absl::OkStatus();
}

absl::Status SimFileSystem::RemoveAll(const std::string& path) {
  const absl::MutexLock lock(&state_->mutex);
  STRATA_RETURN_IF_ERROR(state_->Change());
  const std::vector<std::string> parts = Split(path);
  const std::shared_ptr<Node> parent = state_->FindParent(parts);
  if (parent != nullptr) parent->entries.erase(parts.back());
  return absl::OkStatus();
}

absl::Status SimFileSystem::SyncDirectory(const std::string& directory) {
  const absl::MutexLock lock(&state_->mutex);
  STRATA_RETURN_IF_ERROR(state_->Change());
  const std::shared_ptr<Node> node = state_->Find(Split(directory));
  if (node == nullptr) return Missing("sync the folder", directory);
  if (!node->directory) return Wrong("sync the folder", directory, "Not a directory");
  node->durable_entries = node->entries;
  return absl::OkStatus();
}

}  // namespace strata::testing
