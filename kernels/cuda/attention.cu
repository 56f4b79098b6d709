// Attention inside documents, tile by tile: no score leaves a block. A block owns a tile of one head's queries (o, dq)
// or keys (dk, dv), walks over the tiles of the other side, and keeps its sums in registers until it writes them once;
// backward the scores are computed again. A kernel is written once for two ways to multiply (attention_engines.cuh).
#include <cuda_runtime_api.h>

#include <algorithm>
#include <climits>
#include <cstdint>

#include "kernels/cuda/attention_engines.cuh"
#include "kernels/cuda/attention_hopper.h"
#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda_ops.h"

namespace strata::kernels::cuda {
namespace {

template <typename E>
__global__ void __launch_bounds__(E::kThreads) OutputKernel(AttentionTask<typename E::T> task) {
  // The last tiles see the most keys and go first.
  const int head = static_cast<int>(blockIdx.x) % task.heads;
  const OwnTile tile = FindTile(task, E::kOwn, (static_cast<int>(gridDim.x - 1 - blockIdx.x)) / task.heads);
  if (tile.rows == 0) return;
  const int kv = head / task.Group();
  const int64_t stride = task.qkv.stride;
  const int first_key = task.FirstKey(tile.first);
  const int end = tile.first + tile.rows;
  const E e;
  const Tiles<E> tiles(1);
  float top[E::kRows];
  float total[E::kRows];
  float sums[E::kRows][E::kSums];
#pragma unroll
  for (int i = 0; i < E::kRows; ++i) {
    top[i] = -INFINITY;
    total[i] = 0;
  }
  Clear(sums);

  LoadTile<E, E::kOwn>(task.qkv.Row(tile.start + tile.first) + task.Query(head), stride, tile.rows, task.dim,
                       tiles.Own(0));
  const auto load = [&](int i, int stage) {
    const int key = first_key + i * E::kOther;
    const typename E::T* row = task.qkv.Row(tile.start + key);
    LoadTile<E, E::kOther>(row + task.Key(kv), stride, end - key, task.dim, tiles.Other(stage, 0));
    LoadTile<E, E::kOther>(row + task.Value(kv), stride, end - key, task.dim, tiles.Other(stage, 1));
  };
  ForEachTile<E>((end - first_key + E::kOther - 1) / E::kOther, load, [&](int i, int stage) {
    const int key = first_key + i * E::kOther;
    float weights[E::kRows][E::kCols];
    e.Scores(tiles.Own(0), tiles.Other(stage, 0), task.dim, weights);
#pragma unroll
    for (int r = 0; r < E::kRows; ++r) {
      float most = -INFINITY;
#pragma unroll
      for (int c = 0; c < E::kCols; ++c) {
        const bool seen = task.Sees(tile.first + e.Row(r), key + e.Col(c));
        float slope;
        weights[r][c] = seen ? ScoreOf(task, weights[r][c], slope) : -INFINITY;
        most = fmaxf(most, weights[r][c]);
      }
      most = fmaxf(top[r], OverLanes<Largest, E::kLanes>(most));
      const float base = most == -INFINITY ? 0.0F : most;  // a window may leave a row no key of this tile
      const float kept = Exp<typename E::T>(top[r] - base);
      top[r] = most;
      total[r] *= kept;
#pragma unroll
      for (int c = 0; c < E::kCols; ++c) {
        weights[r][c] = Exp<typename E::T>(weights[r][c] - base);
        total[r] += weights[r][c];
      }
#pragma unroll
      for (int c = 0; c < E::kSums; ++c) sums[r][c] *= kept;
    }
    e.AddProduct(weights, tiles.Other(stage, 1), tiles.scratch, sums);
  });

#pragma unroll
  for (int i = 0; i < E::kRows; ++i) {
    total[i] = OverLanes<Sum, E::kLanes>(total[i]);
    const float inverse = 1.0F / total[i];
#pragma unroll
    for (int c = 0; c < E::kSums; ++c) sums[i][c] *= inverse;
    if (threadIdx.x % E::kLanes != 0 || e.Row(i) >= tile.rows) continue;
    task.lse[head * task.lse_stride + tile.start + tile.first + e.Row(i)] = top[i] + logf(total[i]);
  }
  StoreRows(e, sums, tile.rows, task.dim, task.o.Row(tile.start + tile.first) + task.Query(head), task.o.stride);
}

// delta[head][token] = do . o, a warp each.
template <typename T>
__global__ void __launch_bounds__(kFlatThreads) DeltaKernel(AttentionTask<T> task) {
  const int64_t index = (static_cast<int64_t>(blockIdx.x) * kFlatThreads + threadIdx.x) / kWarp;
  const int64_t token = index / task.heads;
  const int head = static_cast<int>(index - token * task.heads);
  if (token >= task.tokens) return;
  const T* a = task.d_o.Row(token) + task.Query(head);
  const T* b = task.o.Row(token) + task.Query(head);
  constexpr int kEach = 4 / sizeof(T);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float sum = 0;
  for (int i = lane * kEach; i < task.dim; i += kWarp * kEach) {
    float x[kEach];
    float y[kEach];
    Load<T, kEach>(a + i, x);
    Load<T, kEach>(b + i, y);
#pragma unroll
    for (int n = 0; n < kEach; ++n) sum += x[n] * y[n];
  }
  sum = OverLanes<Sum, kWarp>(sum);
  if (lane == 0) task.delta[head * task.tokens + token] = sum;
}

template <typename E>
__global__ void __launch_bounds__(E::kThreads) QueriesKernel(AttentionTask<typename E::T> task) {
  const int head = static_cast<int>(blockIdx.x) % task.heads;
  const OwnTile tile = FindTile(task, E::kOwn, (static_cast<int>(gridDim.x - 1 - blockIdx.x)) / task.heads);
  if (tile.rows == 0) return;
  const int kv = head / task.Group();
  const int64_t stride = task.qkv.stride;
  const int64_t first_row = tile.start + tile.first;
  const int first_key = task.FirstKey(tile.first);
  const int end = tile.first + tile.rows;
  const E e;
  const Tiles<E> tiles(2);
  float lse[E::kRows];
  float delta[E::kRows];
  float dq[E::kRows][E::kSums];
#pragma unroll
  for (int i = 0; i < E::kRows; ++i) {
    const bool inside = e.Row(i) < tile.rows;
    lse[i] = inside ? task.lse[head * task.lse_stride + first_row + e.Row(i)] : 0.0F;
    delta[i] = inside ? task.delta[head * task.tokens + first_row + e.Row(i)] : 0.0F;
  }
  Clear(dq);

  LoadTile<E, E::kOwn>(task.qkv.Row(first_row) + task.Query(head), stride, tile.rows, task.dim, tiles.Own(0));
  LoadTile<E, E::kOwn>(task.d_o.Row(first_row) + task.Query(head), task.d_o.stride, tile.rows, task.dim, tiles.Own(1));
  const auto load = [&](int i, int stage) {
    const int key = first_key + i * E::kOther;
    const typename E::T* row = task.qkv.Row(tile.start + key);
    LoadTile<E, E::kOther>(row + task.Key(kv), stride, end - key, task.dim, tiles.Other(stage, 0));
    LoadTile<E, E::kOther>(row + task.Value(kv), stride, end - key, task.dim, tiles.Other(stage, 1));
  };
  ForEachTile<E>((end - first_key + E::kOther - 1) / E::kOther, load, [&](int i, int stage) {
    const int key = first_key + i * E::kOther;
    float weights[E::kRows][E::kCols];
    float gradient[E::kRows][E::kCols];
    e.Scores(tiles.Own(0), tiles.Other(stage, 0), task.dim, weights);
    e.Scores(tiles.Own(1), tiles.Other(stage, 1), task.dim, gradient);
#pragma unroll
    for (int r = 0; r < E::kRows; ++r) {
#pragma unroll
      for (int c = 0; c < E::kCols; ++c) {
        const bool seen = e.Row(r) < tile.rows && task.Sees(tile.first + e.Row(r), key + e.Col(c));
        Differentiate(task, seen, lse[r], delta[r], weights[r][c], gradient[r][c]);
      }
    }
    e.AddProduct(gradient, tiles.Other(stage, 0), tiles.scratch, dq);
  });
  StoreRows(e, dq, tile.rows, task.dim, task.dqkv.Row(first_row) + task.Query(head), task.dqkv.stride);
}

// The first team's sums become those of all, which the others leave in memory.
template <typename E>
__device__ void AddTeams(float* memory, float (&sums)[E::kRows][E::kSums]) {
  constexpr int kTeam = E::kThreads / E::kTeams;
  static_assert(E::kTeams <= 2);
  float* own = memory + threadIdx.x % kTeam;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < E::kRows * E::kSums; ++i) {
    if (threadIdx.x >= kTeam) own[i * kTeam] = sums[i / E::kSums][i % E::kSums];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < E::kRows * E::kSums; ++i) {
    if (threadIdx.x < kTeam) sums[i / E::kSums][i % E::kSums] += own[i * kTeam];
  }
}

template <typename E>
__global__ void __launch_bounds__(E::kThreads) KeysKernel(AttentionTask<typename E::T> task) {
  using T = typename E::T;
  // The first tiles are seen by the most queries.
  const int kv = static_cast<int>(blockIdx.x) % task.kv_heads;
  const OwnTile tile = FindTile(task, E::kOwn, static_cast<int>(blockIdx.x) / task.kv_heads);
  if (tile.rows == 0) return;
  const int64_t first_row = tile.start + tile.first;
  const int end = task.EndOfQueries(tile.first + tile.rows - 1, tile.length);
  const int each = (end - tile.first + E::kOther - 1) / E::kOther;  // tiles of a head
  const E e;
  const Tiles<E> tiles(2);
  float dk[E::kRows][E::kSums];
  float dv[E::kRows][E::kSums];
  Clear(dk);
  Clear(dv);

  const T* row = task.qkv.Row(first_row);
  LoadTile<E, E::kOwn>(row + task.Key(kv), task.qkv.stride, tile.rows, task.dim, tiles.Own(0));
  LoadTile<E, E::kOwn>(row + task.Value(kv), task.qkv.stride, tile.rows, task.dim, tiles.Own(1));
  const auto load = [&](int i, int stage) {
    const int col = task.Query(kv * task.Group() + i / each);
    const int query = tile.first + i % each * E::kOther;
    const int64_t at = tile.start + query;
    LoadTile<E, E::kOther>(task.qkv.Row(at) + col, task.qkv.stride, end - query, task.dim, tiles.Other(stage, 0));
    LoadTile<E, E::kOther>(task.d_o.Row(at) + col, task.d_o.stride, end - query, task.dim, tiles.Other(stage, 1));
  };
  ForEachTile<E>(task.Group() * each, load, [&](int i, int stage) {
    const int head = kv * task.Group() + i / each;
    const int query = tile.first + i % each * E::kOther;
    float lse[E::kCols];
    float delta[E::kCols];
#pragma unroll
    for (int c = 0; c < E::kCols; ++c) {
      const bool inside = query + e.Col(c) < end;
      lse[c] = inside ? task.lse[head * task.lse_stride + tile.start + query + e.Col(c)] : 0.0F;
      delta[c] = inside ? task.delta[head * task.tokens + tile.start + query + e.Col(c)] : 0.0F;
    }
    float weights[E::kRows][E::kCols];
    float gradient[E::kRows][E::kCols];
    e.Scores(tiles.Own(0), tiles.Other(stage, 0), task.dim, weights);
    e.Scores(tiles.Own(1), tiles.Other(stage, 1), task.dim, gradient);
#pragma unroll
    for (int r = 0; r < E::kRows; ++r) {
#pragma unroll
      for (int c = 0; c < E::kCols; ++c) {
        const bool seen = query + e.Col(c) < end && task.Sees(query + e.Col(c), tile.first + e.Row(r));
        Differentiate(task, seen, lse[c], delta[c], weights[r][c], gradient[r][c]);
      }
    }
    e.AddProduct(weights, tiles.Other(stage, 1), tiles.scratch, dv);
    e.AddProduct(gradient, tiles.Other(stage, 0), tiles.scratch, dk);
  });
  if constexpr (E::kTeams > 1) {
    AddTeams<E>(reinterpret_cast<float*>(tiles.own), dk);
    AddTeams<E>(reinterpret_cast<float*>(tiles.own), dv);
    if (threadIdx.x >= E::kThreads / E::kTeams) return;
  }
  T* to = task.dqkv.Row(first_row);
  StoreRows(e, dk, tile.rows, task.dim, to + task.Key(kv), task.dqkv.stride);
  StoreRows(e, dv, tile.rows, task.dim, to + task.Value(kv), task.dqkv.stride);
}

template <typename T>
AttentionTask<T> TaskOf(const AttentionShape& shape, const DeviceDocuments& documents, const Rows& qkv,
                        const AttentionResult& forward) {
  return {.starts = documents.starts,
          .documents = static_cast<int>(documents.count),
          .heads = static_cast<int>(shape.heads),
          .kv_heads = static_cast<int>(shape.kv_heads),
          .dim = static_cast<int>(shape.head_dim),
          .window = shape.window > 0 ? static_cast<int>(std::min<int64_t>(shape.window, INT_MAX)) : INT_MAX,
          .scale = shape.scale,
          .cap = std::max(shape.softcap, 0.0F),
          .scale_of_cap = shape.softcap > 0 ? shape.scale / shape.softcap : 0.0F,
          .tokens = qkv.rows,
          .qkv = ViewOf<const T>(qkv),
          .o = ViewOf<T>(forward.o),
          .lse = forward.lse,
          .lse_stride = forward.lse_stride};
}

// A block for each tile that a document may have, and each of `heads`.
template <typename E>
int Start(void (*kernel)(AttentionTask<typename E::T>), const AttentionTask<typename E::T>& task, int64_t heads,
          int own_tiles, cudaStream_t stream) {
  constexpr int kAlways = 48 << 10;  // bytes that need no leave
  const int bytes = SharedBytes<E>(own_tiles);
  if (bytes > kAlways) {
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) return error;
  }
  const unsigned blocks = TileNumbers(task.tokens, task.documents, E::kOwn) * static_cast<unsigned>(heads);
  kernel<<<blocks, E::kThreads, static_cast<size_t>(bytes), stream>>>(task);
  return cudaGetLastError();
}

