// The server's domain <-> messages of proto/ and rows of the store.
#ifndef STRATA_SERVER_CONVERT_H_
#define STRATA_SERVER_CONVERT_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/admin.pb.h"
#include "proto/federation.pb.h"
#include "server/round/round_types.h"
#include "server/service/backend.h"
#include "server/store/rows.h"

namespace strata::server {

round::CheckedIn FromProto(const service::Caller& caller, const v1::CheckInRequest& request, uint64_t token);
round::Progress FromProto(const v1::ProgressRequest& request);

// What the server's configuration adds to an assignment.
struct AssignmentTerms {
  absl::Duration progress_interval;
  uint64_t max_update_bytes = 0;
};
v1::Assignment ToProto(const round::Assignment& assignment, const config::JobOptions& job,
                       const AssignmentTerms& terms);
v1::CheckInResponse ToProto(const round::ComeBack& come_back);
v1::CheckInResponse ToProto(const round::NotEligible& not_eligible);
v1::Receipt ToProto(const round::Receipt& receipt);
v1::JobSummary SummaryOf(const round::JobRecord& job);
v1::JobState ToProto(round::JobState state);
std::string_view NameOf(round::AssignmentState state, const round::AssignmentRecord& record);

// The same error with the server's own word on when to come back.
absl::Status RetryAfter(absl::Status status, absl::Duration delay);

store::JobRow ToRow(const round::JobRecord& job);
// `bytes_down`: of the version's blobs that the site fetched for it.
store::AssignmentRow ToRow(const round::AssignmentRecord& record, uint64_t bytes_down);
// DATA_LOSS: bytes that are no such message. The job's assignments and blobs are filled in by the caller.
absl::StatusOr<round::JobRecord> FromRow(const store::JobRow& row);
absl::StatusOr<round::AssignmentRecord> FromRow(const store::AssignmentRow& row);
// The fetched bytes that a row remembers.
uint64_t BytesDownOf(const store::AssignmentRow& row);

}  // namespace strata::server

#endif  // STRATA_SERVER_CONVERT_H_
