#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "kernels/cpu/tile_matmul.h"
#include "kernels/ops.h"

namespace strata::kernels {
namespace {

// XCR0: the operating system saves and restores the tiles. Leaf 0x1D, which describes them, is not asked: some
// hypervisors blank it while the tiles work, and palette 1 has been the same since there are tiles.
bool AskForTiles() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d >> 22 & 1) == 0 || (d >> 24 & 1) == 0) return false;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d) == 0 || (a >> 5 & 1) == 0) return false;
  if (__builtin_cpu_supports("avx512bw") == 0 || __builtin_cpu_supports("avx512vl") == 0) return false;
  unsigned low = 0;
  unsigned high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low >> 17 & 3) != 3) return false;
  constexpr long kRequestPermission = 0x1023;
  constexpr long kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

struct Free {
  void operator()(void* p) const { std::free(p); }
};

// A thread's packing buffer, kept between calls.
void* ThreadScratch(size_t bytes) {
  thread_local std::unique_ptr<void, Free> memory;
  thread_local size_t capacity = 0;
  if (bytes > capacity) {
    capacity = (bytes + 4095) / 4096 * 4096;
    memory.reset(std::aligned_alloc(4096, capacity));
    if (memory == nullptr) std::abort();
  }
  return memory.get();
}

// Part `index` of `count` of a job, split along rows or columns in multiples of 32.
TileJob Part(TileJob job, bool by_columns, int64_t index, int64_t count) {
  const int64_t total = by_columns ? job.n : job.m;
  const int64_t blocks = (total + 31) / 32;
  const int64_t begin = std::min(total, blocks * index / count * 32);
  const int64_t end = std::min(total, blocks * (index + 1) / count * 32);
  const int64_t y_offset = by_columns ? begin : begin * job.y_stride;
  if (by_columns) {
    job.b += job.b_transposed ? begin * job.b_stride : begin;
    job.n = end - begin;
  } else {
    job.a += job.a_transposed ? begin : begin * job.a_stride;
    job.m = end - begin;
  }
  job.y = job.y_f32 ? static_cast<void*>(static_cast<float*>(job.y) + y_offset)
                    : static_cast<void*>(static_cast<uint16_t*>(job.y) + y_offset);
  return job;
}

void Run(const TileJob& job, int threads) {
  if (job.m == 0 || job.n == 0) return;
  // Splitting columns leaves a where it is and packs b once; only narrow products are split by rows.
  const bool by_columns = job.n >= int64_t{64} * threads || job.n >= job.m;
  const int64_t blocks = ((by_columns ? job.n : job.m) + 31) / 32;
  constexpr int64_t kWorthAThread = int64_t{1} << 19;  // multiply-adds
  const int64_t wanted = std::max<int64_t>(job.m * job.n * job.k / kWorthAThread, 1);
  const int64_t parts = std::min({static_cast<int64_t>(std::max(threads, 1)), blocks, wanted});
#pragma omp parallel for num_threads(parts) schedule(static) if (parts > 1)
  for (int64_t part = 0; part < parts; ++part) {
    const TileJob mine = Part(job, by_columns, part, parts);
    ConfigureTiles();
    RunTiles(mine, ThreadScratch(TileScratchBytes(mine)));
    ReleaseTiles();
  }
}

TileJob Job(const Rows& y, const Rows& a, const Rows& b, bool accumulate) {
  TileJob job;
  job.a = static_cast<const uint16_t*>(a.data);
  job.a_stride = a.stride;
  job.b = static_cast<const uint16_t*>(b.data);
  job.b_stride = b.stride;
  job.m = y.rows;
  job.n = y.cols;
  job.k = a.cols;
  job.y = y.data;
  job.y_stride = y.stride;
  job.y_f32 = y.type == Type::kF32;
  job.accumulate = accumulate;
  return job;
}

}  // namespace

bool TilesUsable() {
  static const bool usable = AskForTiles();
  return usable;
}

bool HasBf16MatMul() { return TilesUsable(); }

void MatMulNT(const Rows& y, const Rows& x, const Rows& w, bool accumulate, int threads) {
  TileJob job = Job(y, x, w, accumulate);
  job.b_transposed = true;
  Run(job, threads);
}

void MatMulNN(const Rows& y, const Rows& x, const Rows& w, bool accumulate, int threads) {
  Run(Job(y, x, w, accumulate), threads);
}

void MatMulTN(const Rows& y, const Rows& a, const Rows& b, float scale, int threads) {
  TileJob job = Job(y, a, b, /*accumulate=*/true);
  job.a_transposed = true;
  job.k = a.rows;
  job.scale = scale;
  Run(job, threads);
}

}  // namespace strata::kernels
