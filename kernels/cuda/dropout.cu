// LoRA dropout's masks, drawn where they are used: the same that client/model/dropout.cc draws on the processor.
#include <cuda_runtime_api.h>

#include "kernels/cuda/rows.cuh"
#include "kernels/cuda_ops.h"

namespace strata::kernels::cuda {
namespace {

// Philox4x32-10 as common/runtime/random.h has it: block `counter` of a key's words.
struct Words {
  uint32_t of[4];
};
__device__ Words PhiloxBlock(uint64_t key, uint64_t counter) {
  Words c = {{static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0}};
  auto k0 = static_cast<uint32_t>(key);
  auto k1 = static_cast<uint32_t>(key >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = 0xD2511F53ULL * c.of[0];
    const uint64_t product1 = 0xCD9E8D57ULL * c.of[2];
    c = {{static_cast<uint32_t>(product1 >> 32) ^ c.of[1] ^ k0, static_cast<uint32_t>(product1),
          static_cast<uint32_t>(product0 >> 32) ^ c.of[3] ^ k1, static_cast<uint32_t>(product0)}};
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
  return c;
}

// A block of four words a thread, whose elements may lie in two rows.
template <typename T>
__global__ void DropoutKernel(View<T> x, View<T> out, int64_t rows, int64_t cols, DropoutMask mask, uint32_t limit,
                              float keep) {
  const int64_t block = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (block * 4 >= rows * cols) return;
  const Words words = PhiloxBlock(*mask.base * mask.factor + mask.addend, static_cast<uint64_t>(block));
  int64_t row = block * 4 / cols;
  int64_t col = block * 4 - row * cols;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (row < rows)
      out.Row(row)[col] = FromFloat<T>(words.of[i] >> 8 >= limit ? ToFloat(x.Row(row)[col]) * keep : 0.0F);
    if (++col == cols) {
      col = 0;
      ++row;
    }
  }
}

}  // namespace

int Dropout(const Rows& x, const DropoutMask& mask, const Rows& out, void* stream) {
  if (x.rows == 0 || x.cols == 0) return cudaSuccess;
  const unsigned blocks = FlatBlocks((x.rows * x.cols + 3) / 4);
  const auto limit = static_cast<uint32_t>(mask.probability * (1 << 24));
  const auto keep = static_cast<float>(1 / (1 - mask.probability));
  return WithElement(x.type, [&](auto element) -> int {
    using T = typename decltype(element)::Type;
    DropoutKernel<T><<<blocks, kFlatThreads, 0, StreamOf(stream)>>>(ViewOf<T>(x), ViewOf<T>(out), x.rows, x.cols, mask,
                                                                    limit, keep);
    return cudaGetLastError();
  });
}

}  // namespace strata::kernels::cuda