// Calls f(Engines<T, kDim>{}).
template <typename T, typename F>
int WithEngines(int64_t dim, const F& f) {
  if (dim <= 64) return f(Engines<T, 64>{});
  if constexpr (!std::is_same_v<T, float>) {
    if (dim <= 96) return f(Engines<T, 96>{});
  }
  if (dim <= 128) return f(Engines<T, 128>{});
  return f(Engines<T, 256>{});
}

int Major() {
  int device = 0;
  int major = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess) return 0;
  return major;
}

// Calls f(task of T) if T is a type of 16 bits.
template <typename T, typename F>
int InHalves(const AttentionTask<T>& task, const F& f) {
  if constexpr (std::is_same_v<T, float>) return cudaErrorNotSupported;
  if constexpr (!std::is_same_v<T, float>) return f(task);
}

}  // namespace

bool HasHopperAttention(const AttentionShape& shape, const Rows& qkv, int major) {
  return major == 9 && qkv.type != Type::kF32 && shape.softcap <= 0 && shape.scale > 0 &&
         (shape.head_dim == 64 || shape.head_dim == 128) && TakesAttention(shape, qkv);
}

bool TakesAttention(const AttentionShape& shape, const Rows& qkv) {
  if (shape.head_dim < 1 || shape.head_dim > kMostHeadDim) return false;
  if (qkv.type == Type::kF32) return true;
  const bool is_half = qkv.type == Type::kBF16 || qkv.type == Type::kF16;
  return is_half && Aligned(qkv.data, qkv.stride * 2, shape.head_dim * 2, kPiece);
}

