// One thread's share of a bf16 matrix product on processors with matrix tiles (AMX), behind MatMul of kernels/ops.h.
#ifndef STRATA_KERNELS_CPU_TILE_MATMUL_H_
#define STRATA_KERNELS_CPU_TILE_MATMUL_H_

#include <cstddef>
#include <cstdint>

namespace strata::kernels {

// y [m, n] (+)= scale * a b. a is [m, k] or, transposed, [k, m]; b is [k, n] or, transposed, [n, k]. Strides count
// elements between rows.
struct TileJob {
  const uint16_t* a = nullptr;
  int64_t a_stride = 0;
  bool a_transposed = false;
  const uint16_t* b = nullptr;
  int64_t b_stride = 0;
  bool b_transposed = false;
  int64_t m = 0, n = 0, k = 0;
  void* y = nullptr;  // bf16, or fp32
  int64_t y_stride = 0;
  bool y_f32 = false;
  bool accumulate = false;
  float scale = 1;
};

// Does this processor, and this kernel for this process, let matrix tiles be used. Asks for the permission the first
// time.
bool TilesUsable();
// Bytes of scratch, aligned to 64, that RunTiles needs for the job.
size_t TileScratchBytes(const TileJob& job);
// Around RunTiles on each thread: sets and clears the tiles' configuration.
void ConfigureTiles();
void ReleaseTiles();
void RunTiles(const TileJob& job, void* scratch);

}  // namespace strata::kernels

#endif  // STRATA_KERNELS_CPU_TILE_MATMUL_H_
