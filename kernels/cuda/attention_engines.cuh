// How attention's kernels multiply tiles that lie in shared memory: on the tensor cores, or in fp32. `own` and `other`
// are the sides of a product: scores [own, other], sums [own, head_dim].
#ifndef STRATA_KERNELS_CUDA_ATTENTION_ENGINES_CUH_
#define STRATA_KERNELS_CUDA_ATTENTION_ENGINES_CUH_

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/rows.cuh"

namespace strata::kernels::cuda {

template <int kRows, int kCols>
__device__ void Clear(float (&values)[kRows][kCols]) {
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
#pragma unroll
    for (int c = 0; c < kCols; ++c) values[i][c] = 0;
  }
}

// How a block multiplies 16-bit tiles, and which rows and columns a lane has of the results. A warp has 16 rows. Where
// there are more warps than rows, either teams take a part of the other side's rows each and add their sums up at last,
// or each warp has a part of the sums' columns (and the same scores as the others of its rows).
template <typename Number, int kHeadDim, int kOwnRows, int kOtherRows, int kNumStages, int kNumTeams, int kNumParts>
struct TensorCores {
  using T = Number;
  static constexpr int kDim = kHeadDim, kOwn = kOwnRows, kOther = kOtherRows;
  static constexpr int kStages = kNumStages;  // tiles of the other side in memory
  static constexpr int kTeams = kNumTeams;
  static constexpr int kRowGroups = kOwn / 16;
  static constexpr int kThreads = kRowGroups * kTeams * kNumParts * kWarp;
  static constexpr int kRows = 2, kCols = kOther / kTeams / 4, kSums = kDim / kNumParts / 4;  // of a lane
  static constexpr int kLanes = 4;                                                            // that share their rows
  static constexpr int kNeighbours = 2;                                                       // columns side by side
  static constexpr int kPiece = 8;                                                            // elements in 16 bytes
  static constexpr int kStride = kDim;                                                        // of a tile's rows
  static constexpr int kScratch = 0;                                                          // elements
  static_assert(kTeams == 1 || kNumParts == 1);
  static_assert(kOther / kTeams % 16 == 0 && kDim / kNumParts % 16 == 0 && kDim % 32 == 0);

  __device__ TensorCores()
      : lane(static_cast<int>(threadIdx.x) % kWarp),
        warp(static_cast<int>(threadIdx.x) / kWarp),
        first_row(warp % kRowGroups * 16),
        first_other(warp / kRowGroups % kTeams * (kOther / kTeams)),
        first_sum(warp / kRowGroups / kTeams * (kDim / kNumParts)) {}

  // Pieces change places within their row, so that the same pieces of eight rows lie on different banks.
  __device__ static int Place(int row, int col) {
    const int turn = kDim % 64 == 0 ? row % 8 : row / 2 % 4;
    return row * kStride + ((col / kPiece) ^ turn) * kPiece;
  }
  __device__ int Row(int i) const { return first_row + lane / kLanes + 8 * i; }
  __device__ int Col(int c) const { return first_other + ColumnOf(c); }
  __device__ int SumCol(int c) const { return first_sum + ColumnOf(c); }

  // scores = own other^T.
  __device__ void Scores(const T* own, const T* other, int, float (&scores)[kRows][kCols]) const {
    Clear(scores);
#pragma unroll
    for (int k = 0; k < kDim; k += 16) {
      uint32_t a[4];
      LoadMatrices<false>(own + Place(first_row + lane % 16, k + lane / 16 * 8), a);
#pragma unroll
      for (int c = 0; c < kCols; c += 4) {
        uint32_t b[4];
        LoadMatrices<false>(other + Place(first_other + 4 * c + lane % 8 + lane / 16 * 8, k + lane / 8 % 2 * 8), b);
        Multiply(a, b, scores, c);
      }
    }
  }
  // sums += weights other.
  __device__ void AddProduct(const float (&weights)[kRows][kCols], const T* other, T*,
                             float (&sums)[kRows][kSums]) const {
#pragma unroll
    for (int k = 0; k < kCols; k += 4) {
      const uint32_t a[4] = {PairOf<T>(weights[0][k], weights[0][k + 1]), PairOf<T>(weights[1][k], weights[1][k + 1]),
                             PairOf<T>(weights[0][k + 2], weights[0][k + 3]),
                             PairOf<T>(weights[1][k + 2], weights[1][k + 3])};
#pragma unroll
      for (int c = 0; c < kSums; c += 4) {
        uint32_t b[4];
        LoadMatrices<true>(other + Place(first_other + 4 * k + lane % 16, first_sum + 4 * c + lane / 16 * 8), b);
        Multiply(a, b, sums, c);
      }
    }
  }

