// The database's schema as the steps that lead to it: step i brings PRAGMA user_version i to i + 1. Steps are never
// changed, only added.
#ifndef STRATA_SERVER_STORE_SCHEMA_H_
#define STRATA_SERVER_STORE_SCHEMA_H_

namespace strata::store {

// Times are microseconds since 1970; ids of assignments and digests are raw bytes; `config`, `assignment`, `report` and
// `manifest` hold serialised messages of proto/.
inline constexpr const char* kMigrations[] = {
    R"sql(
CREATE TABLE jobs (
  id TEXT PRIMARY KEY, sequence INTEGER NOT NULL, state INTEGER NOT NULL, reason TEXT NOT NULL,
  created INTEGER NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL, stage INTEGER NOT NULL,
  version INTEGER NOT NULL, opened INTEGER NOT NULL, config BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE rounds (
  job TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL, report BLOB NOT NULL,
  PRIMARY KEY (job, round, attempt)) WITHOUT ROWID;
CREATE TABLE assignments (
  id BLOB PRIMARY KEY, job TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL, site TEXT NOT NULL,
  task INTEGER NOT NULL, state INTEGER NOT NULL, reason TEXT NOT NULL, issued INTEGER NOT NULL,
  assignment BLOB NOT NULL, report BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX assignments_of_job ON assignments (job, round);
CREATE TABLE uploads (
  assignment BLOB PRIMARY KEY, sha256 BLOB NOT NULL, size INTEGER NOT NULL, durable INTEGER NOT NULL,
  manifest BLOB NOT NULL, signature BLOB NOT NULL, key_id BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE updates (
  assignment BLOB PRIMARY KEY, job TEXT NOT NULL, sha256 BLOB NOT NULL, size INTEGER NOT NULL,
  manifest BLOB NOT NULL, signature BLOB NOT NULL, key_id BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX updates_by_digest ON updates (sha256);
CREATE TABLE versions (
  job TEXT NOT NULL, version INTEGER NOT NULL, round INTEGER NOT NULL, max_rank INTEGER NOT NULL,
  PRIMARY KEY (job, version)) WITHOUT ROWID;
CREATE TABLE version_blobs (
  job TEXT NOT NULL, version INTEGER NOT NULL, position INTEGER NOT NULL, sha256 BLOB NOT NULL,
  PRIMARY KEY (job, version, position)) WITHOUT ROWID;
CREATE TABLE blobs (
  sha256 BLOB PRIMARY KEY, size INTEGER NOT NULL, manifest BLOB NOT NULL) WITHOUT ROWID;
)sql",
};

}  // namespace strata::store

#endif  // STRATA_SERVER_STORE_SCHEMA_H_
