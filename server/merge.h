// Steps 8 and 9 of a round: the accepted updates become the blob of D_t and the next version's list.
#ifndef STRATA_SERVER_MERGE_H_
#define STRATA_SERVER_MERGE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/runtime/runtime.h"
#include "proto/admin.pb.h"
#include "server/round/round_types.h"
#include "server/store/blob_files.h"
#include "server/store/rows.h"

namespace strata::server {

struct MergeInput {
  round::StartAggregation start;
  config::JobOptions job;
  std::vector<std::string> manifests;  // of start.members, in their order
  double bound = 0;                    // the parent version's
  uint32_t max_rank = 0;               // the parent version's
  int num_threads = 1;
};

struct Merged {
  std::vector<round::BlobRef> blobs;      // the new version's list
  std::vector<store::BlobRow> new_blobs;  // durable already
  v1::RoundReport report;                 // all but the sites
  uint32_t max_rank = 0;                  // of a module over all blobs: no more than that
};

// D_t = eta * sum of p_j s_j B_j A_j with p_j = n_j / sum n, re-compressed and written as a PEFT tensor file with
// scaling 1; when the list would pass the job's max_blobs, it is compacted into one blob. Blocks the calling thread (an
// executor's). INVALID_ARGUMENT: no training rows at all, or updates that cannot be added. DATA_LOSS, NOT_FOUND: a blob
// is damaged or gone. RESOURCE_EXHAUSTED: the disk is full; the same call may be repeated.
absl::StatusOr<Merged> MergeRound(const MergeInput& input, store::BlobFiles& blobs, const runtime::Runtime& runtime);

}  // namespace strata::server

#endif  // STRATA_SERVER_MERGE_H_
