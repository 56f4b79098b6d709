#include "common/format/safetensors.h"

#include <algorithm>
#include <cstring>
#include <tuple>
#include <utility>

#include "absl/strings/str_join.h"
#include "common/format/safetensors_header.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::format {
namespace {

using internal::HeaderEntry;
using internal::Quoted;

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the reference reader

// Position of each dtype in the writer's order: descending alignment, within one alignment as the reference sorts.
int WriteRank(DType dtype) {
  switch (dtype) {
    case DType::kI64:
      return 0;
    case DType::kF64:
      return 1;
    case DType::kF32:
      return 2;
    case DType::kI32:
      return 3;
    case DType::kBF16:
      return 4;
    case DType::kF16:
      return 5;
    case DType::kI16:
      return 6;
    case DType::kI8:
      return 7;
    case DType::kU8:
      return 8;
    case DType::kBool:
      return 9;
  }
  return 10;
}

absl::StatusOr<std::string_view> HeaderText(std::span<const std::byte> bytes) {
  if (bytes.size() < kLengthBytes) {
    return absl::InvalidArgumentError(
        Cat("truncated: ", bytes.size(), " bytes, a safetensors file starts with 8 bytes of header length"));
  }
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), kLengthBytes);
  if (length > kMaxHeaderBytes) {
    return absl::InvalidArgumentError(Cat("header length ", length, " is over the limit of ", kMaxHeaderBytes,
                                          " bytes; is this a safetensors file?"));
  }
  if (length > bytes.size() - kLengthBytes) {
    return absl::InvalidArgumentError(Cat("truncated: the header needs ", length, " bytes, the file has ",
                                          bytes.size() - kLengthBytes, " after the header length"));
  }
  return std::string_view(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, length);
}

// Bytes that shape and dtype ask for.
absl::StatusOr<uint64_t> BytesOf(const HeaderEntry& entry) {
  uint64_t count = DTypeSize(entry.dtype);
  bool overflow = false;
  bool empty = false;
  for (const int64_t extent : entry.shape) {
    empty |= extent == 0;
    overflow |= __builtin_mul_overflow(count, static_cast<uint64_t>(extent), &count);
  }
  if (overflow && !empty) {
    return absl::InvalidArgumentError(
        Cat("tensor ", Quoted(entry.name), ": shape [", absl::StrJoin(entry.shape, ", "), "] passes 2^64 bytes"));
  }
  return empty ? 0 : count;
}

absl::Status CheckEntry(const HeaderEntry& entry, uint64_t data_bytes) {
  if (entry.begin > entry.end || entry.end > data_bytes) {
    return absl::InvalidArgumentError(Cat("tensor ", Quoted(entry.name), ": data_offsets [", entry.begin, ", ",
                                          entry.end, "] lie outside the ", data_bytes, " bytes of data"));
  }
  STRATA_ASSIGN_OR_RETURN(const uint64_t expected, BytesOf(entry));
  if (entry.end - entry.begin != expected) {
    return absl::InvalidArgumentError(Cat("tensor ", Quoted(entry.name), ": ", DTypeName(entry.dtype), " [",
                                          absl::StrJoin(entry.shape, ", "), "] takes ", expected,
                                          " bytes, data_offsets give ", entry.end - entry.begin));
  }
  return absl::OkStatus();
}

// Every byte of the data belongs to exactly one tensor.
absl::Status CheckCoverage(std::vector<const HeaderEntry*> entries, uint64_t data_bytes) {
  std::sort(entries.begin(), entries.end(), [](const HeaderEntry* a, const HeaderEntry* b) {
    return std::tie(a->begin, a->end) < std::tie(b->begin, b->end);
  });
  const auto fault = [](const HeaderEntry& entry, std::string_view what, uint64_t expected) {
    return absl::InvalidArgumentError(Cat("tensor ", Quoted(entry.name), " ", what, ": it starts at byte ", entry.begin,
                                          " of the data, expected ", expected));
  };
  // What overlaps leaves holes elsewhere.
  for (size_t i = 1; i < entries.size(); ++i) {
    if (entries[i]->begin < entries[i - 1]->end)
      return fault(*entries[i], Cat("overlaps ", Quoted(entries[i - 1]->name)), entries[i - 1]->end);
  }
  uint64_t position = 0;
  for (const HeaderEntry* entry : entries) {
    if (entry->begin != position) return fault(*entry, "leaves a hole before it", position);
    position = entry->end;
  }
  if (position != data_bytes) {
    return absl::InvalidArgumentError(
        Cat("the tensors end at byte ", position, " of the data, the file has ", data_bytes, " bytes of it"));
  }
  return absl::OkStatus();
}

