// Frozen matrices of any type into tiles of the type that a product reads. The truth is cpu/decode.h: the same bits
// before the last rounding.
#include <cuda_runtime_api.h>

#include <algorithm>

#include "kernels/cpu/code_books.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda_ops.h"

namespace strata::kernels::cuda {
namespace {

struct Floats16 {
  float values[16];
};
struct Floats256 {
  float values[256];
};
// Quantised matrices below one another, and what their codes stand for.
struct Nf4Matrix {
  Nf4 parts[kMostNf4Parts];
  int count;
  int64_t cols;
  Floats16 values;
  Floats256 book;
};

// A thread decodes kWide neighbours of a row at once where all rows let it, else as many one by one.
constexpr int kWide = 16;

struct Tile {
  int64_t first_row, first_col, rows;
  int cols;
};

struct Run {
  int64_t row;
  int col, count;
  bool inside;
};
__device__ Run RunOf(const Tile& tile) {
  const int pieces = (tile.cols + kWide - 1) / kWide;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t row = index / pieces;
  const int col = static_cast<int>(index - row * pieces) * kWide;
  return {row, col, min(kWide, tile.cols - col), row < tile.rows};
}

// out[i] = at(i) for the run: all at once where it is whole.
template <typename T, bool kWhole, typename F>
__device__ void Fill(T* out, int count, const F& at) {
  if constexpr (kWhole) {
    constexpr int kEach = kPiece / sizeof(T);
#pragma unroll
    for (int first = 0; first < kWide; first += kEach) {
      float values[kEach];
#pragma unroll
      for (int i = 0; i < kEach; ++i) values[i] = at(first + i);
      Store<T, kEach>(out + first, values);
    }
  } else {
    for (int i = 0; i < count; ++i) out[i] = FromFloat<T>(at(i));
  }
}

__device__ float ScaleOf(const Nf4& part, const float* book, int64_t block) {
  return __fadd_rn(__fmul_rn(book[part.scales[block]], part.scale_scales[block / kNf4ScaleBlock]), part.offset);
}

template <typename T, bool kWhole>
__global__ void DecodeNf4Kernel(const __grid_constant__ Nf4Matrix m, Tile tile, View<T> out) {
  __shared__ float values[16];
  __shared__ float book[256];
  if (threadIdx.x < 16) values[threadIdx.x] = m.values.values[threadIdx.x];
  book[threadIdx.x] = m.book.values[threadIdx.x];
  __syncthreads();
  const Run run = RunOf(tile);
  if (!run.inside) return;
  int64_t within = tile.first_row + run.row;
  int index = 0;
  while (index + 1 < m.count && within >= m.parts[index].rows) within -= m.parts[index++].rows;
  const Nf4& part = m.parts[index];
  const int64_t first = within * m.cols + tile.first_col + run.col;
  T* to = out.Row(run.row) + run.col;
  if constexpr (kWhole) {  // within one block
    const float scale = ScaleOf(part, book, first / kNf4Block);
    const Packed<uint8_t, kWide / 2> codes =
        *reinterpret_cast<const Packed<uint8_t, kWide / 2>*>(part.codes + first / 2);
    Fill<T, true>(to, kWide, [&](int i) {
      const uint8_t byte = codes.values[i / 2];
      return values[i % 2 == 0 ? byte >> 4 : byte & 15] * scale;
    });
  } else {
    Fill<T, false>(to, run.count, [&](int i) {
      const int64_t at = first + i;
      const uint8_t byte = part.codes[at / 2];
      return values[at % 2 == 0 ? byte >> 4 : byte & 15] * ScaleOf(part, book, at / kNf4Block);
    });
  }
}

template <typename T, bool kWhole>
__global__ void DecodeInt8Kernel(View<const int8_t> m, const float* scales, Tile tile, View<T> out) {
  const Run run = RunOf(tile);
  if (!run.inside) return;
  const int8_t* from = m.Row(tile.first_row + run.row) + tile.first_col + run.col;
  const float scale = scales[tile.first_row + run.row];
  T* to = out.Row(run.row) + run.col;
  if constexpr (kWhole) {
    Packed<int8_t, kPiece> codes[kWide / kPiece];
#pragma unroll
    for (int i = 0; i < kWide / kPiece; ++i) codes[i] = reinterpret_cast<const Packed<int8_t, kPiece>*>(from)[i];
    Fill<T, true>(to, kWide, [&](int i) { return static_cast<float>(codes[i / kPiece].values[i % kPiece]) * scale; });
  } else {
    Fill<T, false>(to, run.count, [&](int i) { return static_cast<float>(from[i]) * scale; });
  }
}

template <typename S, typename T, bool kWhole>
__global__ void ConvertKernel(View<S> m, Tile tile, View<T> out) {
  const Run run = RunOf(tile);
  if (!run.inside) return;
  const S* from = m.Row(tile.first_row + run.row) + tile.first_col + run.col;
  Fill<T, kWhole>(out.Row(run.row) + run.col, run.count, [&](int i) { return ToFloat(from[i]); });
}

// False: of more parts than it has room for.
bool MatrixOf(const Rows& m, Nf4Matrix& matrix) {
  const auto* list = static_cast<const Nf4*>(m.data);
  for (int64_t row = 0; row < m.rows; row += list[matrix.count++].rows) {
    if (matrix.count == kMostNf4Parts) return false;
    matrix.parts[matrix.count] = list[matrix.count];
  }
  matrix.cols = m.cols;
  std::copy_n(kNf4Values, 16, matrix.values.values);
  std::copy_n(ScaleBook(), 256, matrix.book.values);
  return true;
}

struct Task {
  const Rows& m;
  const Nf4Matrix& matrix;
  Tile tile;
  const Rows& out;
  unsigned blocks;
};

template <typename T, bool kWhole>
int Start(const Task& task, cudaStream_t stream) {
  const View<T> out = ViewOf<T>(task.out);
  if (task.m.type == Type::kNf4) {
    DecodeNf4Kernel<T, kWhole><<<task.blocks, kFlatThreads, 0, stream>>>(task.matrix, task.tile, out);
  } else if (task.m.type == Type::kInt8) {
    DecodeInt8Kernel<T, kWhole>
        <<<task.blocks, kFlatThreads, 0, stream>>>(ViewOf<const int8_t>(task.m), task.m.scales, task.tile, out);
  } else {
    WithElement(task.m.type, [&](auto source) {
      using S = typename decltype(source)::Type;
      ConvertKernel<S, T, kWhole><<<task.blocks, kFlatThreads, 0, stream>>>(ViewOf<S>(task.m), task.tile, out);
    });
  }
  return cudaGetLastError();
}

}  // namespace

int Decode(const Rows& m, int64_t first_row, int64_t first_col, const Rows& out, void* stream) {
  if (out.rows == 0 || out.cols == 0) return cudaSuccess;
  const Tile tile = {first_row, first_col, out.rows, static_cast<int>(out.cols)};
  const unsigned blocks = FlatBlocks(out.rows * ((out.cols + kWide - 1) / kWide));
  Nf4Matrix matrix = {};
  if (m.type == Type::kNf4 && !MatrixOf(m, matrix)) return cudaErrorInvalidValue;
  const int64_t size = out.type == Type::kF32 ? 4 : 2;
  bool whole = Aligned(out.data, out.stride * size, kPiece, kPiece) && out.cols % kWide == 0;
  if (m.type == Type::kNf4) {
    whole = whole && m.cols % kNf4Block == 0 && first_col % kWide == 0;
    for (int i = 0; i < matrix.count; ++i) whole = whole && Aligned(matrix.parts[i].codes, kPiece, kPiece, kPiece);
  } else if (m.type == Type::kInt8) {
    whole = whole && Aligned(static_cast<const int8_t*>(m.data) + first_col, m.stride, kPiece, kPiece);
  }
  return WithElement(out.type, [&](auto element) -> int {
    return whole ? Start<typename decltype(element)::Type, true>({m, matrix, tile, out, blocks}, StreamOf(stream))
                 : Start<typename decltype(element)::Type, false>({m, matrix, tile, out, blocks}, StreamOf(stream));
  });
}

}  // namespace strata::kernels::cuda
