// A named array in somebody else's memory.
#ifndef STRATA_COMMON_FORMAT_TENSOR_H_
#define STRATA_COMMON_FORMAT_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace strata::format {

enum class DType { kF64, kF32, kF16, kBF16, kI64, kI32, kI16, kI8, kU8, kBool };

// As safetensors writes it: "F32", "BF16", ...
std::string_view DTypeName(DType dtype);
size_t DTypeSize(DType dtype);
absl::StatusOr<DType> ParseDType(std::string_view name);

// Row-major, little-endian, not necessarily aligned. Borrows `data`.
struct TensorView {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::span<const std::byte> data;

  int64_t num_elements() const;
};

// Widens F64, F32, F16, BF16 elements (any alignment) to float or double; F64 to float rounds to nearest.
// INVALID_ARGUMENT: not a floating dtype, or out.size() != num_elements().
absl::Status ToFloat(const TensorView& tensor, std::span<float> out);
absl::Status ToDouble(const TensorView& tensor, std::span<double> out);

// Rounds to F32, F16, BF16 (to nearest even) or widens to F64. INVALID_ARGUMENT: another dtype, or out.size() !=
// values.size() * DTypeSize(dtype). `out` may have any alignment.
absl::Status FromFloat(std::span<const float> values, DType dtype, std::span<std::byte> out);

uint16_t FloatToBF16(float value);  // round to nearest even; NaN stays NaN
float BF16ToFloat(uint16_t bits);
uint16_t FloatToHalf(float value);
float HalfToFloat(uint16_t bits);

}  // namespace strata::format

#endif  // STRATA_COMMON_FORMAT_TENSOR_H_
