#include "client/data/row_lines.h"

#include <optional>

#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::data {
namespace {

constexpr uint64_t kMaxNamed = 20;

bool IsBlank(std::string_view line) { return line.find_first_not_of(" \t\r") == std::string_view::npos; }

}  // namespace

absl::StatusOr<BadRows> ForEachRow(Lines& lines, std::string_view place, bool skip,
                                   const std::function<absl::Status(std::string_view line)>& read) {
  BadRows bad;
  for (uint64_t number = 1;; ++number) {
    STRATA_ASSIGN_OR_RETURN(const std::optional<std::string_view> line, lines.Next());
    if (!line.has_value()) break;
    if (IsBlank(*line)) continue;
    const absl::Status status = read(*line);
    if (status.ok()) continue;
    if (!absl::IsInvalidArgument(status)) return status;
    if (++bad.count > kMaxNamed) continue;
    bad.text += Cat(bad.count > 1 ? "\n" : "", place, ":", number, ": ", status.message());
  }
  if (bad.count > kMaxNamed) bad.text += Cat("\n", place, ": ", bad.count - kMaxNamed, " more bad rows");
  if (bad.count > 0 && !skip) return absl::InvalidArgumentError(bad.text);
  return bad;
}

}  // namespace strata::data
