// The lines of a text file or of one that zstd has compressed, one after another in bounded memory.
#ifndef STRATA_CLIENT_DATA_LINES_H_
#define STRATA_CLIENT_DATA_LINES_H_

#include <istream>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "common/runtime/file_system.h"

namespace strata::data {

// Not thread-safe.
class Lines {
 public:
  virtual ~Lines() = default;
  // The next line without its line feed, valid until the next call; nothing at the end. DATA_LOSS: not what zstd wrote.
  // INVALID_ARGUMENT: a line of more than 256 MiB.
  virtual absl::StatusOr<std::optional<std::string_view>> Next() = 0;
};

// `text` outlives the lines.
std::unique_ptr<Lines> LinesOf(std::string_view text);
// By its first bytes the file is compressed, or is not. Pages that were read are given back to the kernel. `path`
// stands in messages.
std::unique_ptr<Lines> LinesOf(std::shared_ptr<const runtime::Mapping> mapping, const std::string& path);
// As they come; `stream` outlives the lines.
std::unique_ptr<Lines> LinesOf(std::istream& stream);

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_LINES_H_
