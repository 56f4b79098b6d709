// What an export wrote.
#ifndef STRATA_CLIENT_EXPORT_WRITTEN_H_
#define STRATA_CLIENT_EXPORT_WRITTEN_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "client/export/merged_model.h"

namespace strata::exporting {

struct Written {
  std::string path;
  uint64_t bytes = 0;  // of tensor data
  size_t tensors = 0;
  Rounding rounding = {};
};

}  // namespace strata::exporting

#endif  // STRATA_CLIENT_EXPORT_WRITTEN_H_
