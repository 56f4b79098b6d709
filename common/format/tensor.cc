#include "common/format/tensor.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "absl/strings/str_join.h"
#include "common/status/cat.h"

namespace strata::format {
namespace {

struct DTypeEntry {
  std::string_view name;
  size_t size;
};
// In the order of DType.
constexpr std::array<DTypeEntry, 10> kDTypes = {{{"F64", 8},
                                                 {"F32", 4},
                                                 {"F16", 2},
                                                 {"BF16", 2},
                                                 {"I64", 8},
                                                 {"I32", 4},
                                                 {"I16", 2},
                                                 {"I8", 1},
                                                 {"U8", 1},
                                                 {"BOOL", 1}}};

// Both bands are free of subnormal operands, so that flush-to-zero modes do not change the result; plain selects so
// that loops over it vectorise.
inline float HalfBitsToFloat(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000U) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fffU) << 13;
  const uint32_t exponent = magnitude & 0x0f800000U;
  uint32_t normal = magnitude + 0x38000000U;
  normal += exponent == 0x0f800000U ? 0x38000000U : 0U;
  const float subnormal = std::bit_cast<float>(magnitude + 0x38800000U) - std::bit_cast<float>(0x38800000U);
  return std::bit_cast<float>((exponent == 0 ? std::bit_cast<uint32_t>(subnormal) : normal) | sign);
}

inline float BF16BitsToFloat(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

template <typename Stored, typename Out, typename Convert>
void Widen(const std::byte* data, std::span<Out> out, Convert convert) {
  const size_t count = out.size();
  Out* target = out.data();
  for (size_t i = 0; i < count; ++i) {
    Stored value;
    std::memcpy(&value, data + i * sizeof(Stored), sizeof(Stored));
    target[i] = static_cast<Out>(convert(value));
  }
}

template <typename Stored, typename Convert>
void Narrow(std::span<const float> values, std::byte* out, Convert convert) {
  for (size_t i = 0; i < values.size(); ++i) {
    const Stored stored = convert(values[i]);
    std::memcpy(out + i * sizeof(Stored), &stored, sizeof(Stored));
  }
}

template <typename Out>
absl::Status WidenTensor(const TensorView& tensor, std::span<Out> out) {
  const int64_t elements = tensor.num_elements();
  if (elements < 0 || static_cast<uint64_t>(elements) != out.size()) {
    return absl::InvalidArgumentError(
        Cat("tensor '", tensor.name, "' has ", elements, " elements, room was given for ", out.size()));
  }
  if (tensor.data.size() != out.size() * DTypeSize(tensor.dtype)) {
    return absl::InvalidArgumentError(Cat("tensor '", tensor.name, "' has ", tensor.data.size(),
                                          " bytes, its shape and dtype ask for ",
                                          out.size() * DTypeSize(tensor.dtype)));
  }
  const std::byte* data = tensor.data.data();
  switch (tensor.dtype) {
    case DType::kF64:
      Widen<double>(data, out, [](double v) { return v; });
      return absl::OkStatus();
    case DType::kF32:
      Widen<float>(data, out, [](float v) { return v; });
      return absl::OkStatus();
    case DType::kF16:
      Widen<uint16_t>(data, out, HalfBitsToFloat);
      return absl::OkStatus();
    case DType::kBF16:
      Widen<uint16_t>(data, out, BF16BitsToFloat);
      return absl::OkStatus();
    default:
      return absl::InvalidArgumentError(
          Cat("tensor '", tensor.name, "' is ", DTypeName(tensor.dtype), "; expected one of F64, F32, F16, BF16"));
  }
}

}  // namespace

std::string_view DTypeName(DType dtype) { return kDTypes[static_cast<size_t>(dtype)].name; }

size_t DTypeSize(DType dtype) { return kDTypes[static_cast<size_t>(dtype)].size; }

absl::StatusOr<DType> ParseDType(std::string_view name) {
  for (size_t i = 0; i < kDTypes.size(); ++i) {
    if (kDTypes[i].name == name) return static_cast<DType>(i);
  }
  return absl::InvalidArgumentError(
      Cat("dtype '", name.substr(0, 40), "' is not read; known are ",
          absl::StrJoin(kDTypes, ", ", [](std::string* out, const DTypeEntry& entry) { out->append(entry.name); })));
}

int64_t TensorView::num_elements() const {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return count;
}

absl::Status ToFloat(const TensorView& tensor, std::span<float> out) { return WidenTensor(tensor, out); }

absl::Status ToDouble(const TensorView& tensor, std::span<double> out) { return WidenTensor(tensor, out); }

absl::Status FromFloat(std::span<const float> values, DType dtype, std::span<std::byte> out) {
  if (out.size() != values.size() * DTypeSize(dtype)) {
    return absl::InvalidArgumentError(
        Cat(values.size(), " elements as ", DTypeName(dtype), " do not fill ", out.size(), " bytes"));
  }
  switch (dtype) {
    case DType::kF64:
      Narrow<double>(values, out.data(), [](float v) { return static_cast<double>(v); });
      return absl::OkStatus();
    case DType::kF32:
      Narrow<float>(values, out.data(), [](float v) { return v; });
      return absl::OkStatus();
    case DType::kF16:
      Narrow<uint16_t>(values, out.data(), FloatToHalf);
      return absl::OkStatus();
    case DType::kBF16:
      Narrow<uint16_t>(values, out.data(), FloatToBF16);
      return absl::OkStatus();
    default:
      return absl::InvalidArgumentError(Cat("floats are written as F64, F32, F16 or BF16, not as ", DTypeName(dtype)));
  }
}

uint16_t FloatToBF16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return static_cast<uint16_t>((bits >> 16) | 0x0040U);
  return static_cast<uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

float BF16ToFloat(uint16_t bits) { return BF16BitsToFloat(bits); }

uint16_t FloatToHalf(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000U);
  const uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return static_cast<uint16_t>(sign | 0x7e00U | ((magnitude >> 13) & 0x3ffU));
  if (magnitude >= 0x477ff000U) return static_cast<uint16_t>(sign | 0x7c00U);  // 65520 and above round to infinity
  if (magnitude < 0x38800000U) {
    // Below 2^-14: adding 0.5 lets the addition itself round to multiples of 2^-24.
    const float aligned = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(aligned) - 0x3f000000U));
  }
  const uint32_t rounded = magnitude - 0x38000000U + 0xfffU + ((magnitude >> 13) & 1U);
  return static_cast<uint16_t>(sign | (rounded >> 13));
}

float HalfToFloat(uint16_t bits) { return HalfBitsToFloat(bits); }

}  // namespace strata::format
