#include "common/config/faults.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace strata::config {
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> cost(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) cost[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) cost[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replace = cost[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      cost[i][j] = std::min({cost[i - 1][j] + 1, cost[i][j - 1] + 1, replace});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
      }
    }
  }
  return cost[a.size()][b.size()];
}

void Faults::AddAtLine(int line, std::string_view message) { faults_.push_back({line, std::string(message)}); }

void Faults::Add(const std::string& path, std::string_view message) {
  if (place_.empty()) {
    faults_.push_back({0, path.empty() ? std::string(message) : absl::StrCat(path, ": ", std::string(message))});
    return;
  }
  AddAtLine(LineOf(path), message);
}

void Faults::SetBroken(const std::string& path) {
  broken_.insert(path);
  if (path.ends_with(']')) broken_.insert(path.substr(0, path.rfind('[')));
}

int Faults::LineOf(std::string path) const {
  while (true) {
    const auto line = lines_.find(path);
    if (line != lines_.end()) return line->second;
    const size_t cut = path.find_last_of(".[");
    if (cut == std::string::npos) return 1;
    path.resize(cut);
  }
}

absl::Status Faults::ToStatus() const {
  if (faults_.empty()) return absl::OkStatus();
  std::vector<Fault> sorted = faults_;
  std::stable_sort(sorted.begin(), sorted.end(), [](const Fault& a, const Fault& b) { return a.line < b.line; });
  std::string text;
  for (const Fault& fault : sorted) {
    if (!text.empty()) text += '\n';
    if (!place_.empty()) absl::StrAppend(&text, place_, ":", fault.line, ": ");
    text += fault.text;
  }
  return absl::InvalidArgumentError(text);
}

std::string JoinKeys(std::string_view prefix, std::string_view key) {
  std::string path(prefix);
  if (!path.empty() && !key.starts_with('[')) path += '.';
  return path.append(key);
}

std::string Nearest(std::string_view word, const std::vector<std::string>& candidates) {
  // Beyond any key's length nothing is near, and the table would cost as much as the word is long.
  const std::string_view head = word.substr(0, 64);
  std::string best;
  size_t best_distance = 0;
  for (const std::string& candidate : candidates) {
    size_t distance = EditDistance(head, candidate);
    if (!head.empty() && candidate.starts_with(head)) distance = std::min<size_t>(distance, 1);  // cut short
    if (best.empty() || distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

}  // namespace strata::config
