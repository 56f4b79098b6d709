// The rows of the server's database as plain structs. Times are microseconds since 1970; messages are serialised bytes,
// which the store does not look into.
#ifndef STRATA_SERVER_STORE_ROWS_H_
#define STRATA_SERVER_STORE_ROWS_H_

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace strata::store {

struct JobRow {
  std::string id;
  uint64_t sequence = 0;
  int state = 0;
  std::string reason;
  int64_t created = 0;
  uint32_t round = 0, attempt = 0;
  int stage = 0;
  uint32_t version = 0;
  int64_t opened = 0;  // INT64_MAX: not yet
  std::string config;
};

struct RoundRow {
  std::string job;
  uint32_t round = 0, attempt = 0;
  std::string report;
};

struct AssignmentRow {
  std::string id, job;
  uint32_t round = 0, attempt = 0;
  std::string site;
  int task = 0, state = 0;
  std::string reason;
  int64_t issued = 0;
  std::string assignment, report;
};

// An announced update whose bytes are on their way.
struct UploadRow {
  std::string assignment, sha256;
  uint64_t size = 0;
  uint64_t durable = 0;                     // bytes that survive a power loss: where a resumed upload goes on
  std::string manifest, signature, key_id;  // as signed
};
struct UploadGone {
  std::string assignment;
};

// An accepted update: its receipt.
struct UpdateRow {
  std::string assignment, job, sha256;
  uint64_t size = 0;
  std::string manifest, signature, key_id;
};

struct VersionRow {
  std::string job;
  uint32_t version = 0, round = 0;
  uint32_t max_rank = 0;           // of a module, over all blobs together: no more than that
  std::vector<std::string> blobs;  // digests, oldest first
};

// A blob that the server made itself (an update's manifest lies with the update).
struct BlobRow {
  std::string sha256;
  uint64_t size = 0;
  std::string manifest;
};

using Change = std::variant<JobRow, RoundRow, AssignmentRow, UploadRow, UploadGone, UpdateRow, VersionRow, BlobRow>;

// All rows, in the order of their keys; manifests of updates and blobs are left out (Store::ReadManifest).
struct Contents {
  std::vector<JobRow> jobs;
  std::vector<RoundRow> rounds;
  std::vector<AssignmentRow> assignments;
  std::vector<UploadRow> uploads;
  std::vector<UpdateRow> updates;
  std::vector<VersionRow> versions;
  std::vector<BlobRow> blobs;
};

}  // namespace strata::store

#endif  // STRATA_SERVER_STORE_ROWS_H_
