// absl::StrCat that also takes std::string_view: where abseil was built with its own string_view the two do not
// convert.
#ifndef STRATA_COMMON_STATUS_CAT_H_
#define STRATA_COMMON_STATUS_CAT_H_

#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace strata {
namespace internal {

inline absl::string_view CatPiece(std::string_view piece) { return {piece.data(), piece.size()}; }
inline absl::string_view CatPiece(const std::string& piece) { return piece; }
inline absl::string_view CatPiece(const char* piece) { return piece; }
template <typename T>
const T& CatPiece(const T& piece) {
  return piece;
}

}  // namespace internal

template <typename... Pieces>
std::string Cat(const Pieces&... pieces) {
  return absl::StrCat(internal::CatPiece(pieces)...);
}

}  // namespace strata

#endif  // STRATA_COMMON_STATUS_CAT_H_
