#include "common/format/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <set>
#include <type_traits>
#include <utility>

#include "absl/strings/str_join.h"
#include "common/format/gguf_types.h"
#include "common/format/safetensors_header.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::format {
namespace {

using internal::FindGgufEncoding;
using internal::GgufEncoding;
using enum internal::GgufValueType;
using internal::Quoted;

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr uint64_t kDefaultAlignment = 32;
constexpr uint32_t kMaxDimensions = 4;
constexpr int kMaxArrayDepth = 4;

// Least bytes that a value of this type takes in the file; 0: no such type.
size_t LeastBytes(uint32_t type) {
  static constexpr size_t kBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};
  return type < std::size(kBytes) ? kBytes[type] : 0;
}

absl::Status Truncated(std::string_view what, uint64_t wanted, uint64_t left) {
  return absl::InvalidArgumentError(
      Cat("truncated or corrupt: ", what, " needs ", wanted, " bytes, ", left, " are left"));
}

// Reads little-endian values; never past the end.
class Cursor {
 public:
  explicit Cursor(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <typename T>
  absl::StatusOr<T> Read(std::string_view what) {
    if (left() < sizeof(T)) return Truncated(what, sizeof(T), left());
    T value;
    std::memcpy(&value, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return value;
  }

  absl::StatusOr<std::string> ReadString(std::string_view what) {
    STRATA_ASSIGN_OR_RETURN(const uint64_t length, Read<uint64_t>(what));
    if (length > left()) return Truncated(what, length, left());
    std::string value(reinterpret_cast<const char*>(bytes_.data() + position_), length);
    position_ += length;
    return value;
  }

  // A number of things that take at least `least` bytes each: bounds what a hostile count can allocate.
  absl::StatusOr<uint64_t> ReadCount(std::string_view what, uint64_t least) {
    STRATA_ASSIGN_OR_RETURN(const uint64_t count, Read<uint64_t>(what));
    if (count > left() / least) {
      return absl::InvalidArgumentError(
          Cat("truncated or corrupt: ", what, " is ", count, ", the ", left(), " bytes left cannot hold as many"));
    }
    return count;
  }

  uint64_t position() const { return position_; }
  std::span<const std::byte> Since(uint64_t start) const { return bytes_.subspan(start, position_ - start); }
  uint64_t left() const { return bytes_.size() - position_; }

 private:
  std::span<const std::byte> bytes_;
  uint64_t position_ = 0;
};

absl::StatusOr<bool> ReadBool(Cursor& cursor) {
  STRATA_ASSIGN_OR_RETURN(const uint8_t value, cursor.Read<uint8_t>("a boolean"));
  if (value > 1) return absl::InvalidArgumentError(Cat("boolean of value ", value));
  return value == 1;
}

template <typename Stored, typename Wide>
absl::StatusOr<GgufValue> ReadNumber(Cursor& cursor) {
  STRATA_ASSIGN_OR_RETURN(const Stored value, cursor.Read<Stored>("a number"));
  return GgufValue(std::in_place_type<Wide>, static_cast<Wide>(value));
}

template <typename Stored, typename Wide>
absl::Status ReadNumbers(Cursor& cursor, uint64_t count, GgufArray& array) {
  std::vector<Wide> values;
  values.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    STRATA_ASSIGN_OR_RETURN(const Stored value, cursor.Read<Stored>("an array element"));
    values.push_back(static_cast<Wide>(value));
  }
  array.values = std::move(values);
  return absl::OkStatus();
}

absl::Status ReadBools(Cursor& cursor, uint64_t count, GgufArray& array) {
  std::vector<bool> values;
  values.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    STRATA_ASSIGN_OR_RETURN(const bool value, ReadBool(cursor));
    values.push_back(value);
  }
  array.values = std::move(values);
  return absl::OkStatus();
}

absl::Status ReadStrings(Cursor& cursor, uint64_t count, GgufArray& array) {
  std::vector<std::string> values;
  values.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    STRATA_ASSIGN_OR_RETURN(std::string value, cursor.ReadString("a string of an array"));
    values.push_back(std::move(value));
  }
  array.values = std::move(values);
  return absl::OkStatus();
}

absl::StatusOr<GgufValue> ReadArray(Cursor& cursor, int depth);

absl::Status ReadArrays(Cursor& cursor, uint64_t count, int depth, GgufArray& array) {
  std::vector<GgufValue> values;
  values.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    STRATA_ASSIGN_OR_RETURN(GgufValue value, ReadArray(cursor, depth + 1));
    values.push_back(std::move(value));
  }
  array.values = std::move(values);
  return absl::OkStatus();
}

