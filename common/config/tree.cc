#include "common/config/tree.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace strata::config {
namespace {

constexpr size_t kMaxDepth = 32;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

}  // namespace

const Node* Node::Find(std::string_view key) const {
  const auto entry = std::find_if(entries.begin(), entries.end(), [&](const Entry& e) { return e.key == key; });
  return entry == entries.end() ? nullptr : &entry->value;
}

bool ParseTree(std::string_view text, Faults& faults, Node& root) {
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  const size_t start = text.find_first_not_of(" \t\r\n");
  const bool json = start != std::string_view::npos && text[start] == '{';
  if (!(json ? ParseJson(text, faults, root) : ParseYaml(text, faults, root))) return false;
  if (root.kind == Node::Kind::kNull) root.kind = Node::Kind::kMap;
  if (root.kind == Node::Kind::kMap) return true;
  faults.AddAtLine(root.line, "expected keys and values (`key: value`)");
  return false;
}

bool TreeBuilder::Open(Node::Kind kind, int line) {
  if (levels_.size() >= kMaxDepth) {
    faults_.AddAtLine(line, absl::StrCat("nested more than ", kMaxDepth, " levels deep"));
    return false;
  }
  if (!levels_.empty() && levels_.back().node.kind == Node::Kind::kMap && !levels_.back().has_key) {
    faults_.AddAtLine(line, "expected a key, found a list or a map");
    return false;
  }
  Level level;
  level.node.kind = kind;
  level.node.line = line;
  levels_.push_back(std::move(level));
  return true;
}

void TreeBuilder::Close() {
  Node node = std::move(levels_.back().node);
  levels_.pop_back();
  Place(std::move(node));
}

void TreeBuilder::Scalar(Node::Kind kind, std::string text, int line) {
  if (TakeKey(kind, text, line)) return;
  Node node;
  node.kind = kind;
  node.text = std::move(text);
  node.line = line;
  Place(std::move(node));
}

bool TreeBuilder::TakeKey(Node::Kind kind, const std::string& text, int line) {
  if (levels_.empty() || levels_.back().node.kind != Node::Kind::kMap || levels_.back().has_key) return false;
  Level& level = levels_.back();
  level.has_key = true;
  level.key = kind == Node::Kind::kNull ? "null" : text;
  level.key_line = line;
  return true;
}

void TreeBuilder::Place(Node node) {
  if (levels_.empty()) {
    root_ = std::move(node);
    return;
  }
  Level& level = levels_.back();
  if (level.node.kind == Node::Kind::kList) {
    level.node.items.push_back(std::move(node));
    return;
  }
  level.has_key = false;
  if (node.kind == Node::Kind::kNull) node.line = level.key_line;  // nothing has no place of its own
  for (const Entry& entry : level.node.entries) {
    if (entry.key != level.key) continue;
    faults_.AddAtLine(level.key_line,
                      absl::StrCat("duplicate key `", level.key, "`; it stands on line ", entry.line, " already"));
    return;
  }
  level.node.entries.push_back({.key = level.key, .line = level.key_line, .value = std::move(node)});
}

}  // namespace strata::config
