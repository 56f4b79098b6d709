#include <bit>
#include <cstring>

#include "common/format/gguf.h"
#include "common/format/gguf_types.h"
#include "common/format/safetensors_header.h"
#include "common/format/tensor.h"
#include "common/status/cat.h"

namespace strata::format {
namespace {

using internal::FindGgufEncoding;
using internal::GgufEncoding;
using internal::Quoted;

constexpr size_t kBlock = 32;

template <typename T>
T Load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

float LoadHalf(const std::byte* at) { return HalfToFloat(Load<uint16_t>(at)); }

// Each block decoder writes kBlock floats. Products and sums are separate roundings, as the reference computes them.
// Elements 0..15 lie in the low halves of the 16 code bytes, 16..31 in the high halves.
void DecodeQ40(const std::byte* block, float* out) {
  const float scale = LoadHalf(block);
  for (size_t i = 0; i < kBlock / 2; ++i) {
    const auto code = std::to_integer<int32_t>(block[2 + i]);
    out[i] = scale * static_cast<float>((code & 15) - 8);
    out[i + kBlock / 2] = scale * static_cast<float>((code >> 4) - 8);
  }
}

void DecodeQ41(const std::byte* block, float* out) {
  const float scale = LoadHalf(block);
  const float minimum = LoadHalf(block + 2);
  for (size_t i = 0; i < kBlock / 2; ++i) {
    const auto code = std::to_integer<int32_t>(block[4 + i]);
    out[i] = scale * static_cast<float>(code & 15) + minimum;
    out[i + kBlock / 2] = scale * static_cast<float>(code >> 4) + minimum;
  }
}

// The fifth bit of element i is bit i of a 32-bit word.
void DecodeQ50(const std::byte* block, float* out) {
  const float scale = LoadHalf(block);
  const auto high = Load<uint32_t>(block + 2);
  for (size_t i = 0; i < kBlock / 2; ++i) {
    const auto code = std::to_integer<uint32_t>(block[6 + i]);
    const uint32_t low_element = (code & 15U) | ((high >> i) & 1U) << 4;
    const uint32_t high_element = (code >> 4) | ((high >> (i + kBlock / 2)) & 1U) << 4;
    out[i] = scale * static_cast<float>(static_cast<int32_t>(low_element) - 16);
    out[i + kBlock / 2] = scale * static_cast<float>(static_cast<int32_t>(high_element) - 16);
  }
}

void DecodeQ51(const std::byte* block, float* out) {
  const float scale = LoadHalf(block);
  const float minimum = LoadHalf(block + 2);
  const auto high = Load<uint32_t>(block + 4);
  for (size_t i = 0; i < kBlock / 2; ++i) {
    const auto code = std::to_integer<uint32_t>(block[8 + i]);
    const uint32_t low_element = (code & 15U) | ((high >> i) & 1U) << 4;
    const uint32_t high_element = (code >> 4) | ((high >> (i + kBlock / 2)) & 1U) << 4;
    out[i] = scale * static_cast<float>(static_cast<int32_t>(low_element)) + minimum;
    out[i + kBlock / 2] = scale * static_cast<float>(static_cast<int32_t>(high_element)) + minimum;
  }
}

void DecodeQ80(const std::byte* block, float* out) {
  const float scale = LoadHalf(block);
  for (size_t i = 0; i < kBlock; ++i) {
    out[i] = scale * static_cast<float>(std::to_integer<int8_t>(block[2 + i]));
  }
}

template <void (*kDecode)(const std::byte*, float*)>
absl::Status DecodeBlocks(std::span<const std::byte> data, size_t block_bytes, std::span<float> out) {
  const std::byte* block = data.data();
  for (size_t at = 0; at < out.size(); at += kBlock, block += block_bytes) kDecode(block, out.data() + at);
  return absl::OkStatus();
}

absl::Status DecodePlain(const std::string& name, DType dtype, std::span<const std::byte> data, std::span<float> out) {
  return ToFloat({.name = name, .dtype = dtype, .shape = {static_cast<int64_t>(out.size())}, .data = data}, out);
}

absl::Status Decode(const GgufTensor& tensor, const GgufEncoding& encoding, std::span<const std::byte> data,
                    std::span<float> out) {
  switch (static_cast<GgufType>(tensor.type)) {
    case GgufType::kF32:
      return DecodePlain(tensor.name, DType::kF32, data, out);
    case GgufType::kF16:
      return DecodePlain(tensor.name, DType::kF16, data, out);
    case GgufType::kBF16:
      return DecodePlain(tensor.name, DType::kBF16, data, out);
    case GgufType::kF64:
      return DecodePlain(tensor.name, DType::kF64, data, out);
    case GgufType::kQ4_0:
      return DecodeBlocks<DecodeQ40>(data, encoding.block_bytes, out);
    case GgufType::kQ4_1:
      return DecodeBlocks<DecodeQ41>(data, encoding.block_bytes, out);
    case GgufType::kQ5_0:
      return DecodeBlocks<DecodeQ50>(data, encoding.block_bytes, out);
    case GgufType::kQ5_1:
      return DecodeBlocks<DecodeQ51>(data, encoding.block_bytes, out);
    case GgufType::kQ8_0:
      return DecodeBlocks<DecodeQ80>(data, encoding.block_bytes, out);
  }
  return absl::UnimplementedError(Cat(
      "tensor ", Quoted(tensor.name), ": encoding ", encoding.name,
      " is not read; known are F32, F16, BF16, F64, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1. Requantise the file to one of them"));
}

}  // namespace

std::string GgufTypeName(uint32_t type) {
  const GgufEncoding* encoding = FindGgufEncoding(type);
  return encoding == nullptr ? Cat("type ", type) : std::string(encoding->name);
}

bool CanDecodeGguf(uint32_t type) {
  switch (static_cast<GgufType>(type)) {
    case GgufType::kF32:
    case GgufType::kF16:
    case GgufType::kBF16:
    case GgufType::kF64:
    case GgufType::kQ4_0:
    case GgufType::kQ4_1:
    case GgufType::kQ5_0:
    case GgufType::kQ5_1:
    case GgufType::kQ8_0:
      return true;
  }
  return false;
}

absl::Status DecodeGgufRows(const GgufTensor& tensor, int64_t first_row, std::span<float> out) {
  const GgufEncoding* encoding = FindGgufEncoding(tensor.type);
  if (encoding == nullptr) {
    return absl::UnimplementedError(
        Cat("tensor ", Quoted(tensor.name), ": encoding number ", tensor.type, " is not known"));
  }
  const int64_t row = tensor.shape.empty() ? 1 : tensor.shape.back();
  const int64_t elements = tensor.num_elements();
  const int64_t rows = row == 0 ? 0 : elements / row;
  if (row == 0 || out.size() % static_cast<uint64_t>(row) != 0) {
    if (row == 0 && out.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(Cat("tensor ", Quoted(tensor.name), ": room for ", out.size(),
                                          " elements is no whole number of rows of ", row));
  }
  const auto wanted = static_cast<int64_t>(out.size() / static_cast<uint64_t>(row));
  if (first_row < 0 || first_row > rows || wanted > rows - first_row) {
    return absl::InvalidArgumentError(Cat("tensor ", Quoted(tensor.name), ": rows [", first_row, ", ", first_row, " + ",
                                          wanted, ") of ", rows, " asked for"));
  }
  if (row % encoding->block_elements != 0) {
    return absl::InvalidArgumentError(Cat("tensor ", Quoted(tensor.name), ": rows of ", row, " do not fit ",
                                          encoding->name, "'s blocks of ", encoding->block_elements));
  }
  const uint64_t row_bytes = static_cast<uint64_t>(row) / encoding->block_elements * encoding->block_bytes;
  if (tensor.data.size() != row_bytes * static_cast<uint64_t>(rows)) {
    return absl::InvalidArgumentError(Cat("tensor ", Quoted(tensor.name), ": ", tensor.data.size(), " bytes, expected ",
                                          row_bytes * static_cast<uint64_t>(rows)));
  }
  return Decode(
      tensor, *encoding,
      tensor.data.subspan(row_bytes * static_cast<uint64_t>(first_row), row_bytes * static_cast<uint64_t>(wanted)),
      out);
}

}  // namespace strata::format
