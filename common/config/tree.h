// What a YAML or JSON text says, with line numbers, before anybody knows what it means.
#ifndef STRATA_COMMON_CONFIG_TREE_H_
#define STRATA_COMMON_CONFIG_TREE_H_

#include <string>
#include <string_view>
#include <vector>

#include "common/config/faults.h"

namespace strata::config {

struct Entry;

struct Node {
  enum class Kind {
    kNull,
    kPlain,   // an unquoted scalar of YAML, a number or a boolean of JSON
    kString,  // in quotes
    kList,
    kMap,
  };
  Kind kind = Kind::kNull;
  int line = 1;
  std::string text;            // kPlain, kString
  std::vector<Node> items;     // kList
  std::vector<Entry> entries;  // kMap, in the order of the file; a duplicate key is a fault and left out

  bool is_scalar() const { return kind == Kind::kPlain || kind == Kind::kString; }
  const Node* Find(std::string_view key) const;
};

struct Entry {
  std::string key;
  int line = 1;
  Node value;
};

// A text whose first character is `{` is JSON, else YAML; an empty one is an empty map. Faults: syntax (one: nothing is
// read beyond it), duplicate keys, anchors and aliases, tags, several documents, nesting beyond 32.
// False: there is no tree.
bool ParseTree(std::string_view text, Faults& faults, Node& root);

// Puts a tree together from the events of a parser.
class TreeBuilder {
 public:
  TreeBuilder(Faults& faults, Node& root) : faults_(faults), root_(root) {}
  // False: too deep; the parser is to stop.
  bool Open(Node::Kind kind, int line);
  void Close();
  // A scalar is the next key where a map waits for one.
  void Scalar(Node::Kind kind, std::string text, int line);

 private:
  struct Level {
    Node node;
    bool has_key = false;
    std::string key;
    int key_line = 0;
  };
  bool TakeKey(Node::Kind kind, const std::string& text, int line);
  void Place(Node node);

  Faults& faults_;
  Node& root_;
  std::vector<Level> levels_;
};

// The two readers behind ParseTree.
bool ParseYaml(std::string_view text, Faults& faults, Node& root);
bool ParseJson(std::string_view text, Faults& faults, Node& root);

}  // namespace strata::config

#endif  // STRATA_COMMON_CONFIG_TREE_H_
