// The tensor cores as a warp asks for them (PTX, ldmatrix and mma.sync), every generation from compute capability 7.5
// on.
#ifndef STRATA_KERNELS_CUDA_MMA_CUH_
#define STRATA_KERNELS_CUDA_MMA_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace strata::kernels::cuda {

// Four 8 x 8 matrices of 16-bit numbers: lane l gives the place of row l % 8 of matrix l / 8 and gets of each matrix
// the elements 2 (l % 4) and the next of row l / 4; transposed, of column l / 4.
template <bool kTransposed, typename T>
__device__ inline void LoadMatrices(const T* from, uint32_t (&out)[4]) {
  const auto place = static_cast<uint32_t>(__cvta_generic_to_shared(from));
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(place));
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(place));
  }
}

// sums[16 x 8] += a[16 x 16] b[16 x 8]. Lane l has of the sums the elements 2 (l % 4) and the next of row l / 4 in c0
// and c1, of row l / 4 + 8 in c2 and c3; of a's four quarters (down, then to the right) and of b's transposed halves
// the pairs that LoadMatrices gives.
template <typename T>
__device__ inline void MultiplyAdd(const uint32_t (&a)[4], uint32_t b0, uint32_t b1, float& c0, float& c1, float& c2,
                                   float& c3) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
#else
  if constexpr (std::is_same_v<T, __half>) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3)
                 : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3)
                 : "r"(a[2]), "r"(a[3]), "r"(b1));
  }
#endif
}

// Both rounded, as an operand of the tensor cores holds them.
template <typename T>
__device__ uint32_t PairOf(float a, float b) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
    return *reinterpret_cast<uint32_t*>(&pair);
  } else {
    __half2 pair = __floats2half2_rn(a, b);
    return *reinterpret_cast<uint32_t*>(&pair);
  }
}

}  // namespace strata::kernels::cuda

#endif  // STRATA_KERNELS_CUDA_MMA_CUH_
