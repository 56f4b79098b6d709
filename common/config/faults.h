// Collects everything that is wrong with one file, so that it is reported at once.
#ifndef STRATA_COMMON_CONFIG_FAULTS_H_
#define STRATA_COMMON_CONFIG_FAULTS_H_

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace strata::config {

// Knows on which line each key of the file stands. A key is named by its dotted path ("training.optimizer.betas").
class Faults {
 public:
  // `place` names the file; empty for a message that came over the wire: faults then carry the path and no line.
  explicit Faults(std::string_view place) : place_(place) {}

  void SetLine(const std::string& path, int line) { lines_[path] = line; }
  // The value at this key could not be read: nothing more is to be said of it, or of the list that it is in.
  void SetBroken(const std::string& path);
  bool Broken(const std::string& path) const { return broken_.contains(path); }
  // The key stands in the file, with a value that could be read.
  bool Given(const std::string& path) const { return lines_.contains(path) && !Broken(path); }
  void AddAtLine(int line, std::string_view message);
  // At the line of the key, or of the nearest key around it that the file has.
  void Add(const std::string& path, std::string_view message);
  bool empty() const { return faults_.empty(); }
  // OK, or INVALID_ARGUMENT with one line per fault, by line, then in the order of Add.
  absl::Status ToStatus() const;

 private:
  struct Fault {
    int line;
    std::string text;
  };
  int LineOf(std::string path) const;

  std::string place_;
  std::map<std::string, int> lines_;
  std::set<std::string> broken_;
  std::vector<Fault> faults_;
};

// "a.b" from "a" and "b", "b" from "" and "b".
std::string JoinKeys(std::string_view prefix, std::string_view key);
// Edits (insert, delete, replace, swap of neighbours) from one to the other.
size_t EditDistance(std::string_view a, std::string_view b);
// The candidate that takes the fewest edits, where completing a beginning is one; "" when there is none. The first wins
// a draw.
std::string Nearest(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace strata::config

#endif  // STRATA_COMMON_CONFIG_FAULTS_H_
