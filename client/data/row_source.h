// The rows of one or several files as JSON objects, one after another, and what is wrong with some of them.
#ifndef STRATA_CLIENT_DATA_ROW_SOURCE_H_
#define STRATA_CLIENT_DATA_ROW_SOURCE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/data/json_value.h"
#include "client/data/lines.h"
#include "common/runtime/file_system.h"

namespace strata::data {

struct Row {
  uint64_t number = 0;                 // of the line, or of the record; from 1
  absl::StatusOr<OrderedJson> object;  // INVALID_ARGUMENT: what is wrong with it, without its texts
};

// Holds one row, or a Parquet file's row group, at a time. Not thread-safe.
class RowSource {
 public:
  virtual ~RowSource() = default;
  // Nothing at the end. Errors mean the file, not a row. DATA_LOSS: damaged.
  virtual absl::StatusOr<std::optional<Row>> Next() = 0;
  // The file that the last row lies in, for messages.
  virtual const std::string& place() const = 0;
};

// A line of JSON, which must be an object. INVALID_ARGUMENT: it is none.
absl::StatusOr<OrderedJson> ParseRow(std::string_view line);
// Lines of JSON (LF or CRLF); blank ones are left out.
std::unique_ptr<RowSource> RowsOf(std::unique_ptr<Lines> lines, std::string place);
// The rows of all files that `path` means (row_files.h). By its first bytes each is Parquet (parquet_rows.h), or lines
// of JSON that zstd has compressed or not. Row numbers are within the file.
absl::StatusOr<std::unique_ptr<RowSource>> OpenRows(runtime::FileSystem& files, const std::string& path);

struct BadRows {
  uint64_t count = 0;
  std::string text;  // lines of "place:number: reason" of the first 20, then a count
};
// Calls `read` with every row; INVALID_ARGUMENT from it means a bad row. They are returned with `skip`, else all of
// them are the error. Other errors, and those of the source, end the reading.
absl::StatusOr<BadRows> ForEachRow(RowSource& source, bool skip,
                                   const std::function<absl::Status(const OrderedJson& row)>& read);

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_ROW_SOURCE_H_
