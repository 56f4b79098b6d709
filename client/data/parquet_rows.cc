#include "client/data/parquet_rows.h"

#include <arrow/array.h>
#include <arrow/buffer.h>
#include <arrow/io/memory.h>
#include <arrow/record_batch.h>
#include <arrow/scalar.h>
#include <parquet/arrow/reader.h>
#include <parquet/arrow/schema.h>
#include <parquet/exception.h>
#include <parquet/file_reader.h>
#include <parquet/metadata.h>
#include <parquet/properties.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/data/jinja/value.h"
#include "client/data/unicode.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::data {
namespace {

constexpr int64_t kBatchRows = 256;
constexpr std::string_view kMagic = "PAR1", kEncryptedMagic = "PARE";

std::string_view TextOf(const runtime::Mapping& mapping) {
  return {reinterpret_cast<const char*>(mapping.bytes().data()), mapping.bytes().size()};
}

// Arrow reports one fault in several lines, which would look like several.
std::string OneLine(std::string_view message) {
  return absl::StrJoin(absl::StrSplit(absl::string_view(message.data(), message.size()), '\n', absl::SkipWhitespace()),
                       "; ");
}

absl::Status FileFault(const std::string& path, const arrow::Status& status) {
  const std::string text = Cat(path, ": Parquet: ", OneLine(status.message()));
  if (status.IsNotImplemented()) return absl::UnimplementedError(text);
  if (status.IsOutOfMemory()) return absl::ResourceExhaustedError(text);
  return absl::DataLossError(text);
}

// Arrow reports some faults of a file by exceptions.
template <typename F>
auto Guarded(const std::string& path, const F& read) -> decltype(read()) {
  try {
    return read();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(Cat(path, ": Parquet: no memory for what the file says that it holds"));
  } catch (const std::exception& error) {
    return absl::DataLossError(Cat(path, ": Parquet: ", OneLine(error.what())));
  }
}

bool IsText(const arrow::DataType& type) {
  return type.id() == arrow::Type::STRING || type.id() == arrow::Type::LARGE_STRING ||
         type.id() == arrow::Type::STRING_VIEW;
}

bool HasJsonForm(const arrow::DataType& type, int depth) {
  if (depth > jinja::kMaxNesting) return false;
  switch (type.id()) {
    case arrow::Type::BINARY:
    case arrow::Type::LARGE_BINARY:
    case arrow::Type::BINARY_VIEW:
    case arrow::Type::FIXED_SIZE_BINARY:
    case arrow::Type::SPARSE_UNION:
    case arrow::Type::DENSE_UNION:
    case arrow::Type::RUN_END_ENCODED:
    case arrow::Type::LIST_VIEW:
    case arrow::Type::LARGE_LIST_VIEW:
      return false;
    case arrow::Type::EXTENSION:
      return HasJsonForm(*static_cast<const arrow::ExtensionType&>(type).storage_type(), depth);
    case arrow::Type::DICTIONARY:
      return HasJsonForm(*static_cast<const arrow::DictionaryType&>(type).value_type(), depth);
    case arrow::Type::MAP:
      if (!IsText(*static_cast<const arrow::MapType&>(type).key_type())) return false;
      break;
    default:
      break;
  }
  return std::ranges::all_of(type.fields(),
                             [depth](const auto& field) { return HasJsonForm(*field->type(), depth + 1); });
}

absl::StatusOr<OrderedJson> ToJson(const arrow::Array& array, int64_t index);

template <typename ArrayType>
OrderedJson NumberAt(const arrow::Array& array, int64_t index) {
  return static_cast<const ArrayType&>(array).Value(index);
}

template <typename ArrayType>
absl::StatusOr<OrderedJson> TextAt(const arrow::Array& array, int64_t index) {
  const std::string_view text = static_cast<const ArrayType&>(array).GetView(index);
  if (!IsValidUtf8(text)) return absl::InvalidArgumentError("text that is not UTF-8");
  return OrderedJson(text);
}

template <typename ArrayType>
absl::StatusOr<OrderedJson> ListAt(const arrow::Array& array, int64_t index) {
  const auto& list = static_cast<const ArrayType&>(array);
  OrderedJson items = OrderedJson::array();
  const int64_t begin = list.value_offset(index), end = begin + list.value_length(index);
  for (int64_t i = begin; i < end; ++i) {
    STRATA_ASSIGN_OR_RETURN(OrderedJson item, ToJson(*list.values(), i));
    items.push_back(std::move(item));
  }
  return items;
}

absl::StatusOr<OrderedJson> StructAt(const arrow::Array& array, int64_t index) {
  const auto& structure = static_cast<const arrow::StructArray&>(array);
  OrderedJson object = OrderedJson::object();
  for (int i = 0; i < structure.num_fields(); ++i) {
    STRATA_ASSIGN_OR_RETURN(object[structure.struct_type()->field(i)->name()], ToJson(*structure.field(i), index));
  }
  return object;
}

absl::StatusOr<OrderedJson> MapAt(const arrow::Array& array, int64_t index) {
  const auto& map = static_cast<const arrow::MapArray&>(array);
  OrderedJson object = OrderedJson::object();
  const int64_t begin = map.value_offset(index), end = begin + map.value_length(index);
  for (int64_t i = begin; i < end; ++i) {
    STRATA_ASSIGN_OR_RETURN(const OrderedJson key, ToJson(*map.keys(), i));
    if (!key.is_string()) return absl::InvalidArgumentError("a map with a null key");
    STRATA_ASSIGN_OR_RETURN(object[key.get_ref<const std::string&>()], ToJson(*map.items(), i));
  }
  return object;
}

// Dates, times, decimals and the like, as Arrow writes them.
absl::StatusOr<OrderedJson> WrittenAt(const arrow::Array& array, int64_t index) {
  const auto scalar = array.GetScalar(index);
  if (!scalar.ok()) return absl::InvalidArgumentError(scalar.status().message());
  return OrderedJson((*scalar)->ToString());
}

absl::StatusOr<OrderedJson> ToJson(const arrow::Array& array, int64_t index) {
  if (array.IsNull(index)) return OrderedJson();
  switch (array.type_id()) {
    case arrow::Type::BOOL:
      return NumberAt<arrow::BooleanArray>(array, index);
    case arrow::Type::INT8:
      return NumberAt<arrow::Int8Array>(array, index);
    case arrow::Type::INT16:
      return NumberAt<arrow::Int16Array>(array, index);
    case arrow::Type::INT32:
      return NumberAt<arrow::Int32Array>(array, index);
    case arrow::Type::INT64:
      return NumberAt<arrow::Int64Array>(array, index);
    case arrow::Type::UINT8:
      return NumberAt<arrow::UInt8Array>(array, index);
    case arrow::Type::UINT16:
      return NumberAt<arrow::UInt16Array>(array, index);
    case arrow::Type::UINT32:
      return NumberAt<arrow::UInt32Array>(array, index);
    case arrow::Type::UINT64:
      return NumberAt<arrow::UInt64Array>(array, index);
    case arrow::Type::FLOAT:
      return NumberAt<arrow::FloatArray>(array, index);
    case arrow::Type::DOUBLE:
      return NumberAt<arrow::DoubleArray>(array, index);
    case arrow::Type::STRING:
      return TextAt<arrow::StringArray>(array, index);
    case arrow::Type::LARGE_STRING:
      return TextAt<arrow::LargeStringArray>(array, index);
    case arrow::Type::STRING_VIEW:
      return TextAt<arrow::StringViewArray>(array, index);
    case arrow::Type::LIST:
      return ListAt<arrow::ListArray>(array, index);
    case arrow::Type::LARGE_LIST:
      return ListAt<arrow::LargeListArray>(array, index);
    case arrow::Type::FIXED_SIZE_LIST:
      return ListAt<arrow::FixedSizeListArray>(array, index);
    case arrow::Type::STRUCT:
      return StructAt(array, index);
    case arrow::Type::MAP:
      return MapAt(array, index);
    case arrow::Type::EXTENSION:
      return ToJson(*static_cast<const arrow::ExtensionArray&>(array).storage(), index);
    case arrow::Type::DICTIONARY: {
      const auto& coded = static_cast<const arrow::DictionaryArray&>(array);
      return ToJson(*coded.dictionary(), coded.GetValueIndex(index));
    }
    default:
      return WrittenAt(array, index);
  }
}

absl::StatusOr<OrderedJson> RowAt(const arrow::RecordBatch& batch, int64_t index) {
  OrderedJson row = OrderedJson::object();
  for (int i = 0; i < batch.num_columns(); ++i) {
    absl::StatusOr<OrderedJson> value = ToJson(*batch.column(i), index);
    if (!value.ok()) return Annotate(value.status(), Cat("'", batch.column_name(i), "'"));
    if (!value->is_null()) row[batch.column_name(i)] = *std::move(value);
  }
  return row;
}

void AddLeaves(const parquet::arrow::SchemaField& field, std::vector<int>& columns) {
  if (field.is_leaf()) columns.push_back(field.column_index);
  for (const auto& child : field.children) AddLeaves(child, columns);
}

class ParquetRows : public RowSource {
 public:
  ParquetRows(std::shared_ptr<const runtime::Mapping> mapping, std::string path,
              std::unique_ptr<parquet::arrow::FileReader> reader)
      : mapping_(std::move(mapping)), path_(std::move(path)), reader_(std::move(reader)) {
    for (const auto& field : reader_->manifest().schema_fields) {
      if (HasJsonForm(*field.field->type(), 1)) AddLeaves(field, columns_);
    }
  }

