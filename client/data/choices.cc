#include "client/data/choices.h"

#include <algorithm>
#include <utility>

#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::data {
namespace {

// Whether the question had to be cut.
absl::StatusOr<bool> Fit(ChoiceRow& row, size_t max_length) {
  size_t longest = 0;
  for (const ChoiceRow::Choice& choice : row.choices) longest = std::max(longest, choice.ids.size());
  if (longest >= max_length) {
    return absl::InvalidArgumentError(
        Cat("a choice of ", longest, " tokens leaves no room for the question in max_length ", max_length));
  }
  const size_t room = max_length - longest;
  if (row.question.size() <= room) return false;
  row.question.erase(row.question.begin(), row.question.end() - static_cast<std::ptrdiff_t>(room));
  return true;
}

}  // namespace

absl::StatusOr<ChoiceSet> ReadChoices(runtime::FileSystem& files, const std::string& path, const RowReader& reader,
                                      const ChoiceOptions& options) {
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<RowSource> source, OpenRows(files, path));
  ChoiceSet set;
  const auto read = [&](const OrderedJson& json) -> absl::Status {
    STRATA_ASSIGN_OR_RETURN(ChoiceRow row, reader.ReadChoices(json));
    STRATA_ASSIGN_OR_RETURN(const bool cut, Fit(row, options.max_length));
    set.num_truncated += cut ? 1 : 0;
    set.rows.push_back(std::move(row));
    return absl::OkStatus();
  };
  STRATA_ASSIGN_OR_RETURN(set.bad, ForEachRow(*source, options.skip_bad_rows, read));
  if (set.rows.empty()) return absl::InvalidArgumentError(Cat(path, ": no row with a question"));
  return set;
}

}  // namespace strata::data
