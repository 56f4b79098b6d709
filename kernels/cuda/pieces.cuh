// Tiles of 16-bit numbers in shared memory, in pieces of 16 bytes that arrive while others are worked on: a warp
// fetches them for itself.
#ifndef STRATA_KERNELS_CUDA_PIECES_CUH_
#define STRATA_KERNELS_CUDA_PIECES_CUH_

#include <cuda_pipeline.h>

#include <cstdint>

#include "kernels/ops.h"

namespace strata::kernels::cuda {

constexpr int kPieceNumbers = 8;  // 16-bit numbers in 16 bytes

// Where a piece lies in a tile whose rows are kPieces (a power of two) long: neighbouring rows' pieces change places,
// so that the same ones of eight rows lie on different banks.
template <int kPieces>
__device__ int PlaceInTile(int row, int piece) {
  constexpr int kRowsOfBanks = kPieces < 8 ? 8 / kPieces : 1;
  return (row * kPieces + (piece ^ (row / kRowsOfBanks % kPieces))) * kPieceNumbers;
}

// Sixteen bytes on their way, or zeros. They ask for what lies around them too, which other blocks are about to read.
template <typename T>
__device__ void FetchPiece(T* to, const T* from, bool inside) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  const auto place = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(place), "l"(from), "r"(inside ? 16 : 0)
               : "memory");
#else
  __pipeline_memcpy_async(to, from, 16, inside ? 0 : 16);
#endif
}

// A tile of kRows rows; beyond `rows` and `cols` (a multiple of kPieceNumbers; both may be negative) it is zero. By a
// whole warp.
template <int kRows, int kPieces, typename T>
__device__ void Fetch(const T* from, int64_t stride, int64_t rows, int64_t cols, T* tile) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < kRows * kPieces / 32; ++i) {
    const int row = (i * 32 + lane) / kPieces;
    const int piece = (i * 32 + lane) % kPieces;
    const bool inside = row < rows && piece * kPieceNumbers < cols;
    FetchPiece(tile + PlaceInTile<kPieces>(row, piece), inside ? from + row * stride + piece * kPieceNumbers : from,
               inside);
  }
}

// Whether a matrix can be fetched in pieces.
inline bool InPieces(const Rows& m) {
  return (m.type == Type::kBF16 || m.type == Type::kF16) && reinterpret_cast<uintptr_t>(m.data) % 16 == 0 &&
         m.stride % kPieceNumbers == 0 && m.cols % kPieceNumbers == 0;
}

}  // namespace strata::kernels::cuda

#endif  // STRATA_KERNELS_CUDA_PIECES_CUH_