absl::Status ReadElements(Cursor& cursor, uint32_t type, uint64_t count, int depth, GgufArray& array) {
  switch (static_cast<internal::GgufValueType>(type)) {
    case kU8:
      return ReadNumbers<uint8_t, uint64_t>(cursor, count, array);
    case kI8:
      return ReadNumbers<int8_t, int64_t>(cursor, count, array);
    case kU16:
      return ReadNumbers<uint16_t, uint64_t>(cursor, count, array);
    case kI16:
      return ReadNumbers<int16_t, int64_t>(cursor, count, array);
    case kU32:
      return ReadNumbers<uint32_t, uint64_t>(cursor, count, array);
    case kI32:
      return ReadNumbers<int32_t, int64_t>(cursor, count, array);
    case kU64:
      return ReadNumbers<uint64_t, uint64_t>(cursor, count, array);
    case kI64:
      return ReadNumbers<int64_t, int64_t>(cursor, count, array);
    case kF32:
      return ReadNumbers<float, double>(cursor, count, array);
    case kF64:
      return ReadNumbers<double, double>(cursor, count, array);
    case kBool:
      return ReadBools(cursor, count, array);
    case kString:
      return ReadStrings(cursor, count, array);
    default:
      return ReadArrays(cursor, count, depth, array);
  }
}

absl::StatusOr<GgufValue> ReadArray(Cursor& cursor, int depth) {
  if (depth > kMaxArrayDepth) {
    return absl::InvalidArgumentError(Cat("arrays nested deeper than ", kMaxArrayDepth));
  }
  STRATA_ASSIGN_OR_RETURN(const uint32_t type, cursor.Read<uint32_t>("an array's element type"));
  const size_t least = LeastBytes(type);
  if (least == 0) return absl::InvalidArgumentError(Cat("array of unknown element type ", type));
  STRATA_ASSIGN_OR_RETURN(const uint64_t count, cursor.ReadCount("an array's length", least));
  auto array = std::make_shared<GgufArray>();
  STRATA_RETURN_IF_ERROR(ReadElements(cursor, type, count, depth, *array));
  return GgufValue(std::shared_ptr<const GgufArray>(std::move(array)));
}

absl::StatusOr<GgufValue> ReadValue(Cursor& cursor, uint32_t type) {
  switch (static_cast<internal::GgufValueType>(type)) {
    case kU8:
      return ReadNumber<uint8_t, uint64_t>(cursor);
    case kI8:
      return ReadNumber<int8_t, int64_t>(cursor);
    case kU16:
      return ReadNumber<uint16_t, uint64_t>(cursor);
    case kI16:
      return ReadNumber<int16_t, int64_t>(cursor);
    case kU32:
      return ReadNumber<uint32_t, uint64_t>(cursor);
    case kI32:
      return ReadNumber<int32_t, int64_t>(cursor);
    case kU64:
      return ReadNumber<uint64_t, uint64_t>(cursor);
    case kI64:
      return ReadNumber<int64_t, int64_t>(cursor);
    case kF32:
      return ReadNumber<float, double>(cursor);
    case kF64:
      return ReadNumber<double, double>(cursor);
    case kBool: {
      STRATA_ASSIGN_OR_RETURN(const bool value, ReadBool(cursor));
      return GgufValue(value);
    }
    case kString: {
      STRATA_ASSIGN_OR_RETURN(std::string value, cursor.ReadString("a string"));
      return GgufValue(std::move(value));
    }
    case kArray:
      return ReadArray(cursor, 1);
    default:
      return absl::InvalidArgumentError(Cat("unknown value type ", type));
  }
}

struct Counts {
  uint64_t tensors = 0, keys = 0;
};

absl::StatusOr<Counts> ReadPreamble(Cursor& cursor) {
  STRATA_ASSIGN_OR_RETURN(const uint32_t magic, cursor.Read<uint32_t>("the magic number"));
  if (magic != kMagic) return absl::InvalidArgumentError("no GGUF file: it does not start with \"GGUF\"");
  STRATA_ASSIGN_OR_RETURN(const uint32_t version, cursor.Read<uint32_t>("the version"));
  if ((version & 0xffffU) == 0 && version != 0) return absl::UnimplementedError("big-endian GGUF files are not read");
  if (version != 2 && version != 3) {
    return absl::UnimplementedError(Cat("GGUF version ", version, "; expected 2 or 3"));
  }
  Counts counts;
  // name length, dimensions, type, offset; key length, type, one byte of value
  STRATA_ASSIGN_OR_RETURN(counts.tensors, cursor.ReadCount("the number of tensors", 8 + 4 + 4 + 8));
  STRATA_ASSIGN_OR_RETURN(counts.keys, cursor.ReadCount("the number of keys", 8 + 4 + 1));
  return counts;
}

