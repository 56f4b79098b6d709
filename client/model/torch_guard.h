// The edge to LibTorch: its exceptions end here and become statuses.
#ifndef STRATA_CLIENT_MODEL_TORCH_GUARD_H_
#define STRATA_CLIENT_MODEL_TORCH_GUARD_H_

#include <c10/util/Exception.h>

#include <exception>
#include <new>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace strata::model {

// RESOURCE_EXHAUSTED when the text says that memory ran out, else INTERNAL.
inline absl::Status TorchFailure(const std::string& what, const std::string& message) {
  const bool memory = absl::StrContains(message, "out of memory") || absl::StrContains(message, "allocate memory");
  if (memory) {
    return absl::ResourceExhaustedError(
        absl::StrCat(what, ": memory ran out (", message,
                     "); use a smaller batch_size or max_length, pack: false, dtype bf16, or, of a training, "
                     "max_memory"));
  }
  return absl::InternalError(absl::StrCat(what, ": LibTorch: ", message));
}

// Runs `work`, which returns a Status or a StatusOr; `what` names the attempt in errors.
template <typename F>
auto TorchGuard(const std::string& what, F&& work) -> decltype(work()) {
  try {
    return std::forward<F>(work)();
  } catch (const c10::Error& error) {
    return TorchFailure(what, error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    return TorchFailure(what, "cannot allocate memory");
  } catch (const std::exception& error) {
    return TorchFailure(what, error.what());
  }
}

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_TORCH_GUARD_H_
