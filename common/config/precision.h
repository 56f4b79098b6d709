// In which numbers a base model is computed and held.
#ifndef STRATA_COMMON_CONFIG_PRECISION_H_
#define STRATA_COMMON_CONFIG_PRECISION_H_

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace strata::config {

enum class ComputeDType { kFp32, kBf16 };

// What the frozen matrices of the layers' linear modules are held in. Quantised: int8 with a scale per row, NF4 with
// double quantisation; embeddings and head are then held in bf16.
enum class BaseDType { kFp32, kBf16, kInt8, kNf4 };
inline constexpr std::array<std::string_view, 4> kBaseDTypeWords = {"fp32", "bf16", "int8", "nf4"};

constexpr std::string_view BaseDTypeWord(BaseDType type) { return kBaseDTypeWords[static_cast<size_t>(type)]; }

constexpr std::optional<BaseDType> ParseBaseDType(std::string_view word) {
  for (size_t i = 0; i < kBaseDTypeWords.size(); ++i) {
    if (kBaseDTypeWords[i] == word) return static_cast<BaseDType>(i);
  }
  return std::nullopt;
}

struct Precision {
  constexpr Precision(ComputeDType c)  // NOLINT(google-explicit-constructor): mostly held as it is computed
      : compute(c), base(c == ComputeDType::kFp32 ? BaseDType::kFp32 : BaseDType::kBf16) {}
  constexpr Precision(ComputeDType c, BaseDType b) : compute(c), base(b) {}
  constexpr bool quantised() const { return base == BaseDType::kInt8 || base == BaseDType::kNf4; }
  bool operator==(const Precision&) const = default;

  ComputeDType compute;
  BaseDType base;
};

// What is wrong with the two together, or with them on a CUDA device, and what to do; empty: nothing.
inline std::string PrecisionFault(const Precision& precision, bool cuda) {
  const std::string base(BaseDTypeWord(precision.base));
  if (precision.compute == ComputeDType::kBf16 && precision.base == BaseDType::kFp32)
    return "`base_dtype` fp32 contradicts `dtype` bf16: leave base_dtype out, or take dtype fp32";
  if (cuda && precision != Precision(precision.compute))
    return "`base_dtype` " + base + " is not available on CUDA devices: leave base_dtype out, or set device: cpu";
  return "";
}

}  // namespace strata::config

#endif  // STRATA_COMMON_CONFIG_PRECISION_H_