struct Metadata {
  std::map<std::string, GgufValue> values;
  std::map<std::string, std::span<const std::byte>, std::less<>> encoded;
};

absl::Status ReadMetadata(Cursor& cursor, uint64_t count, Metadata& metadata) {
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t at = cursor.position();
    STRATA_ASSIGN_OR_RETURN(std::string key, cursor.ReadString(Cat("key ", i, " at byte ", at)));
    const uint64_t start = cursor.position();
    STRATA_ASSIGN_OR_RETURN(const uint32_t type, cursor.Read<uint32_t>("a value's type"));
    auto value = ReadValue(cursor, type);
    if (!value.ok()) {
      return Annotate(value.status(), Cat("key ", Quoted(key), " at byte ", at));
    }
    metadata.encoded.emplace(key, cursor.Since(start));
    if (!metadata.values.emplace(std::move(key), *std::move(value)).second) {
      return absl::InvalidArgumentError(Cat("key ", i, " at byte ", at, " is there twice"));
    }
  }
  return absl::OkStatus();
}

struct TensorEntry {
  GgufTensor tensor;
  uint64_t offset = 0, size_bytes = 0;
};

// Bytes that the shape takes. 0 where the encoding's number is unknown: such a tensor is listed, and refused when
// decoded.
absl::StatusOr<uint64_t> BytesOf(const GgufTensor& tensor) {
  uint64_t elements = 1;
  for (const int64_t extent : tensor.shape) {
    if (__builtin_mul_overflow(elements, static_cast<uint64_t>(extent), &elements) ||
        elements > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) / 16) {
      return absl::InvalidArgumentError(Cat("shape [", absl::StrJoin(tensor.shape, ", "), "] is too large"));
    }
  }
  const GgufEncoding* encoding = FindGgufEncoding(tensor.type);
  if (encoding == nullptr) return 0;
  const int64_t row = tensor.shape.empty() ? 1 : tensor.shape.back();
  if (row % encoding->block_elements != 0) {
    return absl::InvalidArgumentError(
        Cat("rows of ", row, " do not fit ", encoding->name, "'s blocks of ", encoding->block_elements));
  }
  return elements / encoding->block_elements * encoding->block_bytes;
}

absl::StatusOr<TensorEntry> ReadTensorEntry(Cursor& cursor, std::string name) {
  TensorEntry entry;
  entry.tensor.name = std::move(name);
  STRATA_ASSIGN_OR_RETURN(const uint32_t dimensions, cursor.Read<uint32_t>("the number of dimensions"));
  if (dimensions > kMaxDimensions) {
    return absl::InvalidArgumentError(Cat(dimensions, " dimensions; at most ", kMaxDimensions, " are read"));
  }
  for (uint32_t d = 0; d < dimensions; ++d) {
    STRATA_ASSIGN_OR_RETURN(const uint64_t extent, cursor.Read<uint64_t>("a dimension"));
    if (extent > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return absl::InvalidArgumentError(Cat("dimension of ", extent));
    }
    entry.tensor.shape.push_back(static_cast<int64_t>(extent));
  }
  std::reverse(entry.tensor.shape.begin(), entry.tensor.shape.end());
  STRATA_ASSIGN_OR_RETURN(entry.tensor.type, cursor.Read<uint32_t>("the encoding"));
  STRATA_ASSIGN_OR_RETURN(entry.offset, cursor.Read<uint64_t>("the offset"));
  STRATA_ASSIGN_OR_RETURN(entry.size_bytes, BytesOf(entry.tensor));
  return entry;
}

absl::StatusOr<std::vector<TensorEntry>> ReadTensorTable(Cursor& cursor, uint64_t count) {
  std::vector<TensorEntry> entries;
  std::set<std::string> names;
  entries.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t at = cursor.position();
    STRATA_ASSIGN_OR_RETURN(std::string name, cursor.ReadString(Cat("tensor ", i, " at byte ", at)));
    const std::string where = Cat("tensor ", Quoted(name), " at byte ", at);
    if (!names.insert(name).second) return absl::InvalidArgumentError(Cat(where, " is there twice"));
    auto entry = ReadTensorEntry(cursor, std::move(name));
    if (!entry.ok()) return Annotate(entry.status(), where);
    entries.push_back(*std::move(entry));
  }
  return entries;
}

