// Attention on Hopper, backward: delta and dq by tiles of queries, then dk and dv by tiles of keys.
#include <cooperative_groups.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/attention_hopper.cuh"
#include "kernels/cuda/attention_hopper.h"

namespace strata::kernels::cuda {
namespace {

constexpr int kStages = 3;
constexpr int kMostBlocks = 8;  // that a cluster may have on every device
constexpr int64_t kWantedBlocks = 192;

__device__ int Next(int stage) { return stage == kStages - 1 ? 0 : stage + 1; }

template <int kDim, int kOtherRows>
struct GradientShape {
  static constexpr int kOther = kOtherRows;
  using Own = WideTile<kOwn, kDim>;
  using Other = WideTile<kOther, kDim>;
  static constexpr int kPairs = 2 * Own::kBytes;
  static constexpr int kNumbers = kPairs + 2 * kStages * Other::kBytes;  // lse and delta of queries
  static constexpr int kBytes = kNumbers + 2 * kStages * kOther * static_cast<int>(sizeof(float)) + kBlockAlign;
};

// delta = do . o of a warp's 16 rows, which go to task.delta; a lane gets those of its two.
template <typename T, int kDim>
__device__ void FindDelta(const AttentionTask<T>& task, int head, int64_t first_row, int rows, float (&delta)[2]) {
  constexpr int kEach = kDim / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int first = static_cast<int>(threadIdx.x) / kWarp * 16;
  float own = 0;
#pragma unroll 8
  for (int r = 0; r < 16; ++r) {
    float sum = 0;
    if (first + r < rows) {
      float a[kEach];
      float b[kEach];
      Load<T, kEach>(task.d_o.Row(first_row + first + r) + task.Query(head) + lane * kEach, a);
      Load<T, kEach>(task.o.Row(first_row + first + r) + task.Query(head) + lane * kEach, b);
#pragma unroll
      for (int n = 0; n < kEach; ++n) sum += a[n] * b[n];
    }
    sum = OverLanes<Sum, kWarp>(sum);
    if (lane == r) own = sum;
  }
  if (lane < 16 && first + lane < rows) task.delta[head * task.tokens + first_row + first + lane] = own;
#pragma unroll
  for (int r = 0; r < 2; ++r) delta[r] = __shfl_sync(~0U, own, lane / 4 + 8 * r);
}

template <typename T, int kDim, int kOther, bool kInTurn>
__global__ void __launch_bounds__(kThreads, 1) QueriesKernel(AttentionTask<T> task) {
  using Shape = GradientShape<kDim, kOther>;
  const int head = static_cast<int>(blockIdx.x) % task.heads;
  const OwnTile tile = FindTile(task, kOwn, (static_cast<int>(gridDim.x - 1 - blockIdx.x)) / task.heads);
  if (tile.rows == 0) return;
  const int kv = head / task.Group();
  const int64_t stride = task.qkv.stride;
  const int64_t first_row = tile.start + tile.first;
  const int first_key = task.FirstKey(tile.first);
  const int end = tile.first + tile.rows;
  const Lane lane;
  const int first_query = tile.first + lane.first_row;
  char* own = Memory();
  char* own_gradient = own + Shape::Own::kBytes;
  const auto keys = [&](int stage) { return own + Shape::kPairs + stage * 2 * Shape::Other::kBytes; };
  const auto values = [&](int stage) { return keys(stage) + Shape::Other::kBytes; };
  const auto load = [&](int key, int stage) {
    const T* row = task.qkv.Row(tile.start + key);
    LoadWide<kThreads, kOther, kDim>(row + task.Key(kv), stride, end - key, keys(stage));
    LoadWide<kThreads, kOther, kDim>(row + task.Value(kv), stride, end - key, values(stage));
  };
  const float scale = task.scale * kLog2E;

  LoadWide<kThreads, kOwn, kDim>(task.qkv.Row(first_row) + task.Query(head), stride, tile.rows, own);
  LoadWide<kThreads, kOwn, kDim>(task.d_o.Row(first_row) + task.Query(head), task.d_o.stride, tile.rows, own_gradient);
  load(first_key, 0);
  __pipeline_commit();
  float base[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const bool inside = lane.Row(r) < tile.rows;
    base[r] = inside ? task.lse[head * task.lse_stride + first_row + lane.Row(r)] * kLog2E : 0.0F;
  }
  float delta[2];
  FindDelta<T, kDim>(task, head, first_row, tile.rows, delta);
  float sums[kDim / 2];
  float scores[kOther / 2];
  float gradient[kOther / 2];
  uint32_t weights[kOther / 4];
  Clear(sums);
  for (int key = first_key, stage = 0; key < end; key += kOther, stage = Next(stage)) {
    __pipeline_wait_prior(0);
    ShowProducts();
    __syncthreads();
    if (key + kOther < end) load(key + kOther, Next(stage));  // where the tile before the last one was
    __pipeline_commit();
    AwaitTurn<kInTurn>(lane);
    BeginProducts();
    BeginScores<T, kOwn, kOther, kDim>(PlaceOf(own), lane.first_row, PlaceOf(keys(stage)), scores);
    BeginScores<T, kOwn, kOther, kDim>(PlaceOf(own_gradient), lane.first_row, PlaceOf(values(stage)), gradient);
    PassTurn<kInTurn>(lane);
    AwaitProducts<1>();
    Pin(scores);
    if (HidesSome(task, first_query, kGroupRows, key, kOther)) HideKeys(task, lane, tile.first, key, scores);
#pragma unroll
    for (int n = 0; n < kOther / 2; ++n) scores[n] = Exp2(scores[n] * scale - base[n / 2 % 2]);
    AwaitProducts<0>();
    Pin(gradient);
    Pin(sums);
#pragma unroll
    for (int n = 0; n < kOther / 2; ++n) scores[n] *= gradient[n] - delta[n / 2 % 2];
    Pack<T>(scores, weights);
    Pin(weights);
    BeginProducts();
    BeginSums<T, kOther, kDim>(weights, PlaceOf(keys(stage)), sums);
  }
  AwaitProducts<0>();
  Pin(sums);
  StoreSums<T, kDim>(lane, sums, task.scale, task.scale, tile.rows, task.dqkv.Row(first_row) + task.Query(head),
                     task.dqkv.stride);
}

// Adds the sums up that the blocks of a cluster have, in the order of their ranks, and stores dk and dv: each block a
// part of the columns.
template <typename T, int kDim>
__device__ void StoreSumsOfCluster(const Lane& lane, const float (&dk)[kDim / 2], const float (&dv)[kDim / 2],
                                   float* memory, const AttentionTask<T>& task, int kv, const OwnTile& tile) {
  constexpr int kPieces = kDim / 8;  // of eight columns
  constexpr int kAtOnce = 4;
  const auto cluster = cooperative_groups::this_cluster();
  const int rank = static_cast<int>(cluster.block_rank());
  const int blocks = static_cast<int>(cluster.num_blocks());
  float* own = memory + threadIdx.x;
  __syncthreads();  // the tiles have been used
#pragma unroll
  for (int n = 0; n < kDim / 2; ++n) {
    own[n * kThreads] = dk[n];
    own[(kDim / 2 + n) * kThreads] = dv[n];
  }
  cluster.sync();
  const int last = 2 * kPieces * (rank + 1) / blocks;
  for (int first = 2 * kPieces * rank / blocks; first < last; first += kAtOnce) {
    float sums[kAtOnce][4] = {};
#pragma unroll 4
    for (int other = 0; other < blocks; ++other) {
      const float* from = cluster.map_shared_rank(own, other) + 4 * first * kThreads;
#pragma unroll
      for (int n = 0; n < 4 * kAtOnce; ++n) {
        if (first + n / 4 < last) sums[n / 4][n % 4] += from[n * kThreads];
      }
    }
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      const int piece = first + n;
      if (piece >= last) break;
      const bool is_key = piece < kPieces;
      const float scale = is_key ? task.scale : 1.0F;
      const int col = (is_key ? task.Key(kv) : task.Value(kv)) + lane.Col(piece % kPieces);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        if (lane.Row(r) >= tile.rows) continue;
        const float pair[2] = {sums[n][2 * r] * scale, sums[n][2 * r + 1] * scale};
        Store<T, 2>(task.dqkv.Row(tile.start + tile.first + lane.Row(r)) + col, pair);
      }
    }
  }
  cluster.sync();  // no block's memory goes before it has been read
}

