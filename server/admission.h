// Does this update count? What the server checks of a site's report before it is accepted. Pure.
#ifndef STRATA_SERVER_ADMISSION_H_
#define STRATA_SERVER_ADMISSION_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "common/adapter/manifest.h"
#include "server/round/round_types.h"

namespace strata::server {

// From the manifest alone, before any byte of the update is sent.
// FAILED_PRECONDITION: it belongs to another assignment or starts from another version.
// INVALID_ARGUMENT (all faults at once): another base model, modules that were not assigned, ranks over the
// assignment's, too large.
absl::Status CheckManifest(const adapter::Manifest& manifest, const round::AssignmentRecord& record,
                           const config::JobOptions& job, uint64_t max_update_bytes);

// The tensor file against the manifest and the assignment.
// DATA_LOSS: the bytes do not have the announced digest. INVALID_ARGUMENT: what is wrong with the update.
absl::Status CheckUpdate(std::span<const std::byte> tensors, const adapter::Manifest& manifest,
                         const round::AssignmentRecord& record, const config::JobOptions& job);

}  // namespace strata::server

#endif  // STRATA_SERVER_ADMISSION_H_
