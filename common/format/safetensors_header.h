// The JSON header of a safetensors file, parsed without trusting it. Private to common/format.
#ifndef STRATA_COMMON_FORMAT_SAFETENSORS_HEADER_H_
#define STRATA_COMMON_FORMAT_SAFETENSORS_HEADER_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/format/tensor.h"

namespace strata::format::internal {

struct HeaderEntry {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  uint64_t begin = 0, end = 0;  // within the data
};

struct SafetensorsHeader {
  std::vector<HeaderEntry> entries;  // in file order; names are not yet known to be unique
  std::map<std::string, std::string> metadata;
};

// INVALID_ARGUMENT: no JSON, another structure, a key twice inside an entry, numbers that do not fit. Whether offsets
// fit together and fit the data is the caller's to check.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json);

// A name from a file, shortened and escaped for a message.
std::string Quoted(std::string_view name);

}  // namespace strata::format::internal

#endif  // STRATA_COMMON_FORMAT_SAFETENSORS_HEADER_H_
