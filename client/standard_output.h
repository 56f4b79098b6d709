// Standard output of commands whose results go down a pipe.
#ifndef STRATA_CLIENT_STANDARD_OUTPUT_H_
#define STRATA_CLIENT_STANDARD_OUTPUT_H_

#include <string_view>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"

namespace strata {

// CANCELLED: nobody reads any more, which is no failure of ours. DATA_LOSS: another error.
absl::Status WriteOut(std::string_view text);
absl::Status WriteLine(const nlohmann::ordered_json& row);
absl::Status FlushOut();
// At a command's end: whether all that went to std::cout or stdout was written. Errors as above.
absl::Status FinishOut();

}  // namespace strata

#endif  // STRATA_CLIENT_STANDARD_OUTPUT_H_
