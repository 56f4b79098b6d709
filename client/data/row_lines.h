// The rows of a file, line by line, and what is wrong with some of them.
#ifndef STRATA_CLIENT_DATA_ROW_LINES_H_
#define STRATA_CLIENT_DATA_ROW_LINES_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/data/lines.h"

namespace strata::data {

struct BadRows {
  uint64_t count = 0;
  std::string text;  // lines of "place:line: reason" of the first 20, then a count
};

// Calls `read` with every line that is not blank; INVALID_ARGUMENT from it means a bad row. They are returned with
// `skip`, else all of them are the error. Other errors, and those of the lines, end the reading.
absl::StatusOr<BadRows> ForEachRow(Lines& lines, std::string_view place, bool skip,
                                   const std::function<absl::Status(std::string_view line)>& read);

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_ROW_LINES_H_
