#include "client/data/row_source.h"

#include <utility>
#include <vector>

#include "client/data/parquet_rows.h"
#include "client/data/row_files.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::data {
namespace {

constexpr uint64_t kMaxNamed = 20;

bool IsBlank(std::string_view line) { return line.find_first_not_of(" \t\r") == std::string_view::npos; }

class JsonLines : public RowSource {
 public:
  JsonLines(std::unique_ptr<Lines> lines, std::string place) : lines_(std::move(lines)), place_(std::move(place)) {}

  absl::StatusOr<std::optional<Row>> Next() override {
    while (true) {
      STRATA_ASSIGN_OR_RETURN(const std::optional<std::string_view> line, lines_->Next());
      if (!line.has_value()) return std::nullopt;
      ++number_;
      if (!IsBlank(*line)) return Row{.number = number_, .object = ParseRow(*line)};
    }
  }

  const std::string& place() const override { return place_; }

 private:
  std::unique_ptr<Lines> lines_;
  std::string place_;
  uint64_t number_ = 0;
};

absl::StatusOr<std::unique_ptr<RowSource>> OpenFile(runtime::FileSystem& files, const std::string& path) {
  STRATA_ASSIGN_OR_RETURN(std::shared_ptr<const runtime::Mapping> mapping, files.Map(path));
  if (IsParquet(*mapping)) return OpenParquet(std::move(mapping), path);
  return RowsOf(LinesOf(std::move(mapping), path), path);
}

// One file after another, of which one is open. REQUIRES: at least one.
class SeveralFiles : public RowSource {
 public:
  SeveralFiles(runtime::FileSystem& files, std::vector<std::string> paths) : files_(files), paths_(std::move(paths)) {}

  absl::StatusOr<std::optional<Row>> Next() override {
    while (true) {
      if (open_ == nullptr) {
        STRATA_ASSIGN_OR_RETURN(open_, OpenFile(files_, paths_[index_]));
      }
      STRATA_ASSIGN_OR_RETURN(std::optional<Row> row, open_->Next());
      if (row.has_value() || index_ + 1 == paths_.size()) return row;
      open_ = nullptr;
      ++index_;
    }
  }
  const std::string& place() const override { return paths_[index_]; }

 private:
  runtime::FileSystem& files_;
  std::vector<std::string> paths_;
  size_t index_ = 0;
  std::unique_ptr<RowSource> open_;
};

}  // namespace

absl::StatusOr<OrderedJson> ParseRow(std::string_view line) {
  OrderedJson row;
  try {
    row = OrderedJson::parse(line.begin(), line.end());
  } catch (const OrderedJson::parse_error& error) {
    return absl::InvalidArgumentError(Cat("no valid JSON (at byte ", error.byte, " of the line)"));
  } catch (const OrderedJson::exception&) {
    return absl::InvalidArgumentError("no valid JSON (a number out of range)");
  }
  if (!row.is_object()) return absl::InvalidArgumentError(Cat("an object is expected, found ", row.type_name()));
  return row;
}

std::unique_ptr<RowSource> RowsOf(std::unique_ptr<Lines> lines, std::string place) {
  return std::make_unique<JsonLines>(std::move(lines), std::move(place));
}

absl::StatusOr<std::unique_ptr<RowSource>> OpenRows(runtime::FileSystem& files, const std::string& path) {
  STRATA_ASSIGN_OR_RETURN(std::vector<std::string> paths, RowFiles(files, path));
  if (paths.size() == 1) return OpenFile(files, paths.front());
  return std::make_unique<SeveralFiles>(files, std::move(paths));
}

absl::StatusOr<BadRows> ForEachRow(RowSource& source, bool skip,
                                   const std::function<absl::Status(const OrderedJson& row)>& read) {
  BadRows bad;
  while (true) {
    STRATA_ASSIGN_OR_RETURN(const std::optional<Row> row, source.Next());
    if (!row.has_value()) break;
    const absl::Status status = row->object.ok() ? read(*row->object) : row->object.status();
    if (status.ok()) continue;
    if (!absl::IsInvalidArgument(status)) return status;
    if (++bad.count > kMaxNamed) continue;
    bad.text += Cat(bad.count > 1 ? "\n" : "", source.place(), ":", row->number, ": ", status.message());
  }
  if (bad.count > kMaxNamed) bad.text += Cat("\n", bad.count - kMaxNamed, " more bad rows");
  if (bad.count > 0 && !skip) return absl::InvalidArgumentError(bad.text);
  return bad;
}

}  // namespace strata::data
