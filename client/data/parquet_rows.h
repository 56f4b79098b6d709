// The records of a Parquet file as rows, read through Apache Arrow.
#ifndef STRATA_CLIENT_DATA_PARQUET_ROWS_H_
#define STRATA_CLIENT_DATA_PARQUET_ROWS_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "client/data/row_source.h"
#include "common/runtime/file_system.h"

namespace strata::data {

// Whether the file begins as Parquet does, with an encrypted footer or a plain one.
bool IsParquet(const runtime::Mapping& mapping);

// Columns become a row's keys in the file's order: text, booleans, numbers, lists, structures (objects) and maps with
// text as keys (objects); dates, times and decimals become text. A null column is left out of its row, nulls further
// inside stay. Columns of bytes and others without a form in JSON are not read. Rows whose text is not UTF-8 are bad.
// Row groups are decoded a few hundred rows at a time, and pages of the file that were read are given back to the
// kernel. DATA_LOSS: cut short, damaged. UNIMPLEMENTED: encrypted, or with a codec that Arrow was built without.
absl::StatusOr<std::unique_ptr<RowSource>> OpenParquet(std::shared_ptr<const runtime::Mapping> mapping,
                                                       const std::string& path);

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_PARQUET_ROWS_H_
