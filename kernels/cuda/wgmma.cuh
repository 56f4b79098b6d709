// The tensor cores as Hopper's warpgroups ask for them (PTX, wgmma): tiles in shared memory as their descriptors
// want them, and products of 64 rows by a multiple of 64 columns and a depth of 16, which run while the warps go on.
#ifndef STRATA_KERNELS_CUDA_WGMMA_CUH_
#define STRATA_KERNELS_CUDA_WGMMA_CUH_

#include <cuda_bf16.h>
#include <cuda_pipeline.h>

#include <cstdint>
#include <type_traits>

namespace strata::kernels::cuda {

constexpr int kGroup = 128;     // threads of a warpgroup
constexpr int kGroupRows = 64;  // of a product
constexpr int kDepth = 16;
constexpr int kBlockCols = 64;     // 16-bit columns that lie side by side
constexpr int kBlockRow = 128;     // bytes
constexpr int kBlockAlign = 1024;  // bytes of eight rows, after which pieces turn alike

// A tile [kRows, kDim] of 16-bit numbers: blocks of 64 columns, one behind the other. The eight pieces of a block's row
// change places by the row, so that those of eight rows lie on different banks.
template <int kRows, int kDim>
struct WideTile {
  static constexpr int kBlock = kRows * kBlockRow;  // bytes
  static constexpr int kBytes = kBlock * (kDim / kBlockCols);
  static constexpr int kPieces = kDim / 8;  // of a row

  __device__ static int Place(int row, int piece) {
    return piece / 8 * kBlock + row * kBlockRow + ((piece % 8) ^ (row % 8)) * 16;
  }
  // 64 or more rows from first_row on, to be multiplied along columns [16 k, 16 k + 16).
  __device__ static uint64_t AlongRow(uint32_t tile, int first_row, int k) {
    return Describe(tile + k / 4 * kBlock + first_row * kBlockRow + k % 4 * 32, 16);
  }
  // All columns from the block's on, to be multiplied along rows [16 k, 16 k + 16).
  __device__ static uint64_t AlongColumn(uint32_t tile, int block, int k) {
    return Describe(tile + block * kBlock + k * kDepth * kBlockRow, kBlock);
  }

 private:
  // In units of 16 bytes: where the operand begins, how far its blocks lie apart, how far eight rows; in the highest
  // bits how pieces change places.
  __device__ static uint64_t Describe(uint32_t place, int blocks_apart) {
    return static_cast<uint64_t>((place & 0x3ffff) >> 4) | static_cast<uint64_t>(blocks_apart >> 4) << 16 |
           static_cast<uint64_t>(kBlockAlign >> 4) << 32 | uint64_t{1} << 62;
  }
};

// Rows on their way into a tile, by `kThreads` threads; what is outside is zero.
template <int kThreads, int kRows, int kDim, typename T>
__device__ void LoadWide(const T* from, int64_t stride, int rows, char* tile) {
  using Tile = WideTile<kRows, kDim>;
  constexpr int kStep = kThreads / Tile::kPieces;  // rows at once
  static_assert(kStep % 8 == 0);
  const int row = static_cast<int>(threadIdx.x) / Tile::kPieces;
  const int piece = static_cast<int>(threadIdx.x) % Tile::kPieces;
  const T* at = from + row * stride + piece * 8;
  char* to = tile + Tile::Place(row, piece);
#pragma unroll
  for (int i = 0; i < (kRows + kStep - 1) / kStep; ++i) {
    if (kRows % kStep != 0 && row + i * kStep >= kRows) break;
    const bool inside = row + i * kStep < rows;
    __pipeline_memcpy_async(to + i * kStep * kBlockRow, inside ? at : from, 16, inside ? 0 : 16);
    at += kStep * stride;
  }
}

// What threads wrote into shared memory is seen by products that are asked for after the next barrier.
__device__ inline void ShowProducts() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Registers that a product reads or adds to are ready.
__device__ inline void BeginProducts() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void CommitProducts() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until at most kPending groups of products, the last ones, are under way.
template <int kPending>
__device__ inline void AwaitProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Keeps what the compiler does with these values on its side of this line.
template <int kSize>
__device__ inline void Pin(float (&values)[kSize]) {
#pragma unroll
  for (int i = 0; i < kSize; ++i) asm volatile("" : "+f"(values[i])::"memory");
}
template <int kSize>
__device__ inline void Pin(uint32_t (&values)[kSize]) {
#pragma unroll
  for (int i = 0; i < kSize; ++i) asm volatile("" : "+r"(values[i])::"memory");
}

// sums[64 x 2 kSize] (+)= a b. Of 8 columns a lane has sums 4 j + 0 and 1: row l / 4 of its warp's 16, columns
// 8 j + 2 (l % 4) and the next; 4 j + 2 and 3 those of row l / 4 + 8. b is of a tile, told to be multiplied along its
// rows or its columns; a along a tile's rows, or in registers: columns 2 (l % 4) and the next of rows l / 4 and
// l / 4 + 8, then the same eight columns further.
#define STRATA_SUMS_4(i) "+f"(sums[i]), "+f"(sums[(i) + 1]), "+f"(sums[(i) + 2]), "+f"(sums[(i) + 3])
#define STRATA_SUMS_16(i) STRATA_SUMS_4(i), STRATA_SUMS_4((i) + 4), STRATA_SUMS_4((i) + 8), STRATA_SUMS_4((i) + 12)
#define STRATA_SUMS_32(i) STRATA_SUMS_16(i), STRATA_SUMS_16((i) + 16)
#define STRATA_NAMES_32                                                                                            \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31"
#define STRATA_NAMES_64                                                                                              \
  STRATA_NAMES_32                                                                                                    \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, " \
  "%54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define STRATA_FROM_TILES(shape, type, names, a, b, add, along_column, ...)                                     \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " add ", 0;\nwgmma.mma_async.sync.aligned." shape ".f32." type \
               "." type " {" names "}, " a ", " b ", p, 1, 1, 0, " along_column ";\n}\n"                        \
               : __VA_ARGS__                                                                                    \
               : "l"(a_tile), "l"(b_tile), "r"(static_cast<int>(adds)), "n"(kAlongColumn))
