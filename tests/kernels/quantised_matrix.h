// A matrix in NF4, and what its codes stand for by the formula.
#ifndef STRATA_TESTS_KERNELS_QUANTISED_MATRIX_H_
#define STRATA_TESTS_KERNELS_QUANTISED_MATRIX_H_

#include <cstdint>
#include <vector>

#include "kernels/cpu/code_books.h"
#include "kernels/ops.h"

namespace strata::kernels {

class QuantisedMatrix {
 public:
  QuantisedMatrix(const float* values, int64_t rows, int64_t cols)
      : rows_(rows),
        count_(rows * cols),
        scales_(static_cast<size_t>(Nf4SizesOf(count_).scales)),
        codes_(static_cast<size_t>(Nf4SizesOf(count_).codes)),
        scale_codes_(scales_.size()),
        scale_scales_(static_cast<size_t>(Nf4SizesOf(count_).scale_scales)) {
    QuantiseNf4(values, count_, codes_.data(), scales_.data());
    offset_ =
        QuantiseScales(scales_.data(), static_cast<int64_t>(scales_.size()), scale_codes_.data(), scale_scales_.data());
  }
  QuantisedMatrix(const QuantisedMatrix&) = delete;
  QuantisedMatrix& operator=(const QuantisedMatrix&) = delete;

  Nf4 view() const {
    return {.rows = rows_,
            .codes = codes_.data(),
            .scales = scale_codes_.data(),
            .scale_scales = scale_scales_.data(),
            .offset = offset_};
  }
  const std::vector<float>& scales() const { return scales_; }
  const std::vector<uint8_t>& codes() const { return codes_; }
  const std::vector<uint8_t>& scale_codes() const { return scale_codes_; }
  const std::vector<float>& scale_scales() const { return scale_scales_; }
  float offset() const { return offset_; }

  // With a rounding to fp32 after each operation.
  std::vector<float> Decoded() const {
    std::vector<float> out;
    for (int64_t i = 0; i < count_; ++i) {
      const auto block = static_cast<size_t>(i / kNf4Block);
      const auto scaled = static_cast<float>(static_cast<double>(ScaleBook()[scale_codes_[block]]) *
                                             static_cast<double>(scale_scales_[block / kNf4ScaleBlock]));
      const float scale = scaled + offset_;
      const uint8_t byte = codes_[static_cast<size_t>(i / 2)];
      out.push_back(kNf4Values[i % 2 == 0 ? byte >> 4 : byte & 15] * scale);
    }
    return out;
  }

 private:
  int64_t rows_, count_;
  std::vector<float> scales_;
  std::vector<uint8_t> codes_, scale_codes_;
  std::vector<float> scale_scales_;
  float offset_ = 0;
};

}  // namespace strata::kernels

#endif  // STRATA_TESTS_KERNELS_QUANTISED_MATRIX_H_