// The blocks of a cluster have the same keys, and the queries of as many heads each.
template <typename T, int kDim, int kOther>
__global__ void __launch_bounds__(kThreads, 1) KeysKernel(AttentionTask<T> task) {
  using Shape = GradientShape<kDim, kOther>;
  const auto cluster = cooperative_groups::this_cluster();
  const int number = static_cast<int>(blockIdx.x / cluster.num_blocks());
  const int kv = number % task.kv_heads;
  const OwnTile tile = FindTile(task, kOwn, number / task.kv_heads);
  if (tile.rows == 0) return;
  const int64_t first_row = tile.start + tile.first;
  const int end = task.EndOfQueries(tile.first + tile.rows - 1, tile.length);
  const Lane lane;
  char* own = Memory();
  char* own_values = own + Shape::Own::kBytes;
  const auto queries = [&](int stage) { return own + Shape::kPairs + stage * 2 * Shape::Other::kBytes; };
  const auto gradients = [&](int stage) { return queries(stage) + Shape::Other::kBytes; };
  const auto numbers = [&](int stage) { return reinterpret_cast<float*>(own + Shape::kNumbers) + stage * 2 * kOther; };
  const auto load = [&](int head, int query, int stage) {
    const int64_t at = tile.start + query;
    LoadWide<kThreads, kOther, kDim>(task.qkv.Row(at) + task.Query(head), task.qkv.stride, end - query, queries(stage));
    LoadWide<kThreads, kOther, kDim>(task.d_o.Row(at) + task.Query(head), task.d_o.stride, end - query,
                                     gradients(stage));
    const int n = static_cast<int>(threadIdx.x);
    if (n >= 2 * kOther) return;
    const bool inside = query + n % kOther < end;
    const int64_t token = at + (inside ? n % kOther : 0);
    const float* from =
        n < kOther ? task.lse + head * task.lse_stride + token : task.delta + head * task.tokens + token;
    __pipeline_memcpy_async(numbers(stage) + n, from, sizeof(float), inside ? 0 : sizeof(float));
  };
  const float scale = task.scale * kLog2E;

  const T* row = task.qkv.Row(first_row);
  LoadWide<kThreads, kOwn, kDim>(row + task.Key(kv), task.qkv.stride, tile.rows, own);
  LoadWide<kThreads, kOwn, kDim>(row + task.Value(kv), task.qkv.stride, tile.rows, own_values);
  const int heads = task.Group() / static_cast<int>(cluster.num_blocks());
  int head = kv * task.Group() + static_cast<int>(cluster.block_rank()) * heads;
  const int end_of_heads = head + heads;
  load(head, tile.first, 0);
  __pipeline_commit();
  float dk[kDim / 2];
  float dv[kDim / 2];
  float scores[kOther / 2];
  float gradient[kOther / 2];
  uint32_t weights[kOther / 4];
  uint32_t slopes[kOther / 4];
  Clear(dk);
  Clear(dv);
  for (int query = tile.first, stage = 0; head < end_of_heads; stage = Next(stage)) {
    int next = query + kOther;
    int next_head = head;
    if (next >= end) {
      next = tile.first;
      ++next_head;
    }
    __pipeline_wait_prior(0);
    ShowProducts();
    __syncthreads();
    if (next_head < end_of_heads) load(next_head, next, Next(stage));  // where the tile before the last one was
    __pipeline_commit();
    BeginProducts();
    BeginScores<T, kOwn, kOther, kDim>(PlaceOf(own), lane.first_row, PlaceOf(queries(stage)), scores);
    BeginScores<T, kOwn, kOther, kDim>(PlaceOf(own_values), lane.first_row, PlaceOf(gradients(stage)), gradient);
    AwaitProducts<1>();
    Pin(scores);
    Pin(dk);
    Pin(dv);
    const float* lse = numbers(stage) + lane.col;
    const bool hides = HidesSome(task, query, kOther, tile.first + lane.first_row, kGroupRows);
#pragma unroll
    for (int j = 0; j < kOther / 8; ++j) {
      const float2 two = *reinterpret_cast<const float2*>(lse + 8 * j);
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        float& score = scores[4 * j + n];
        score = Exp2(score * scale - (n % 2 == 0 ? two.x : two.y) * kLog2E);
        if (hides && !task.Sees(query + lane.Col(j) + n % 2, tile.first + lane.Row(n / 2))) score = 0;
      }
    }
    Pack<T>(scores, weights);
    Pin(weights);
    BeginProducts();
    BeginSums<T, kOther, kDim>(weights, PlaceOf(gradients(stage)), dv);
    AwaitProducts<1>();
    Pin(gradient);
#pragma unroll
    for (int j = 0; j < kOther / 8; ++j) {
      const float2 two = *reinterpret_cast<const float2*>(lse + kOther + 8 * j);
#pragma unroll
      for (int n = 0; n < 4; ++n) scores[4 * j + n] *= gradient[4 * j + n] - (n % 2 == 0 ? two.x : two.y);
    }
    Pack<T>(scores, slopes);
    Pin(slopes);
    BeginProducts();
    BeginSums<T, kOther, kDim>(slopes, PlaceOf(queries(stage)), dk);
    query = next;
    head = next_head;
  }
  AwaitProducts<0>();
  Pin(dk);
  Pin(dv);
  if (cluster.num_blocks() > 1) {
    return StoreSumsOfCluster<T, kDim>(lane, dk, dv, reinterpret_cast<float*>(own), task, kv, tile);
  }
  T* to = task.dqkv.Row(first_row);
  StoreSums<T, kDim>(lane, dk, task.scale, task.scale, tile.rows, to + task.Key(kv), task.dqkv.stride);
  StoreSums<T, kDim>(lane, dv, 1, 1, tile.rows, to + task.Value(kv), task.dqkv.stride);
}