#define STRATA_FROM_REGISTERS(shape, type, names, a, b, add, along_column, ...)                                 \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " add ", 0;\nwgmma.mma_async.sync.aligned." shape ".f32." type \
               "." type " {" names "}, {" a "}, " b ", p, 1, 1, " along_column ";\n}\n"                         \
               : __VA_ARGS__                                                                                    \
               : "r"(a_values[0]), "r"(a_values[1]), "r"(a_values[2]), "r"(a_values[3]), "l"(b_tile),           \
                 "r"(static_cast<int>(adds)), "n"(kAlongColumn))

template <typename T, bool kAlongColumn, int kSize>
__device__ inline void Multiply(uint64_t a_tile, uint64_t b_tile, bool adds, float (&sums)[kSize]) {
  constexpr bool kBf16 = std::is_same_v<T, __nv_bfloat16>;
  static_assert(kSize == 32 || kSize == 64);
  if constexpr (kSize == 64) {
    if constexpr (kBf16) {
      STRATA_FROM_TILES("m64n128k16", "bf16", STRATA_NAMES_64, "%64", "%65", "%66", "%67", STRATA_SUMS_32(0),
                        STRATA_SUMS_32(32));
    } else {
      STRATA_FROM_TILES("m64n128k16", "f16", STRATA_NAMES_64, "%64", "%65", "%66", "%67", STRATA_SUMS_32(0),
                        STRATA_SUMS_32(32));
    }
  } else {
    if constexpr (kBf16) {
      STRATA_FROM_TILES("m64n64k16", "bf16", STRATA_NAMES_32, "%32", "%33", "%34", "%35", STRATA_SUMS_32(0));
    } else {
      STRATA_FROM_TILES("m64n64k16", "f16", STRATA_NAMES_32, "%32", "%33", "%34", "%35", STRATA_SUMS_32(0));
    }
  }
}

template <typename T, bool kAlongColumn, int kSize>
__device__ inline void Multiply(const uint32_t* a_values, uint64_t b_tile, bool adds, float (&sums)[kSize]) {
  constexpr bool kBf16 = std::is_same_v<T, __nv_bfloat16>;
  static_assert(kSize == 32 || kSize == 64);
  if constexpr (kSize == 64) {
    if constexpr (kBf16) {
      STRATA_FROM_REGISTERS("m64n128k16", "bf16", STRATA_NAMES_64, "%64, %65, %66, %67", "%68", "%69", "%70",
                            STRATA_SUMS_32(0), STRATA_SUMS_32(32));
    } else {
      STRATA_FROM_REGISTERS("m64n128k16", "f16", STRATA_NAMES_64, "%64, %65, %66, %67", "%68", "%69", "%70",
                            STRATA_SUMS_32(0), STRATA_SUMS_32(32));
    }
  } else {
    if constexpr (kBf16) {
      STRATA_FROM_REGISTERS("m64n64k16", "bf16", STRATA_NAMES_32, "%32, %33, %34, %35", "%36", "%37", "%38",
                            STRATA_SUMS_32(0));
    } else {
      STRATA_FROM_REGISTERS("m64n64k16", "f16", STRATA_NAMES_32, "%32, %33, %34, %35", "%36", "%37", "%38",
                            STRATA_SUMS_32(0));
    }
  }
}

#undef STRATA_SUMS_4
#undef STRATA_SUMS_16
#undef STRATA_SUMS_32
#undef STRATA_NAMES_32
#undef STRATA_NAMES_64
#undef STRATA_FROM_TILES
#undef STRATA_FROM_REGISTERS

}  // namespace strata::kernels::cuda

#endif  // STRATA_KERNELS_CUDA_WGMMA_CUH_
