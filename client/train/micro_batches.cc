#include "client/train/micro_batches.h"

#include <algorithm>
#include <numeric>

namespace strata::train {

std::vector<std::pair<size_t, size_t>> MicroBatches(const std::vector<const data::Example*>& rows,
                                                    const MicroBatchRule& rule) {
  std::vector<std::pair<size_t, size_t>> out;
  size_t tokens = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    const size_t length = rows[i]->ids.size();
    if (out.empty() || !rule.pack || i % rule.rows == 0 || tokens + length > rule.tokens) {
      out.emplace_back(i, i);
      tokens = 0;
    }
    out.back().second = i + 1;
    tokens += length;
  }
  return out;
}

std::vector<const data::Example*> RowsOfReplica(const std::vector<const data::Example*>& rows, int rank, int size) {
  std::vector<size_t> longest_first(rows.size());
  std::iota(longest_first.begin(), longest_first.end(), size_t{0});
  std::stable_sort(longest_first.begin(), longest_first.end(),
                   [&](size_t a, size_t b) { return rows[a]->ids.size() > rows[b]->ids.size(); });
  std::vector<size_t> tokens(static_cast<size_t>(size));
  std::vector<size_t> own;
  for (const size_t row : longest_first) {
    const auto least = std::min_element(tokens.begin(), tokens.end());
    *least += rows[row]->ids.size();
    if (least - tokens.begin() == rank) own.push_back(row);
  }
  std::sort(own.begin(), own.end());
  std::vector<const data::Example*> share;
  share.reserve(own.size());
  for (const size_t row : own) share.push_back(rows[row]);
  return share;
}

}  // namespace strata::train
