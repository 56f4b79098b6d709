// bf16 values beside fp32 ones for the kernels' tests.
#ifndef STRATA_TESTS_KERNELS_HALVES_H_
#define STRATA_TESTS_KERNELS_HALVES_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/ops.h"

namespace strata::kernels {

inline std::vector<uint16_t> Halves(const std::vector<float>& values) {
  std::vector<uint16_t> out(values.size());
  RoundToBf16(values.data(), out.data(), static_cast<int64_t>(values.size()));
  return out;
}

inline std::vector<float> Widened(const std::vector<uint16_t>& halves) {
  std::vector<float> out;
  out.reserve(halves.size());
  for (const uint16_t half : halves) out.push_back(__builtin_bit_cast(float, static_cast<uint32_t>(half) << 16));
  return out;
}

// The nearest values that bf16 holds.
inline std::vector<float> Rounded(const std::vector<float>& values) { return Widened(Halves(values)); }

// `values` in memory as `type`, fp32 or bf16.
class Stored {
 public:
  Stored(std::vector<float> values, Type type)
      : floats_(std::move(values)), halves_(type == Type::kBF16 ? Halves(floats_) : std::vector<uint16_t>()) {}
  Rows View(int64_t rows, int64_t cols, int64_t stride) {
    const bool half = !halves_.empty();
    return {.data = half ? static_cast<void*>(halves_.data()) : floats_.data(),
            .type = half ? Type::kBF16 : Type::kF32,
            .rows = rows,
            .cols = cols,
            .stride = stride};
  }
  std::vector<float> values() const { return halves_.empty() ? floats_ : Widened(halves_); }

 private:
  std::vector<float> floats_;
  std::vector<uint16_t> halves_;
};

}  // namespace strata::kernels

#endif  // STRATA_TESTS_KERNELS_HALVES_H_