// Among how many blocks of a cluster a group's heads are shared: more of them where there are few tiles, for adding
// their sums up takes time. Not by the device's size, that sums are the same on each.
int BlocksOfCluster(int64_t tiles, int group) {
  int blocks = 1;
  for (int more = 2; more <= std::min(group, kMostBlocks) && tiles * blocks < kWantedBlocks; ++more) {
    if (group % more == 0) blocks = more;
  }
  return blocks;
}

template <typename T, int kDim>
int Backward(const AttentionTask<T>& task, cudaStream_t stream) {
  constexpr bool kWide = kDim == 128;
  constexpr int kKeys = kWide ? 64 : 128;
  const int error =
      Start<GradientShape<kDim, kKeys>>(QueriesKernel<T, kDim, kKeys, !kWide>, task, task.heads, 1, stream);
  if (error != cudaSuccess) return error;
  constexpr int kQueries = 64;
  const int64_t tiles = int64_t{TileNumbers(task.tokens, task.documents, kOwn)} * task.kv_heads;
  const int blocks = BlocksOfCluster(tiles, task.heads / task.kv_heads);
  return Start<GradientShape<kDim, kQueries>>(KeysKernel<T, kDim, kQueries>, task, task.kv_heads, blocks, stream);
}

}  // namespace

template <typename T>
int HopperAttentionBackward(const AttentionTask<T>& task, cudaStream_t stream) {
  return task.dim == 64 ? Backward<T, 64>(task, stream) : Backward<T, 128>(task, stream);
}
template int HopperAttentionBackward(const AttentionTask<__nv_bfloat16>&, cudaStream_t);
template int HopperAttentionBackward(const AttentionTask<__half>&, cudaStream_t);

}  // namespace strata::kernels::cuda
