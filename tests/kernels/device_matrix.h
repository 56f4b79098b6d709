// Matrices of 16-bit numbers that a test has here and on a CUDA device.
#ifndef STRATA_TESTS_KERNELS_DEVICE_MATRIX_H_
#define STRATA_TESTS_KERNELS_DEVICE_MATRIX_H_

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/ops.h"

namespace strata::kernels {

inline uint16_t Narrowed(Type type, float value) {
  uint16_t half = 0;
  if (type == Type::kF16) {
    half = __builtin_bit_cast(uint16_t, __float2half_rn(value));
  } else {
    RoundToBf16(&value, &half, 1);
  }
  return half;
}

inline float Widened(Type type, uint16_t half) {
  if (type == Type::kBF16) return __builtin_bit_cast(float, static_cast<uint32_t>(half) << 16);
  return __half2float(__builtin_bit_cast(__half, half));
}

// bf16 or fp16 [rows, cols] with `stride` elements between rows, here and on the device.
struct Matrix {
  Matrix(Type type, int64_t rows, int64_t cols, int64_t stride, double phase)
      : type(type), rows(rows), cols(cols), stride(stride) {
    for (int64_t i = 0; i < rows * stride; ++i)
      host.push_back(Narrowed(type, static_cast<float>(std::sin(static_cast<double>(i) * 0.7310001 + phase))));
    EXPECT_EQ(cudaMalloc(&device, host.size() * 2), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(device, host.data(), host.size() * 2, cudaMemcpyHostToDevice), cudaSuccess);
  }
  ~Matrix() { cudaFree(device); }
  Matrix(const Matrix&) = delete;
  Matrix& operator=(const Matrix&) = delete;
  // Columns [first, first + count).
  Rows View(int64_t first, int64_t count) const {
    return {
        .data = static_cast<uint16_t*>(device) + first, .type = type, .rows = rows, .cols = count, .stride = stride};
  }
  double At(int64_t row, int64_t col) const {
    return static_cast<double>(Widened(type, host[static_cast<size_t>(row * stride + col)]));
  }
  void Fetch() { EXPECT_EQ(cudaMemcpy(host.data(), device, host.size() * 2, cudaMemcpyDeviceToHost), cudaSuccess); }
  Type type;
  int64_t rows, cols, stride;
  std::vector<uint16_t> host;
  void* device = nullptr;
};

}  // namespace strata::kernels

#endif  // STRATA_TESTS_KERNELS_DEVICE_MATRIX_H_
