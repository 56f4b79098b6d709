#include "server/store/row_codec.h"

#include <utility>

#include "common/status/status_macros.h"

namespace strata::store {
namespace {

absl::Status Write(Database& database, const JobRow& row) {
  STRATA_ASSIGN_OR_RETURN(Statement insert, database.Prepare("REPLACE INTO jobs VALUES (?,?,?,?,?,?,?,?,?,?,?)"));
  return insert.Text(row.id)
      .Int(static_cast<int64_t>(row.sequence))
      .Int(row.state)
      .Text(row.reason)
      .Int(row.created)
      .Int(row.round)
      .Int(row.attempt)
      .Int(row.stage)
      .Int(row.version)
      .Int(row.opened)
      .Blob(row.config)
      .Run();
}

absl::Status Write(Database& database, const RoundRow& row) {
  STRATA_ASSIGN_OR_RETURN(Statement insert, database.Prepare("REPLACE INTO rounds VALUES (?,?,?,?)"));
  return insert.Text(row.job).Int(row.round).Int(row.attempt).Blob(row.report).Run();
}

absl::Status Write(Database& database, const AssignmentRow& row) {
  STRATA_ASSIGN_OR_RETURN(Statement insert,
                          database.Prepare("REPLACE INTO assignments VALUES (?,?,?,?,?,?,?,?,?,?,?)"));
  return insert.Blob(row.id)
      .Text(row.job)
      .Int(row.round)
      .Int(row.attempt)
      .Text(row.site)
      .Int(row.task)
      .Int(row.state)
      .Text(row.reason)
      .Int(row.issued)
      .Blob(row.assignment)
      .Blob(row.report)
      .Run();
}

absl::Status Write(Database& database, const UploadRow& row) {
  STRATA_ASSIGN_OR_RETURN(Statement insert, database.Prepare("REPLACE INTO uploads VALUES (?,?,?,?,?,?,?)"));
  return insert.Blob(row.assignment)
      .Blob(row.sha256)
      .Int(static_cast<int64_t>(row.size))
      .Int(static_cast<int64_t>(row.durable))
      .Blob(row.manifest)
      .Blob(row.signature)
      .Blob(row.key_id)
      .Run();
}

absl::Status Write(Database& database, const UploadGone& row) {
  STRATA_ASSIGN_OR_RETURN(Statement remove, database.Prepare("DELETE FROM uploads WHERE assignment=?"));
  return remove.Blob(row.assignment).Run();
}

absl::Status Write(Database& database, const UpdateRow& row) {
  STRATA_ASSIGN_OR_RETURN(Statement insert, database.Prepare("REPLACE INTO updates VALUES (?,?,?,?,?,?,?)"));
  return insert.Blob(row.assignment)
      .Text(row.job)
      .Blob(row.sha256)
      .Int(static_cast<int64_t>(row.size))
      .Blob(row.manifest)
      .Blob(row.signature)
      .Blob(row.key_id)
      .Run();
}

absl::Status Write(Database& database, const VersionRow& row) {
  STRATA_ASSIGN_OR_RETURN(Statement insert, database.Prepare("REPLACE INTO versions VALUES (?,?,?,?)"));
  STRATA_RETURN_IF_ERROR(insert.Text(row.job).Int(row.version).Int(row.round).Int(row.max_rank).Run());
  STRATA_ASSIGN_OR_RETURN(Statement clear, database.Prepare("DELETE FROM version_blobs WHERE job=? AND version=?"));
  STRATA_RETURN_IF_ERROR(clear.Text(row.job).Int(row.version).Run());
  STRATA_ASSIGN_OR_RETURN(Statement blob, database.Prepare("INSERT INTO version_blobs VALUES (?,?,?,?)"));
  for (size_t i = 0; i < row.blobs.size(); ++i) {
    STRATA_RETURN_IF_ERROR(blob.Text(row.job).Int(row.version).Int(static_cast<int64_t>(i)).Blob(row.blobs[i]).Run());
  }
  return absl::OkStatus();
}

absl::Status Write(Database& database, const BlobRow& row) {
  STRATA_ASSIGN_OR_RETURN(Statement insert, database.Prepare("REPLACE INTO blobs VALUES (?,?,?)"));
  return insert.Blob(row.sha256).Int(static_cast<int64_t>(row.size)).Blob(row.manifest).Run();
}

uint32_t U32(Statement& row, int column) { return static_cast<uint32_t>(row.GetInt(column)); }
uint64_t U64(Statement& row, int column) { return static_cast<uint64_t>(row.GetInt(column)); }

absl::Status Select(Database& database, const char* sql, absl::FunctionRef<void(Statement&)> each) {
  STRATA_ASSIGN_OR_RETURN(Statement query, database.Prepare(sql));
  return query.ForEach(each);
}

absl::Status ReadProgress(Database& database, Contents& contents) {
  STRATA_RETURN_IF_ERROR(Select(database, "SELECT * FROM jobs ORDER BY sequence", [&](Statement& row) {
    contents.jobs.push_back({row.GetString(0), U64(row, 1), static_cast<int>(row.GetInt(2)), row.GetString(3),
                             row.GetInt(4), U32(row, 5), U32(row, 6), static_cast<int>(row.GetInt(7)), U32(row, 8),
                             row.GetInt(9), row.GetString(10)});
  }));
  STRATA_RETURN_IF_ERROR(Select(database, "SELECT * FROM rounds ORDER BY job, round, attempt", [&](Statement& row) {
    contents.rounds.push_back({row.GetString(0), U32(row, 1), U32(row, 2), row.GetString(3)});
  }));
  return Select(database, "SELECT * FROM assignments ORDER BY id", [&](Statement& row) {
    contents.assignments.push_back({row.GetString(0), row.GetString(1), U32(row, 2), U32(row, 3), row.GetString(4),
                                    static_cast<int>(row.GetInt(5)), static_cast<int>(row.GetInt(6)), row.GetString(7),
                                    row.GetInt(8), row.GetString(9), row.GetString(10)});
  });
}

absl::Status ReadBlobs(Database& database, Contents& contents) {
  STRATA_RETURN_IF_ERROR(Select(database, "SELECT * FROM uploads ORDER BY assignment", [&](Statement& row) {
    contents.uploads.push_back({row.GetString(0), row.GetString(1), U64(row, 2), U64(row, 3), row.GetString(4),
                                row.GetString(5), row.GetString(6)});
  }));
  constexpr char kUpdates[] = "SELECT assignment, job, sha256, size FROM updates ORDER BY assignment";
  STRATA_RETURN_IF_ERROR(Select(database, kUpdates, [&](Statement& row) {
    contents.updates.push_back({row.GetString(0), row.GetString(1), row.GetString(2), U64(row, 3), "", "", ""});
  }));
  STRATA_RETURN_IF_ERROR(Select(database, "SELECT * FROM versions ORDER BY job, version", [&](Statement& row) {
    contents.versions.push_back({row.GetString(0), U32(row, 1), U32(row, 2), U32(row, 3), {}});
  }));
  auto version = contents.versions.begin();
  constexpr char kVersionBlobs[] = "SELECT job, version, sha256 FROM version_blobs ORDER BY job, version, position";
  STRATA_RETURN_IF_ERROR(Select(database, kVersionBlobs, [&](Statement& row) {
    const std::pair key(row.GetString(0), U32(row, 1));
    while (version != contents.versions.end() && std::pair(version->job, version->version) != key) ++version;
    if (version != contents.versions.end()) version->blobs.push_back(row.GetString(2));
  }));
  return Select(database, "SELECT sha256, size FROM blobs ORDER BY sha256", [&](Statement& row) {
    contents.blobs.push_back({row.GetString(0), U64(row, 1), ""});
  });
}

}  // namespace

absl::Status WriteChange(Database& database, const Change& change) {
  return std::visit([&](const auto& row) { return Write(database, row); }, change);
}

absl::StatusOr<Contents> ReadAll(Database& database) {
  Contents contents;
  STRATA_RETURN_IF_ERROR(ReadProgress(database, contents));
  STRATA_RETURN_IF_ERROR(ReadBlobs(database, contents));
  return contents;
}

}  // namespace strata::store
