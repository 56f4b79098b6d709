#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "common/format/gguf_writer.h"
#include "common/format/tensor.h"
#include "common/status/cat.h"

namespace strata::format {
namespace {

constexpr size_t kBlock = 32;
constexpr size_t kQ80Bytes = 2 + kBlock;

// The scale is rounded to F16 only after the codes were computed with it, as the reference does.
void EncodeQ80(const float* values, std::byte* block) {
  float largest = 0;
  for (size_t i = 0; i < kBlock; ++i) largest = std::max(largest, std::abs(values[i]));
  const float scale = largest / 127.0F;
  const float inverse = scale == 0 ? 0 : 1.0F / scale;
  const uint16_t half = FloatToHalf(scale);
  std::memcpy(block, &half, sizeof(half));
  for (size_t i = 0; i < kBlock; ++i) {
    block[2 + i] = static_cast<std::byte>(static_cast<int8_t>(std::round(values[i] * inverse)));
  }
}

}  // namespace

absl::Status EncodeGguf(GgufType type, std::span<const float> values, std::span<std::byte> out) {
  switch (type) {
    case GgufType::kF32:
      return FromFloat(values, DType::kF32, out);
    case GgufType::kF16:
      return FromFloat(values, DType::kF16, out);
    case GgufType::kBF16:
      return FromFloat(values, DType::kBF16, out);
    case GgufType::kF64:
      return FromFloat(values, DType::kF64, out);
    case GgufType::kQ8_0: {
      std::byte* block = out.data();
      for (size_t at = 0; at < values.size(); at += kBlock, block += kQ80Bytes) EncodeQ80(values.data() + at, block);
      return absl::OkStatus();
    }
    default:
      return absl::UnimplementedError(Cat("encoding ", GgufTypeName(static_cast<uint32_t>(type)),
                                          " is not written; known are F32, F16, BF16, F64, Q8_0"));
  }
}

}  // namespace strata::format
