#include "client/train/micro_batches.h"

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

}  // namespace strata::train
