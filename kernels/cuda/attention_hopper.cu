// Attention on Hopper: o and the scores' logarithmic sums.
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/attention_hopper.cuh"
#include "kernels/cuda/attention_hopper.h"

namespace strata::kernels::cuda {
namespace {

template <int kDim, int kOtherRows>
struct OutputShape {
  static constexpr int kOther = kOtherRows;
  using Own = WideTile<kOwn, kDim>;
  using Other = WideTile<kOther, kDim>;
  static constexpr int kBytes = Own::kBytes + 4 * Other::kBytes + kBlockAlign;
};

template <typename T, int kDim, int kOther, bool kInTurn>
__global__ void __launch_bounds__(kThreads, 1) OutputKernel(AttentionTask<T> task) {
  using Shape = OutputShape<kDim, kOther>;
  const int head = static_cast<int>(blockIdx.x) % task.heads;
  const OwnTile tile = FindTile(task, kOwn, (static_cast<int>(gridDim.x - 1 - blockIdx.x)) / task.heads);
  if (tile.rows == 0) return;
  const int kv = head / task.Group();
  const int64_t stride = task.qkv.stride;
  const int first_key = task.FirstKey(tile.first);
  const int end = tile.first + tile.rows;
  const int count = (end - first_key + kOther - 1) / kOther;
  const Lane lane;
  const int first_query = tile.first + lane.first_row;
  char* own = Memory();
  const auto keys = [&](int i) { return own + Shape::Own::kBytes + i % 2 * Shape::Other::kBytes; };
  const auto values = [&](int i) { return keys(i) + 2 * Shape::Other::kBytes; };
  const auto load = [&](int i, int col, char* to) {
    const int key = first_key + i * kOther;
    LoadWide<kThreads, kOther, kDim>(task.qkv.Row(tile.start + key) + col, stride, end - key, to);
  };
  const float scale = task.scale * kLog2E;

  LoadWide<kThreads, kOwn, kDim>(task.qkv.Row(tile.start + tile.first) + task.Query(head), stride, tile.rows, own);
  load(0, task.Key(kv), keys(0));
  __pipeline_commit();
  load(0, task.Value(kv), values(0));
  if (count > 1) load(1, task.Key(kv), keys(1));
  __pipeline_commit();
  __pipeline_wait_prior(1);
  ShowProducts();
  __syncthreads();

  float top[2] = {-INFINITY, -INFINITY};  // in units of the product
  float total[2] = {0, 0};
  float kept[2];
  float sums[kDim / 2];
  float scores[kOther / 2];
  uint32_t weights[kOther / 4];
  Clear(sums);
  const auto weigh = [&](int i) {
    const int key = first_key + i * kOther;
    if (HidesSome(task, first_query, kGroupRows, key, kOther)) HideKeys(task, lane, tile.first, key, scores);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float most = -INFINITY;
#pragma unroll
      for (int j = 0; j < kOther / 8; ++j) most = fmaxf(most, fmaxf(scores[4 * j + 2 * r], scores[4 * j + 2 * r + 1]));
      most = fmaxf(top[r], OverLanes<Largest, 4>(most));
      const float base = most == -INFINITY ? 0.0F : most * scale;  // a window may leave a row no key of this tile
      kept[r] = Exp2(top[r] * scale - base);
      top[r] = most;
      total[r] *= kept[r];
#pragma unroll
      for (int j = 0; j < kOther / 8; ++j) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& score = scores[4 * j + 2 * r + c];
          score = Exp2(score * scale - base);
          total[r] += score;
        }
      }
    }
  };

  BeginProducts();
  BeginScores<T, kOwn, kOther, kDim>(PlaceOf(own), lane.first_row, PlaceOf(keys(0)), scores);
  AwaitProducts<0>();
  Pin(scores);
  weigh(0);
  Pack<T>(scores, weights);
  const auto arrive = [&](int i) {
    __pipeline_wait_prior(0);
    ShowProducts();
    __syncthreads();  // the tiles of i - 1 have been used, values i and keys i + 1 are there
  };
  for (int i = 0; i + 1 < count; ++i) {
    arrive(i);
    load(i + 1, task.Value(kv), values(i + 1));
    if (i + 2 < count) load(i + 2, task.Key(kv), keys(i + 2));
    __pipeline_commit();
    Pin(sums);
    Pin(weights);
    AwaitTurn<kInTurn>(lane);
    BeginProducts();
    BeginScores<T, kOwn, kOther, kDim>(PlaceOf(own), lane.first_row, PlaceOf(keys(i + 1)), scores);
    BeginSums<T, kOther, kDim>(weights, PlaceOf(values(i)), sums);
    PassTurn<kInTurn>(lane);
    AwaitProducts<1>();
    Pin(scores);
    weigh(i + 1);
    AwaitProducts<0>();
    Pin(sums);
#pragma unroll
    for (int n = 0; n < kDim / 2; ++n) sums[n] *= kept[n / 2 % 2];
    Pack<T>(scores, weights);
  }
  arrive(count - 1);
  Pin(sums);
  Pin(weights);
  BeginProducts();
  BeginSums<T, kOther, kDim>(weights, PlaceOf(values(count - 1)), sums);
  AwaitProducts<0>();
  Pin(sums);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    total[r] = OverLanes<Sum, 4>(total[r]);
    if (threadIdx.x % 4 != 0 || lane.Row(r) >= tile.rows) continue;
    task.lse[head * task.lse_stride + tile.start + tile.first + lane.Row(r)] = top[r] * task.scale + logf(total[r]);
  }
  StoreSums<T, kDim>(lane, sums, 1.0F / total[0], 1.0F / total[1], tile.rows,
                     task.o.Row(tile.start + tile.first) + task.Query(head), task.o.stride);
}

// How many keys or queries at once, and whether in turn, is what was quickest on an H100 and an H200.
template <typename T, int kDim>
int Forward(const AttentionTask<T>& task, cudaStream_t stream) {
  constexpr bool kWide = kDim == 128;
  constexpr int kOther = kWide ? 128 : 64;
  return Start<OutputShape<kDim, kOther>>(OutputKernel<T, kDim, kOther, kWide>, task, task.heads, 1, stream);
}

}  // namespace

template <typename T>
int HopperAttention(const AttentionTask<T>& task, cudaStream_t stream) {
  return task.dim == 64 ? Forward<T, 64>(task, stream) : Forward<T, 128>(task, stream);
}
template int HopperAttention(const AttentionTask<__nv_bfloat16>&, cudaStream_t);
template int HopperAttention(const AttentionTask<__half>&, cudaStream_t);

}  // namespace strata::kernels::cuda