  absl::StatusOr<std::optional<Row>> Next() override {
    return Guarded(path_, [this]() -> absl::StatusOr<std::optional<Row>> {
      while (batch_ == nullptr || index_ == batch_->num_rows()) {
        STRATA_ASSIGN_OR_RETURN(const bool more, ReadBatch());
        if (!more) return std::nullopt;
      }
      return Row{.number = ++number_, .object = RowAt(*batch_, index_++)};
    });
  }

  const std::string& place() const override { return path_; }

 private:
  // The next rows, of the next row group where this one's are done; false: there is none.
  absl::StatusOr<bool> ReadBatch() {
    while (true) {
      batch_ = nullptr;
      index_ = 0;
      if (batches_ != nullptr) {
        if (const arrow::Status read = batches_->ReadNext(&batch_); !read.ok()) return FileFault(path_, read);
        if (batch_ != nullptr) {
          group_rows_ += batch_->num_rows();
          return true;
        }
        STRATA_RETURN_IF_ERROR(EndGroup());
      }
      if (group_ == reader_->num_row_groups()) return false;
      auto batches = reader_->GetRecordBatchReader({group_}, columns_);
      if (!batches.ok()) return FileFault(path_, batches.status());
      batches_ = *std::move(batches);
    }
  }

  // Arrow takes some damage for the end of a column.
  absl::Status EndGroup() {
    const auto metadata = reader_->parquet_reader()->metadata()->RowGroup(group_);
    if (group_rows_ != metadata->num_rows()) {
      return absl::DataLossError(Cat(path_, ": Parquet: row group ", group_, " has ", group_rows_, " rows, not the ",
                                     metadata->num_rows(), " that the file's footer names"));
    }
    const auto size = static_cast<int64_t>(mapping_->bytes().size());
    const int64_t begin = std::clamp<int64_t>(metadata->file_offset(), 0, size);
    mapping_->Release(begin, std::clamp<int64_t>(metadata->total_compressed_size(), 0, size - begin));
    batches_ = nullptr;
    group_rows_ = 0;
    ++group_;
    return absl::OkStatus();
  }

