// Many documents by index: in memory, or beyond a bound in a file that is mapped.
#ifndef STRATA_CLIENT_DATA_ROWS_H_
#define STRATA_CLIENT_DATA_ROWS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/data/example.h"
#include "common/runtime/file_system.h"

namespace strata::data {

// Copies share what they show. Const use is thread-safe.
class Rows {
 public:
  Rows() = default;
  explicit Rows(const std::vector<Example>& rows);
  size_t size() const { return places_.size(); }
  bool empty() const { return places_.empty(); }
  Example operator[](size_t index) const;  // REQUIRES: index < size()
  bool is_spilled() const;                 // lies in a file

  // Splits by a hash of each row's ids, so that the same row always falls on the same side wherever it lies: {train,
  // held out}. `share`: of the held-out rows, in [0, 1].
  std::pair<Rows, Rows> Split(double share, uint64_t seed) const;

 private:
  friend class RowsBuilder;
  struct Storage;
  std::shared_ptr<const Storage> storage_;
  std::vector<uint64_t> places_;  // bytes into the storage
};

// Collects rows. Holds at most about `max_resident_bytes` of them; what is more goes to a file in `scratch`, which is
// unlinked as soon as it is mapped, so that no crash leaves it behind for long.
class RowsBuilder {
 public:
  struct Options {
    std::string scratch = {};  // folder, made when missing; empty: everything stays in memory
    size_t max_resident_bytes = size_t{64} << 20;
  };
  RowsBuilder() = default;  // everything stays in memory
  RowsBuilder(runtime::FileSystem* files, Options options);
  RowsBuilder(RowsBuilder&&) = default;
  ~RowsBuilder();

  // Errors of the file system (RESOURCE_EXHAUSTED: the disk is full).
  absl::Status Add(const Example& example);
  absl::StatusOr<Rows> Finish() &&;

 private:
  absl::Status Spill();

  runtime::FileSystem* files_ = nullptr;
  Options options_;
  std::string path_, pending_;
  std::unique_ptr<runtime::File> file_;
  uint64_t written_ = 0;
  Rows rows_;
};

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_ROWS_H_
