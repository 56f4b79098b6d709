#include "client/data/rows.h"

#include <cstring>
#include <span>

#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::data {
namespace {

constexpr size_t kSpillBytes = size_t{4} << 20;  // written at once, after what was resident

// A row lies as: number of tokens, kinds, ids, then labels unless they are the ids, then positions where there are any;
// all of it as 32-bit integers of this machine.
constexpr int32_t kHasLabels = 1, kHasPositions = 2;

void Append(const std::vector<int32_t>& values, std::string& out) {
  out.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(int32_t));
}

void Append(const Example& row, std::string& out) {
  const bool labels = row.labels != row.ids, positions = !row.position_ids.empty();
  Append({static_cast<int32_t>(row.ids.size()), (labels ? kHasLabels : 0) | (positions ? kHasPositions : 0)}, out);
  Append(row.ids, out);
  if (labels) Append(row.labels, out);
  if (positions) Append(row.position_ids, out);
}

std::vector<int32_t> Take(std::span<const std::byte>& bytes, size_t count) {
  std::vector<int32_t> values(count);
  const size_t size = count * sizeof(int32_t);
  if (size > 0) std::memcpy(values.data(), bytes.data(), size);
  bytes = bytes.subspan(size);
  return values;
}

uint64_t Mix(uint64_t x) {  // the finaliser of splitmix64
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

double HashToUnit(const Example& row, uint64_t seed) {
  uint64_t hash = Mix(seed + 0x9E3779B97F4A7C15ULL);
  for (const int32_t id : row.ids) hash = Mix(hash ^ (static_cast<uint32_t>(id) + 0x9E3779B97F4A7C15ULL));
  return static_cast<double>(hash >> 11) * 0x1p-53;
}

}  // namespace

struct Rows::Storage {
  std::string resident;
  std::shared_ptr<const runtime::Mapping> mapping;  // instead, where it is set

  std::span<const std::byte> bytes() const {
    return mapping != nullptr ? mapping->bytes() : std::as_bytes(std::span(resident.data(), resident.size()));
  }
};

Rows::Rows(const std::vector<Example>& rows) {
  auto storage = std::make_shared<Storage>();
  for (const Example& row : rows) {
    places_.push_back(storage->resident.size());
    Append(row, storage->resident);
  }
  storage_ = std::move(storage);
}

Example Rows::operator[](size_t index) const {
  std::span<const std::byte> bytes = storage_->bytes().subspan(places_[index]);
  const std::vector<int32_t> head = Take(bytes, 2);
  const auto count = static_cast<size_t>(head[0]);
  Example row;
  row.ids = Take(bytes, count);
  row.labels = (head[1] & kHasLabels) != 0 ? Take(bytes, count) : row.ids;
  if ((head[1] & kHasPositions) != 0) row.position_ids = Take(bytes, count);
  return row;
}

bool Rows::is_spilled() const { return storage_ != nullptr && storage_->mapping != nullptr; }

std::pair<Rows, Rows> Rows::Split(double share, uint64_t seed) const {
  std::pair<Rows, Rows> sides;
  sides.first.storage_ = sides.second.storage_ = storage_;
  for (size_t i = 0; i < size(); ++i) {
    Rows& side = share > 0 && HashToUnit((*this)[i], seed) < share ? sides.second : sides.first;
    side.places_.push_back(places_[i]);
  }
  return sides;
}

RowsBuilder::RowsBuilder(runtime::FileSystem* files, Options options) : files_(files), options_(std::move(options)) {
  if (!options_.scratch.empty()) path_ = runtime::JoinPath(options_.scratch, "tokens.tmp");
}

RowsBuilder::~RowsBuilder() {
  if (file_ == nullptr) return;
  file_.reset();
  files_->Remove(path_).IgnoreError();
}

absl::Status RowsBuilder::Add(const Example& example) {
  rows_.places_.push_back(written_ + pending_.size());
  Append(example, pending_);
  const size_t bound = file_ == nullptr ? options_.max_resident_bytes : kSpillBytes;
  return path_.empty() || pending_.size() <= bound ? absl::OkStatus() : Spill();
}

absl::Status RowsBuilder::Spill() {
  if (file_ == nullptr) {
    STRATA_RETURN_IF_ERROR(files_->MakeDirectories(options_.scratch));
    STRATA_ASSIGN_OR_RETURN(file_, files_->Open(path_, runtime::OpenMode::kCreate));
    STRATA_RETURN_IF_ERROR(file_->Truncate(0));
  }
  STRATA_RETURN_IF_ERROR(
      Annotate(file_->WriteAt(written_, std::as_bytes(std::span(pending_.data(), pending_.size()))), path_));
  written_ += pending_.size();
  pending_ = std::string();
  return absl::OkStatus();
}

absl::StatusOr<Rows> RowsBuilder::Finish() && {
  auto storage = std::make_shared<Rows::Storage>();
  if (file_ == nullptr) {
    storage->resident = std::move(pending_);
  } else {
    STRATA_RETURN_IF_ERROR(Spill());
    STRATA_ASSIGN_OR_RETURN(storage->mapping, files_->Map(path_));
  }
  rows_.storage_ = std::move(storage);
  return std::move(rows_);
}

}  // namespace strata::data