  std::shared_ptr<const runtime::Mapping> mapping_;
  std::string path_;
  std::unique_ptr<parquet::arrow::FileReader> reader_;
  std::vector<int> columns_;  // leaves of what is read
  std::unique_ptr<arrow::RecordBatchReader> batches_;
  std::shared_ptr<arrow::RecordBatch> batch_;
  int group_ = 0;
  int64_t group_rows_ = 0;  // that were read of group_
  int64_t index_ = 0;       // within batch_
  uint64_t number_ = 0;
};

}  // namespace

bool IsParquet(const runtime::Mapping& mapping) {
  return TextOf(mapping).starts_with(kMagic) || TextOf(mapping).starts_with(kEncryptedMagic);
}

absl::StatusOr<std::unique_ptr<RowSource>> OpenParquet(std::shared_ptr<const runtime::Mapping> mapping,
                                                       const std::string& path) {
  const std::string_view text = TextOf(*mapping);
  if (text.starts_with(kEncryptedMagic)) {
    return absl::UnimplementedError(Cat(path, ": an encrypted Parquet file; write it without encryption"));
  }
  return Guarded(path, [&]() -> absl::StatusOr<std::unique_ptr<RowSource>> {
    const auto bytes = std::make_shared<arrow::Buffer>(text);
    parquet::ReaderProperties properties;
    properties.set_page_checksum_verification(true);
    parquet::ArrowReaderProperties options(/*use_threads=*/false);
    options.set_batch_size(kBatchRows);
    options.set_pre_buffer(false);  // nor its threads
    parquet::arrow::FileReaderBuilder builder;
    const arrow::Status opened = builder.Open(std::make_shared<arrow::io::BufferReader>(bytes), properties);
    if (!opened.ok()) return FileFault(path, opened);
    auto reader = builder.properties(options)->Build();
    if (!reader.ok()) return FileFault(path, reader.status());
    return std::make_unique<ParquetRows>(std::move(mapping), path, *std::move(reader));
  });
}

}  // namespace strata::data
