// Hash maps over text that take std::string_view as the key of a look-up, whatever string_view abseil was built with.
#ifndef STRATA_CLIENT_DATA_TEXT_MAP_H_
#define STRATA_CLIENT_DATA_TEXT_MAP_H_

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include "absl/container/flat_hash_map.h"

namespace strata::data {

struct TextHash {
  using is_transparent = void;  // NOLINT(readability-identifier-naming): the name that look-ups ask for
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};

template <typename Value>
using TextMap = absl::flat_hash_map<std::string, Value, TextHash, std::equal_to<>>;

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_TEXT_MAP_H_