  int lane, warp, first_row, first_other, first_sum;

 private:
  __device__ int ColumnOf(int c) const { return c / 2 * 8 + lane % kLanes * 2 + c % 2; }
  // Sixteen columns, of which a lane has four.
  template <int kWidth>
  __device__ static void Multiply(const uint32_t (&a)[4], const uint32_t (&b)[4], float (&out)[kRows][kWidth], int c) {
    MultiplyAdd<T>(a, b[0], b[1], out[0][c], out[0][c + 1], out[1][c], out[1][c + 1]);
    MultiplyAdd<T>(a, b[2], b[3], out[0][c + 2], out[0][c + 3], out[1][c + 2], out[1][c + 3]);
  }
};

// The same in fp32: sixteen lanes share rows, a score each.
template <int kHeadDim, int kOwnRows, int kRowsEach>
struct Fp32 {
  using T = float;
  static constexpr int kDim = kHeadDim, kOwn = kOwnRows, kOther = 16;
  static constexpr int kStages = 1, kTeams = 1;
  static constexpr int kRowGroups = kOwn / kRowsEach;
  static constexpr int kLanes = 16;
  static constexpr int kThreads = kRowGroups * kLanes;
  static constexpr int kRows = kRowsEach, kCols = 1, kSums = kDim / kLanes;
  static constexpr int kNeighbours = 1;
  static constexpr int kPiece = 1;
  static constexpr int kStride = kDim + 1;
  static constexpr int kScratch = kOwn * (kOther + 1);

  __device__ Fp32() : row(static_cast<int>(threadIdx.x) / kLanes), lane(static_cast<int>(threadIdx.x) % kLanes) {}
  __device__ static int Place(int row, int col) { return row * kStride + col; }
  __device__ int Row(int i) const { return row + i * kRowGroups; }
  __device__ int Col(int) const { return lane; }
  __device__ int SumCol(int c) const { return lane + c * kLanes; }

  __device__ void Scores(const float* own, const float* other, int dim, float (&scores)[kRows][kCols]) const {
    Clear(scores);
    for (int k = 0; k < dim; ++k) {
      const float b = other[Place(lane, k)];
#pragma unroll
      for (int i = 0; i < kRows; ++i) scores[i][0] += own[Place(Row(i), k)] * b;
    }
  }
  // Rows of weights stay among the lanes that share them, which are of one warp.
  __device__ void AddProduct(const float (&weights)[kRows][kCols], const float* other, float* scratch,
                             float (&sums)[kRows][kSums]) const {
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kRows; ++i) scratch[Row(i) * (kOther + 1) + lane] = weights[i][0];
    __syncwarp();
    for (int k = 0; k < kOther; ++k) {
#pragma unroll
      for (int c = 0; c < kSums; ++c) {
        const float b = other[Place(k, SumCol(c))];
#pragma unroll
        for (int i = 0; i < kRows; ++i) sums[i][c] += scratch[Row(i) * (kOther + 1) + k] * b;
      }
    }
  }

  int row, lane;
};

// What each kernel multiplies with, for heads up to kDim wide. Tiles as large as 64 KB hold (a device of compute
// capability 7.5 has no more), and registers.
template <typename T, int kDim>
struct Engines {
  static constexpr bool kWide = kDim > 128;
  static constexpr int kOwn = kWide ? 32 : 64;
  static constexpr int kStages = kWide ? 1 : 2;
  static constexpr int kKeys = kDim > 96 ? 32 : 64;
  static constexpr int kTeams = kWide ? 1 : 2, kParts = kWide ? 2 : 1;
  using Output = TensorCores<T, kDim, 64, kKeys, kStages, 1, 1>;
  using Queries = TensorCores<T, kDim, kOwn, 32, kStages, 1, kParts>;
  using Keys = TensorCores<T, kDim, kOwn, 32, kStages, kTeams, kParts>;
};
template <int kDim>
struct Engines<float, kDim> {
  using Output = std::conditional_t<(kDim > 128), Fp32<kDim, 8, 1>, Fp32<kDim, 32, 2>>;
  using Queries = Output;
  using Keys = Output;
};

// `own_tiles` of a block's own side, tiles of the other side in pairs, scratch.
template <typename E>
constexpr int SharedBytes(int own_tiles) {
  const int rows = own_tiles * E::kOwn + 2 * E::kStages * E::kOther;
  return (rows * E::kStride + E::kScratch) * static_cast<int>(sizeof(typename E::T));
}

}  // namespace strata::kernels::cuda

#endif  // STRATA_KERNELS_CUDA_ATTENTION_ENGINES_CUH_
