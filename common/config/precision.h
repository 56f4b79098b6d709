// In which numbers a base model is computed and held.
#ifndef STRATA_COMMON_CONFIG_PRECISION_H_
#define STRATA_COMMON_CONFIG_PRECISION_H_

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace strata::config {

enum class ComputeDType { kFp32, kBf16, kFp16 };
inline constexpr std::array<std::string_view, 3> kComputeDTypeWords = {"fp32", "bf16", "fp16"};

constexpr std::string_view ComputeDTypeWord(ComputeDType type) { return kComputeDTypeWords[static_cast<size_t>(type)]; }

// REQUIRES: one of kComputeDTypeWords.
constexpr ComputeDType ParseComputeDType(std::string_view word) {
  return word == "bf16" ? ComputeDType::kBf16 : word == "fp16" ? ComputeDType::kFp16 : ComputeDType::kFp32;
}

// What the frozen matrices of the layers' linear modules are held in. Quantised: int8 with a scale per row, NF4 with
// double quantisation; embeddings and head are then held in bf16 (fp16 beside products of fp16).
enum class BaseDType { kFp32, kBf16, kFp16, kInt8, kNf4 };
inline constexpr std::array<std::string_view, 5> kBaseDTypeWords = {"fp32", "bf16", "fp16", "int8", "nf4"};

constexpr std::string_view BaseDTypeWord(BaseDType type) { return kBaseDTypeWords[static_cast<size_t>(type)]; }

constexpr std::optional<BaseDType> ParseBaseDType(std::string_view word) {
  for (size_t i = 0; i < kBaseDTypeWords.size(); ++i) {
    if (kBaseDTypeWords[i] == word) return static_cast<BaseDType>(i);
  }
  return std::nullopt;
}

struct Precision {
  constexpr Precision(ComputeDType c)  // NOLINT(google-explicit-constructor): mostly held as it is computed
      : compute(c),
        base(c == ComputeDType::kFp32   ? BaseDType::kFp32
             : c == ComputeDType::kBf16 ? BaseDType::kBf16
                                        : BaseDType::kFp16) {}
  constexpr Precision(ComputeDType c, BaseDType b) : compute(c), base(b) {}
  constexpr bool quantised() const { return base == BaseDType::kInt8 || base == BaseDType::kNf4; }
  bool operator==(const Precision&) const = default;

  ComputeDType compute;
  BaseDType base;
};

// What is wrong with the two together, or with them on the processor, and what to do; empty: nothing.
inline std::string PrecisionFault(const Precision& precision, bool cuda) {
  const std::string compute(ComputeDTypeWord(precision.compute));
  const std::string base(BaseDTypeWord(precision.base));
  const bool wider = precision.base == BaseDType::kFp32 && precision.compute != ComputeDType::kFp32;
  const bool half = (precision.base == BaseDType::kFp16) != (precision.compute == ComputeDType::kFp16);
  if (wider || (half && !precision.quantised()))
    return "`base_dtype` " + base + " contradicts `dtype` " + compute + ": leave base_dtype out, or change dtype";
  if (!cuda && precision.compute == ComputeDType::kFp16)
    return "`dtype` fp16 is for CUDA devices: take bf16 or fp32, or set device: cuda";
  return "";
}

}  // namespace strata::config

#endif  // STRATA_COMMON_CONFIG_PRECISION_H_