int Attention(const AttentionShape& shape, const DeviceDocuments& documents, const Rows& qkv,
              const AttentionResult& out, void* stream) {
  if (qkv.rows == 0 || documents.count == 0) return cudaSuccess;
  return WithElement(qkv.type, [&](auto element) -> int {
    using T = typename decltype(element)::Type;
    const AttentionTask<T> task = TaskOf<T>(shape, documents, qkv, out);
    if (HasHopperAttention(shape, qkv, Major())) {
      return InHalves(task, [&](const auto& halves) { return HopperAttention(halves, StreamOf(stream)); });
    }
    return WithEngines<T>(shape.head_dim, [&](auto engines) {
      using E = typename decltype(engines)::Output;
      return Start<E>(OutputKernel<E>, task, shape.heads, 1, StreamOf(stream));
    });
  });
}

int AttentionBackward(const AttentionShape& shape, const DeviceDocuments& documents, const AttentionGradient& gradient,
                      float* delta, void* stream) {
  if (gradient.qkv.rows == 0 || documents.count == 0) return cudaSuccess;
  return WithElement(gradient.qkv.type, [&](auto element) -> int {
    using T = typename decltype(element)::Type;
    AttentionTask<T> task = TaskOf<T>(shape, documents, gradient.qkv, gradient.forward);
    task.d_o = ViewOf<const T>(gradient.d_o);
    task.dqkv = ViewOf<T>(gradient.dqkv);
    task.delta = delta;
    if (HasHopperAttention(shape, gradient.qkv, Major())) {
      return InHalves(task, [&](const auto& halves) { return HopperAttentionBackward(halves, StreamOf(stream)); });
    }
    DeltaKernel<T><<<FlatBlocks(task.tokens * shape.heads * kWarp), kFlatThreads, 0, StreamOf(stream)>>>(task);
    return WithEngines<T>(shape.head_dim, [&](auto engines) -> int {
      using Keys = typename decltype(engines)::Keys;
      using Queries = typename decltype(engines)::Queries;
      const int error = Start<Keys>(KeysKernel<Keys>, task, shape.kv_heads, 2, StreamOf(stream));
      if (error != cudaSuccess) return error;
      return Start<Queries>(QueriesKernel<Queries>, task, shape.heads, 2, StreamOf(stream));
    });
  });
}

}  // namespace strata::kernels::cuda
