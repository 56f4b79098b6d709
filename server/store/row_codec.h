// Rows to and from the tables of schema.h.
#ifndef STRATA_SERVER_STORE_ROW_CODEC_H_
#define STRATA_SERVER_STORE_ROW_CODEC_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/store/database.h"
#include "server/store/rows.h"

namespace strata::store {

// Inserts, replaces or removes. REQUIRES: a transaction is open.
absl::Status WriteChange(Database& database, const Change& change);
absl::StatusOr<Contents> ReadAll(Database& database);

}  // namespace strata::store

#endif  // STRATA_SERVER_STORE_ROW_CODEC_H_
