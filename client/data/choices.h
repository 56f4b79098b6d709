// Questions with choices from a file.
#ifndef STRATA_CLIENT_DATA_CHOICES_H_
#define STRATA_CLIENT_DATA_CHOICES_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/data/row_reader.h"
#include "client/data/row_source.h"
#include "common/runtime/file_system.h"

namespace strata::data {

struct ChoiceOptions {
  size_t max_length = 1024;    // where question and choice are longer, the question loses its beginning
  bool skip_bad_rows = false;  // bad rows are counted and left out; false: they are an error
};

struct ChoiceSet {
  std::vector<ChoiceRow> rows;  // in file order
  uint64_t num_truncated = 0;
  BadRows bad;
};

// Lines of RowReader::ReadChoices, also compressed by zstd. INVALID_ARGUMENT: file:line of every bad row, a choice of
// max_length tokens or more among them; no row at all.
absl::StatusOr<ChoiceSet> ReadChoices(runtime::FileSystem& files, const std::string& path, const RowReader& reader,
                                      const ChoiceOptions& options);

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_CHOICES_H_