absl::Status CheckEntries(const std::vector<HeaderEntry>& entries, uint64_t data_bytes) {
  std::vector<const HeaderEntry*> sorted;
  sorted.reserve(entries.size());
  for (const HeaderEntry& entry : entries) {
    STRATA_RETURN_IF_ERROR(CheckEntry(entry, data_bytes));
    sorted.push_back(&entry);
  }
  std::sort(sorted.begin(), sorted.end(), [](const HeaderEntry* a, const HeaderEntry* b) { return a->name < b->name; });
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end(),
                                        [](const HeaderEntry* a, const HeaderEntry* b) { return a->name == b->name; });
  if (twice != sorted.end()) {
    return absl::InvalidArgumentError(Cat("tensor ", Quoted((*twice)->name), " twice"));
  }
  return CheckCoverage(std::move(sorted), data_bytes);
}

struct Layout {
  internal::SafetensorsHeader header;
  std::span<const std::byte> data;
};

absl::StatusOr<Layout> ReadLayout(std::span<const std::byte> bytes) {
  STRATA_ASSIGN_OR_RETURN(const std::string_view text, HeaderText(bytes));
  STRATA_ASSIGN_OR_RETURN(internal::SafetensorsHeader header, internal::ParseSafetensorsHeader(text));
  const std::span<const std::byte> data = bytes.subspan(kLengthBytes + text.size());
  STRATA_RETURN_IF_ERROR(CheckEntries(header.entries, data.size()));
  return Layout{std::move(header), data};
}

// JSON string as the reference writer escapes it: only quote, backslash and control characters.
void AppendJsonString(std::string& out, std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  out += '"';
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          out += "\\u00";
          out += kHex[(c >> 4) & 15];
          out += kHex[c & 15];
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

void AppendMetadata(std::string& out, const std::map<std::string, std::string>& metadata) {
  out += "\"__metadata__\":{";
  std::string_view separator;
  for (const auto& [key, value] : metadata) {
    out += separator;
    AppendJsonString(out, key);
    out += ':';
    AppendJsonString(out, value);
    separator = ",";
  }
  out += '}';
}

}  // namespace

absl::StatusOr<Safetensors> Safetensors::Parse(std::span<const std::byte> bytes, std::string_view place) {
  auto layout = ReadLayout(bytes);
  if (!layout.ok()) return Annotate(layout.status(), place);
  Safetensors result;
  result.metadata_ = std::move(layout->header.metadata);
  result.tensors_.reserve(layout->header.entries.size());
  for (HeaderEntry& entry : layout->header.entries) {
    result.tensors_.push_back({.name = std::move(entry.name),
                               .dtype = entry.dtype,
                               .shape = std::move(entry.shape),
                               .data = layout->data.subspan(entry.begin, entry.end - entry.begin)});
  }
  std::sort(result.tensors_.begin(), result.tensors_.end(),
            [](const TensorView& a, const TensorView& b) { return a.name < b.name; });
  return result;
}

absl::StatusOr<Safetensors> Safetensors::Open(runtime::FileSystem& files, const std::string& path) {
  STRATA_ASSIGN_OR_RETURN(std::shared_ptr<const runtime::Mapping> mapping, files.Map(path));
  STRATA_ASSIGN_OR_RETURN(Safetensors result, Parse(mapping->bytes(), path));
  result.mapping_ = std::move(mapping);
  return result;
}

const TensorView* Safetensors::Find(std::string_view name) const {
  const auto it = std::lower_bound(tensors_.begin(), tensors_.end(), name,
                                   [](const TensorView& tensor, std::string_view key) { return tensor.name < key; });
  return it != tensors_.end() && it->name == name ? &*it : nullptr;
}

std::string SafetensorsPreamble(std::vector<TensorView>& tensors, const std::map<std::string, std::string>& metadata) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorView& a, const TensorView& b) {
    const int rank_a = WriteRank(a.dtype);
    const int rank_b = WriteRank(b.dtype);
    return rank_a != rank_b ? rank_a < rank_b : a.name < b.name;
  });
  std::string header = "{";
  if (!metadata.empty()) AppendMetadata(header, metadata);
  uint64_t position = 0;
  for (const TensorView& tensor : tensors) {
    const uint64_t end = position + static_cast<uint64_t>(tensor.num_elements()) * DTypeSize(tensor.dtype);
    if (header.size() > 1) header += ',';
    AppendJsonString(header, tensor.name);
    header += Cat(":{\"dtype\":\"", DTypeName(tensor.dtype), "\",\"shape\":[", absl::StrJoin(tensor.shape, ","),
                  "],\"data_offsets\":[", position, ",", end, "]}");
    position = end;
  }
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const uint64_t length = header.size();
  header.insert(0, reinterpret_cast<const char*>(&length), kLengthBytes);
  return header;
}

std::string SerializeSafetensors(std::vector<TensorView> tensors, const std::map<std::string, std::string>& metadata) {
  std::string out = SafetensorsPreamble(tensors, metadata);
  size_t size = out.size();
  for (const TensorView& tensor : tensors) size += tensor.data.size();
  out.reserve(size);
  for (const TensorView& tensor : tensors) {
    out.append(reinterpret_cast<const char*>(tensor.data.data()), tensor.data.size());
  }
  return out;
}

}  // namespace strata::format
