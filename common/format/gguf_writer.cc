#include "common/format/gguf_writer.h"

#include <algorithm>
#include <set>

#include "common/format/gguf_types.h"
#include "common/format/safetensors_header.h"
#include "common/status/cat.h"

namespace strata::format {
namespace {

using internal::GgufEncoding;
using internal::GgufValueType;
using internal::Quoted;

constexpr uint32_t kVersion = 3;
constexpr size_t kMaxDimensions = 4;
constexpr size_t kMaxName = 63;

template <typename T>
void Put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void PutString(std::string& out, std::string_view text) {
  Put<uint64_t>(out, text.size());
  out.append(text);
}

void PutArrayStart(std::string& out, GgufValueType type, size_t count) {
  Put(out, GgufValueType::kArray);
  Put(out, type);
  Put<uint64_t>(out, count);
}

template <typename T>
std::string Scalar(GgufValueType type, T value) {
  std::string out;
  Put(out, type);
  Put(out, value);
  return out;
}

template <typename T>
std::string Numbers(GgufValueType type, std::span<const T> values) {
  std::string out;
  PutArrayStart(out, type, values.size());
  out.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
  return out;
}

const GgufEncoding& EncodingOf(GgufType type) { return *internal::FindGgufEncoding(static_cast<uint32_t>(type)); }

uint64_t RoundedUp(uint64_t position) { return (position + kGgufAlignment - 1) / kGgufAlignment * kGgufAlignment; }

absl::Status CheckSpec(const GgufTensorSpec& tensor) {
  const auto fault = [&tensor](auto&&... parts) {
    return absl::InvalidArgumentError(Cat("tensor ", Quoted(tensor.name), ": ", parts...));
  };
  if (tensor.name.empty() || tensor.name.size() > kMaxName) {
    return fault("the name has ", tensor.name.size(), " bytes, GGUF readers take 1 to ", kMaxName);
  }
  if (tensor.shape.empty() || tensor.shape.size() > kMaxDimensions) {
    return fault(tensor.shape.size(), " dimensions, GGUF has 1 to ", kMaxDimensions);
  }
  const GgufEncoding& encoding = EncodingOf(tensor.type);
  if (tensor.shape.back() % encoding.block_elements != 0) {
    return fault("rows of ", tensor.shape.back(), " do not fit ", encoding.name, "'s blocks of ",
                 encoding.block_elements);
  }
  return absl::OkStatus();
}

}  // namespace

std::string& GgufMetadata::Slot(std::string_view key) {
  const auto it = std::find_if(entries_.begin(), entries_.end(), [&](const auto& entry) { return entry.first == key; });
  if (it != entries_.end()) return it->second;
  return entries_.emplace_back(key, "").second;
}

void GgufMetadata::SetUint(std::string_view key, uint32_t value) { Slot(key) = Scalar(GgufValueType::kU32, value); }
void GgufMetadata::SetFloat(std::string_view key, float value) { Slot(key) = Scalar(GgufValueType::kF32, value); }
void GgufMetadata::SetBool(std::string_view key, bool value) { Slot(key) = Scalar(GgufValueType::kBool, value); }

void GgufMetadata::SetString(std::string_view key, std::string_view value) {
  std::string& slot = Slot(key);
  slot.clear();
  Put(slot, GgufValueType::kString);
  PutString(slot, value);
}

void GgufMetadata::SetStrings(std::string_view key, std::span<const std::string> values) {
  std::string& slot = Slot(key);
  slot.clear();
  PutArrayStart(slot, GgufValueType::kString, values.size());
  for (const std::string& value : values) PutString(slot, value);
}

void GgufMetadata::SetInts(std::string_view key, std::span<const int32_t> values) {
  Slot(key) = Numbers(GgufValueType::kI32, values);
}

void GgufMetadata::SetFloats(std::string_view key, std::span<const float> values) {
  Slot(key) = Numbers(GgufValueType::kF32, values);
}

void GgufMetadata::SetEncoded(std::string_view key, std::span<const std::byte> encoded) {
  Slot(key).assign(reinterpret_cast<const char*>(encoded.data()), encoded.size());
}

bool GgufMetadata::Has(std::string_view key) const {
  return std::any_of(entries_.begin(), entries_.end(), [&](const auto& entry) { return entry.first == key; });
}

absl::StatusOr<std::string> GgufPreamble(const GgufMetadata& metadata, std::span<const GgufTensorSpec> tensors) {
  std::string out = "GGUF";
  Put(out, kVersion);
  Put<uint64_t>(out, tensors.size());
  Put<uint64_t>(out, metadata.entries_.size());
  for (const auto& [key, value] : metadata.entries_) {
    PutString(out, key);
    out += value;
  }
  uint64_t offset = 0;
  std::set<std::string_view> names;
  for (const GgufTensorSpec& tensor : tensors) {
    if (absl::Status status = CheckSpec(tensor); !status.ok()) return status;
    if (!names.insert(tensor.name).second) {
      return absl::InvalidArgumentError(Cat("tensor ", Quoted(tensor.name), " twice"));
    }
    PutString(out, tensor.name);
    Put(out, static_cast<uint32_t>(tensor.shape.size()));
    uint64_t elements = 1;
    for (const int64_t extent : std::vector(tensor.shape.rbegin(), tensor.shape.rend())) {
      Put(out, static_cast<uint64_t>(extent));
      elements *= static_cast<uint64_t>(extent);
    }
    Put(out, static_cast<uint32_t>(tensor.type));
    Put(out, offset);
    offset = RoundedUp(offset + GgufSizeBytes(tensor.type, elements));
  }
  out.resize(RoundedUp(out.size()));
  return out;
}

uint64_t GgufSizeBytes(GgufType type, uint64_t num_elements) {
  const GgufEncoding& encoding = EncodingOf(type);
  return num_elements / encoding.block_elements * encoding.block_bytes;
}

bool CanEncodeGguf(GgufType type, int64_t row_elements) {
  switch (type) {
    case GgufType::kF32:
    case GgufType::kF16:
    case GgufType::kBF16:
    case GgufType::kF64:
    case GgufType::kQ8_0:
      return row_elements % EncodingOf(type).block_elements == 0;
    default:
      return false;
  }
}

}  // namespace strata::format