absl::StatusOr<uint64_t> Alignment(const std::map<std::string, GgufValue>& metadata) {
  const auto it = metadata.find("general.alignment");
  if (it == metadata.end()) return kDefaultAlignment;
  const auto* value = std::get_if<uint64_t>(&it->second);
  if (value == nullptr || !std::has_single_bit(*value) || *value > (1U << 30)) {
    return absl::InvalidArgumentError("key 'general.alignment': expected a power of two of type uint32");
  }
  return *value;
}

// Gives each tensor its bytes; every tensor lies aligned inside the data and apart from the others.
absl::Status PlaceTensors(std::vector<TensorEntry>& entries, std::span<const std::byte> data, uint64_t alignment) {
  std::vector<const TensorEntry*> order;
  order.reserve(entries.size());
  for (TensorEntry& entry : entries) {
    if (entry.offset % alignment != 0 || entry.offset > data.size() || entry.size_bytes > data.size() - entry.offset) {
      return absl::InvalidArgumentError(Cat("tensor ", Quoted(entry.tensor.name), ": bytes [", entry.offset, ", ",
                                            entry.offset, " + ", entry.size_bytes, ") of ", data.size(),
                                            " bytes of data, alignment ", alignment));
    }
    entry.tensor.data = data.subspan(entry.offset, entry.size_bytes);
    if (entry.size_bytes > 0) order.push_back(&entry);
  }
  std::sort(order.begin(), order.end(),
            [](const TensorEntry* a, const TensorEntry* b) { return a->offset < b->offset; });
  for (size_t i = 1; i < order.size(); ++i) {
    if (order[i]->offset - order[i - 1]->offset < order[i - 1]->size_bytes) {
      return absl::InvalidArgumentError(
          Cat("tensor ", Quoted(order[i]->tensor.name), " overlaps tensor ", Quoted(order[i - 1]->tensor.name)));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<GgufTensor>> ReadAll(std::span<const std::byte> bytes, Metadata& metadata) {
  Cursor cursor(bytes);
  STRATA_ASSIGN_OR_RETURN(const Counts counts, ReadPreamble(cursor));
  STRATA_RETURN_IF_ERROR(ReadMetadata(cursor, counts.keys, metadata));
  STRATA_ASSIGN_OR_RETURN(std::vector<TensorEntry> entries, ReadTensorTable(cursor, counts.tensors));
  STRATA_ASSIGN_OR_RETURN(const uint64_t alignment, Alignment(metadata.values));
  const uint64_t start = (cursor.position() + alignment - 1) / alignment * alignment;
  const std::span<const std::byte> data = bytes.subspan(std::min<uint64_t>(start, bytes.size()));
  STRATA_RETURN_IF_ERROR(PlaceTensors(entries, data, alignment));
  std::vector<GgufTensor> tensors;
  tensors.reserve(entries.size());
  for (TensorEntry& entry : entries) tensors.push_back(std::move(entry.tensor));
  return tensors;
}

}  // namespace

int64_t GgufTensor::num_elements() const {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return count;
}

absl::StatusOr<Gguf> Gguf::Parse(std::span<const std::byte> bytes, std::string_view place) {
  Gguf result;
  Metadata metadata;
  auto tensors = ReadAll(bytes, metadata);
  if (!tensors.ok()) return Annotate(tensors.status(), place);
  result.metadata_ = std::move(metadata.values);
  result.encoded_ = std::move(metadata.encoded);
  result.tensors_ = *std::move(tensors);
  return result;
}

absl::StatusOr<Gguf> Gguf::Open(runtime::FileSystem& files, const std::string& path) {
  STRATA_ASSIGN_OR_RETURN(std::shared_ptr<const runtime::Mapping> mapping, files.Map(path));
  STRATA_ASSIGN_OR_RETURN(Gguf result, Parse(mapping->bytes(), path));
  result.mapping_ = std::move(mapping);
  return result;
}

std::span<const std::byte> Gguf::EncodedValue(std::string_view key) const {
  const auto it = encoded_.find(key);
  return it == encoded_.end() ? std::span<const std::byte>() : it->second;
}

const GgufTensor* Gguf::Find(std::string_view name) const {
  const auto it = std::find_if(tensors_.begin(), tensors_.end(), [&](const GgufTensor& t) { return t.name == name; });
  return it == tensors_.end() ? nullptr : &*it;
}

}  // namespace strata::format
