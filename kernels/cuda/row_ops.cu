// Row by row over a device's memory. Matrices are read and written in pieces of 16 bytes where their places allow it; a
// thread meets the same columns in each of its walks over a row, so that it may read again what it wrote. Sums over a
// row are butterflies of a fixed shape. The truth is cpu/row_ops_impl.h.
#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>

#include "kernels/cuda_ops.h"

namespace strata::kernels::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kMostThreads = 512;
constexpr int kFlatThreads = 256;

__device__ inline float ToFloat(float x) { return x; }
__device__ inline float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }
template <typename T>
__device__ T FromFloat(float x);
template <>
__device__ inline float FromFloat<float>(float x) {
  return x;
}
template <>
__device__ inline __nv_bfloat16 FromFloat<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

template <typename T, int V>
struct alignas(sizeof(T) * V) Packed {
  T values[V];
};

// V neighbours, widened.
template <typename T, int V>
__device__ inline void Load(const T* from, float (&out)[V]) {
  const Packed<T, V> packed = *reinterpret_cast<const Packed<T, V>*>(from);
#pragma unroll
  for (int i = 0; i < V; ++i) out[i] = ToFloat(packed.values[i]);
}

template <typename T, int V>
__device__ inline void Store(T* to, const float (&values)[V]) {
  Packed<T, V> packed;
#pragma unroll
  for (int i = 0; i < V; ++i) packed.values[i] = FromFloat<T>(values[i]);
  *reinterpret_cast<Packed<T, V>*>(to) = packed;
}

template <typename T>
__device__ inline float Rounded(float x) {
  return ToFloat(FromFloat<T>(x));
}

struct Sum {
  __device__ static float Of(float a, float b) { return a + b; }
  static constexpr float kNone = 0;
};
struct Largest {
  __device__ static float Of(float a, float b) { return fmaxf(a, b); }
  static constexpr float kNone = -INFINITY;
};

// Of all threads of the block, known to each.
template <typename F>
__device__ float OverBlock(float value) {
  __shared__ float parts[kWarp];
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value = F::Of(value, __shfl_xor_sync(~0U, value, offset));
  if (blockDim.x <= kWarp) return value;
  __syncthreads();  // the parts of the call before have been read
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = threadIdx.x % kWarp < blockDim.x / kWarp ? parts[threadIdx.x % kWarp] : F::kNone;
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value = F::Of(value, __shfl_xor_sync(~0U, value, offset));
  return value;
}

// A matrix as kernels see it.
template <typename T>
struct View {
  T* data;
  int64_t stride;
  __device__ T* Row(int64_t row) const { return data + row * stride; }
};
template <typename T>
View<T> ViewOf(const Rows& rows) {
  return {static_cast<T*>(rows.data), rows.stride};
}

struct NormArgs {
  const float* weight;
  const float* bias;
  float epsilon;
  int64_t heads;
  int cols;  // of a head
};

// A block a piece. With kAdd the piece is x + delta, rounded, which is also kept in `sum`.
template <typename T, int V, bool kAdd>
__global__ void NormKernel(View<T> x, View<T> delta, View<T> sum, NormArgs norm, View<T> out, float* rstd) {
  const int64_t piece = blockIdx.x;
  const int64_t row = piece / norm.heads;
  const int64_t first = piece % norm.heads * norm.cols;
  const T* source = x.Row(row) + first;
  float total = 0;
  float squares = 0;
  for (int c = static_cast<int>(threadIdx.x) * V; c < norm.cols; c += static_cast<int>(blockDim.x) * V) {
    float values[V];
    Load<T, V>(source + c, values);
    if constexpr (kAdd) {
      float added[V];
      Load<T, V>(delta.Row(row) + first + c, added);
#pragma unroll
      for (int i = 0; i < V; ++i) values[i] = Rounded<T>(values[i] + added[i]);
      Store<T, V>(sum.Row(row) + first + c, values);
    }
#pragma unroll
    for (int i = 0; i < V; ++i) {
      total += values[i];
      squares += values[i] * values[i];
    }
  }
  if constexpr (kAdd) source = sum.Row(row) + first;
  float mean = 0;
  if (norm.bias != nullptr) {
    mean = OverBlock<Sum>(total) / static_cast<float>(norm.cols);
    squares = 0;
    for (int c = static_cast<int>(threadIdx.x) * V; c < norm.cols; c += static_cast<int>(blockDim.x) * V) {
      float values[V];
      Load<T, V>(source + c, values);
#pragma unroll
      for (int i = 0; i < V; ++i) squares += (values[i] - mean) * (values[i] - mean);
    }
  }
  const float scale = rsqrtf(OverBlock<Sum>(squares) / static_cast<float>(norm.cols) + norm.epsilon);
  if (threadIdx.x == 0) rstd[piece] = scale;
  for (int c = static_cast<int>(threadIdx.x) * V; c < norm.cols; c += static_cast<int>(blockDim.x) * V) {
    float values[V];
    float weight[V];
    Load<T, V>(source + c, values);
    Load<float, V>(norm.weight + c, weight);
#pragma unroll
    for (int i = 0; i < V; ++i) values[i] = (values[i] - mean) * scale * weight[i];
    if (norm.bias != nullptr) {
      float bias[V];
      Load<float, V>(norm.bias + c, bias);
#pragma unroll
      for (int i = 0; i < V; ++i) values[i] += bias[i];
    }
    Store<T, V>(out.Row(row) + first + c, values);
  }
}

template <typename T, int V>
__global__ void NormBackwardKernel(View<T> dy, View<T> x, NormArgs norm, const float* rstd, View<T> dx,
                                   bool accumulate) {
  const int64_t piece = blockIdx.x;
  const int64_t row = piece / norm.heads;
  const int64_t first = piece % norm.heads * norm.cols;
  const T* source = x.Row(row) + first;
  const T* given = dy.Row(row) + first;
  const auto count = static_cast<float>(norm.cols);
  float mean = 0;
  if (norm.bias != nullptr) {
    for (int c = static_cast<int>(threadIdx.x) * V; c < norm.cols; c += static_cast<int>(blockDim.x) * V) {
      float values[V];
      Load<T, V>(source + c, values);
#pragma unroll
      for (int i = 0; i < V; ++i) mean += values[i];
    }
    mean = OverBlock<Sum>(mean) / count;
  }
  float along = 0;
  float total = 0;
  for (int c = static_cast<int>(threadIdx.x) * V; c < norm.cols; c += static_cast<int>(blockDim.x) * V) {
    float values[V];
    float g[V];
    float weight[V];
    Load<T, V>(source + c, values);
    Load<T, V>(given + c, g);
    Load<float, V>(norm.weight + c, weight);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      along += g[i] * weight[i] * (values[i] - mean);
      total += g[i] * weight[i];
    }
  }
  const float scale = rstd[piece];
  const float pull = OverBlock<Sum>(along) / count * scale * scale * scale;
  const float shift = norm.bias != nullptr ? OverBlock<Sum>(total) / count : 0.0F;
  for (int c = static_cast<int>(threadIdx.x) * V; c < norm.cols; c += static_cast<int>(blockDim.x) * V) {
    float values[V];
    float g[V];
    float weight[V];
    Load<T, V>(source + c, values);
    Load<T, V>(given + c, g);
    Load<float, V>(norm.weight + c, weight);
    T* to = dx.Row(row) + first + c;
    float sum[V] = {};
    if (accumulate) Load<T, V>(to, sum);
#pragma unroll
    for (int i = 0; i < V; ++i) sum[i] += scale * (g[i] * weight[i] - shift) - pull * (values[i] - mean);
    Store<T, V>(to, sum);
  }
}

// Row and first column of a thread's piece in a matrix of `pieces` pieces a row; the grid covers rows * pieces threads.
struct Place {
  int64_t row;
  int col;
  bool inside;
};
template <int V>
__device__ Place PlaceOf(int64_t rows, int pieces) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t row = index / pieces;
  return {row, static_cast<int>(index - row * pieces) * V, row < rows};
}

struct RopeArgs {
  const float* cos;
  const float* sin;
  int64_t rows;
  int heads, half;
  float sign;
};

template <typename T, int V>
__global__ void RopeKernel(View<T> x, RopeArgs args) {
  const Place place = PlaceOf<V>(args.rows, args.heads * args.half / V);
  if (!place.inside) return;
  const int head = place.col / args.half;
  const int col = place.col - head * args.half;
  T* u_place = x.Row(place.row) + 2 * head * args.half + col;
  float u[V];
  float v[V];
  float c[V];
  float s[V];
  Load<T, V>(u_place, u);
  Load<T, V>(u_place + args.half, v);
  Load<float, V>(args.cos + place.row * args.half + col, c);
  Load<float, V>(args.sin + place.row * args.half + col, s);
  float turned_u[V];
  float turned_v[V];
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const float sine = s[i] * args.sign;
    turned_u[i] = u[i] * c[i] - v[i] * sine;
    turned_v[i] = v[i] * c[i] + u[i] * sine;
  }
  Store<T, V>(u_place, turned_u);
  Store<T, V>(u_place + args.half, turned_v);
}

// A unit's value and slope at x.
struct Silu {
  __device__ static void At(float x, float& value, float& slope) {
    const float sigmoid = 1.0F / (1.0F + expf(-x));
    value = x * sigmoid;
    slope = sigmoid + value * (1.0F - sigmoid);
  }
};
// x sigmoid(2 z), z = sqrt(2 / pi) (x + 0.044715 x^3): the tanh formula.
struct Gelu {
  __device__ static void At(float x, float& value, float& slope) {
    constexpr float kLinear = 1.5957691216057308F;
    constexpr float kCubic = 0.044715F;
    const float square = x * x;
    const float sigmoid = 1.0F / (1.0F + expf(-kLinear * x * (1.0F + kCubic * square)));
    value = x * sigmoid;
    slope = sigmoid + value * (1.0F - sigmoid) * kLinear * (1.0F + 3.0F * kCubic * square);
  }
};

template <typename T, int V, typename U, bool kGated>
__global__ void ActivateKernel(View<T> in, View<T> out, int64_t rows, int cols) {
  const Place place = PlaceOf<V>(rows, cols / V);
  if (!place.inside) return;
  const T* gate_place = in.Row(place.row) + place.col;
  float gate[V];
  float up[V];
  Load<T, V>(gate_place, gate);
  if constexpr (kGated) Load<T, V>(gate_place + cols, up);
  float result[V];
#pragma unroll
  for (int i = 0; i < V; ++i) {
    float slope = 0;
    U::At(gate[i], result[i], slope);
    if constexpr (kGated) result[i] *= up[i];
  }
  Store<T, V>(out.Row(place.row) + place.col, result);
}

template <typename T, int V, typename U, bool kGated>
__global__ void ActivateBackwardKernel(View<T> in, View<T> dout, int64_t rows, int cols) {
  const Place place = PlaceOf<V>(rows, cols / V);
  if (!place.inside) return;
  T* gate_place = in.Row(place.row) + place.col;
  T* out_place = dout.Row(place.row) + place.col;
  float gate[V];
  float up[V];
  float dy[V];
  Load<T, V>(gate_place, gate);
  Load<T, V>(out_place, dy);
  if constexpr (kGated) Load<T, V>(gate_place + cols, up);
  float d_gate[V];
  float d_up[V];
  float result[V];
#pragma unroll
  for (int i = 0; i < V; ++i) {
    float value = 0;
    float slope = 0;
    U::At(gate[i], value, slope);
    const float other = kGated ? up[i] : 1.0F;
    d_gate[i] = dy[i] * other * slope;
    d_up[i] = dy[i] * value;
    result[i] = value * other;
  }
  Store<T, V>(gate_place, d_gate);
  if constexpr (kGated) Store<T, V>(gate_place + cols, d_up);
  Store<T, V>(out_place, result);
}

template <typename T, int V>
__global__ void AddBiasKernel(View<T> x, const float* bias, int64_t rows, int cols) {
  const Place place = PlaceOf<V>(rows, cols / V);
  if (!place.inside) return;
  float values[V];
  float added[V];
  Load<T, V>(x.Row(place.row) + place.col, values);
  Load<float, V>(bias + place.col, added);
#pragma unroll
  for (int i = 0; i < V; ++i) values[i] += added[i];
  Store<T, V>(x.Row(place.row) + place.col, values);
}

template <typename T, int V>
__global__ void AddKernel(View<T> x, View<T> delta, int64_t rows, int cols) {
  const Place place = PlaceOf<V>(rows, cols / V);
  if (!place.inside) return;
  float values[V];
  float added[V];
  Load<T, V>(x.Row(place.row) + place.col, values);
  Load<T, V>(delta.Row(place.row) + place.col, added);
#pragma unroll
  for (int i = 0; i < V; ++i) values[i] += added[i];
  Store<T, V>(x.Row(place.row) + place.col, values);
}

template <typename T, int V>
__global__ void CopyKernel(View<T> from, View<T> to, int64_t rows, int cols) {
  const Place place = PlaceOf<V>(rows, cols / V);
  if (!place.inside) return;
  *reinterpret_cast<Packed<T, V>*>(to.Row(place.row) + place.col) =
      *reinterpret_cast<const Packed<T, V>*>(from.Row(place.row) + place.col);
}

template <typename T, int V>
__global__ void GatherKernel(View<T> table, const int32_t* index, View<T> out, int64_t rows, int cols) {
  const Place place = PlaceOf<V>(rows, cols / V);
  if (!place.inside) return;
  const int32_t from = index[place.row];
  Packed<T, V> values = {};
  if (from >= 0) values = *reinterpret_cast<const Packed<T, V>*>(table.Row(from) + place.col);
  *reinterpret_cast<Packed<T, V>*>(out.Row(place.row) + place.col) = values;
}

template <typename T, int V>
__global__ void ScatterKernel(View<T> in, const int32_t* index, View<T> out, int64_t rows, int cols) {
  const Place place = PlaceOf<V>(rows, cols / V);
  if (!place.inside) return;
  const int32_t to = index[place.row];
  if (to < 0) return;
  *reinterpret_cast<Packed<T, V>*>(out.Row(to) + place.col) =
      *reinterpret_cast<const Packed<T, V>*>(in.Row(place.row) + place.col);
}

struct LossArgs {
  const int32_t* targets;
  LossOptions options;
  const float* scale;
  float* nll;
  int cols;
};

// A block a row.
template <typename T, int V>
__global__ void CrossEntropyKernel(View<T> logits, LossArgs args) {
  T* row = logits.Row(blockIdx.x);
  const int32_t target = args.targets[blockIdx.x];
  const float cap = args.options.softcap;
  float most = -INFINITY;
  float sum = 0;
  for (int c = static_cast<int>(threadIdx.x) * V; c < args.cols; c += static_cast<int>(blockDim.x) * V) {
    float values[V];
    Load<T, V>(row + c, values);
    if (cap > 0) {
#pragma unroll
      for (int i = 0; i < V; ++i) values[i] = Rounded<T>(cap * tanhf(values[i] / cap));
      Store<T, V>(row + c, values);
    }
    float top = values[0];
#pragma unroll
    for (int i = 1; i < V; ++i) top = fmaxf(top, values[i]);
    if (top > most) {
      sum *= expf(most - top);
      most = top;
    }
#pragma unroll
    for (int i = 0; i < V; ++i) sum += expf(values[i] - most);
  }
  const float largest = OverBlock<Largest>(most);
  const float log_sum = largest + logf(OverBlock<Sum>(most == -INFINITY ? 0.0F : sum * expf(most - largest)));
  // The barriers above stand between the capped values' writing and this reading.
  if (threadIdx.x == 0) args.nll[blockIdx.x] = target < 0 ? 0.0F : log_sum - ToFloat(row[target]);
  if (!args.options.gradient) return;
  __syncthreads();  // the target's logit has been read
  float scale = args.options.scale;
  if (args.scale != nullptr) scale *= *args.scale;
  for (int c = static_cast<int>(threadIdx.x) * V; c < args.cols; c += static_cast<int>(blockDim.x) * V) {
    float values[V];
    Load<T, V>(row + c, values);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      float g = target < 0 ? 0.0F : expf(values[i] - log_sum) - (c + i == target ? 1.0F : 0.0F);
      if (cap > 0) g *= 1.0F - values[i] / cap * (values[i] / cap);
      values[i] = g * scale;
    }
    Store<T, V>(row + c, values);
  }
}

template <typename T>
__global__ void CopyScaledKernel(const ScaledCopy* copies) {
  const ScaledCopy copy = copies[blockIdx.y];
  const int64_t count = copy.rows * copy.cols;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    const int64_t row = i / copy.cols;
    static_cast<T*>(copy.to)[row * copy.to_stride + i - row * copy.cols] = FromFloat<T>(copy.from[i] * copy.scale);
  }
}

__device__ double DoubleOverBlock(double value) {
  __shared__ double parts[kFlatThreads];
  parts[threadIdx.x] = value;
  for (int half = kFlatThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < half) parts[threadIdx.x] += parts[threadIdx.x + half];
  }
  return parts[0];
}

__global__ void SumSquaresKernel(const float* values, int64_t count, double* parts) {
  double sum = 0;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride)
    sum += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  sum = DoubleOverBlock(sum);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

__global__ void SumPartsKernel(const double* parts, int count, double* out) {
  double sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kFlatThreads) sum += parts[i];
  sum = DoubleOverBlock(sum);
  if (threadIdx.x == 0) *out = sum;
}

cudaStream_t StreamOf(void* stream) { return static_cast<cudaStream_t>(stream); }

// Whether pieces of `bytes` may be read everywhere: the place, the distance of rows and the columns are multiples.
bool Aligned(const void* data, int64_t stride_bytes, int64_t cols_bytes, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(bytes) == 0 && stride_bytes % bytes == 0 &&
         cols_bytes % bytes == 0;
}

constexpr int64_t kPiece = 16;  // bytes

template <typename T, int V>
struct Places {
  using Type = T;
  static constexpr int kWidth = V;
};

// Calls f(Places<T, V>{}) with the matrices' type and as many columns at once as all of them allow, whose
// rows (or pieces of rows) count `cols`. fp32 vectors beside them lie aligned (they start a tensor) where cols do.
template <typename F>
int Dispatch(std::initializer_list<const Rows*> all, int64_t cols, const F& f) {
  const Rows& first = **all.begin();
  const int64_t size = first.type == Type::kF32 ? 4 : 2;
  bool wide = true;
  for (const Rows* m : all) wide = wide && Aligned(m->data, m->stride * size, cols * size, kPiece);
  if (first.type == Type::kF32) return wide ? f(Places<float, 4>{}) : f(Places<float, 1>{});
  return wide ? f(Places<__nv_bfloat16, 8>{}) : f(Places<__nv_bfloat16, 1>{});
}

unsigned RowThreads(int64_t cols, int v) {
  const int64_t needed = (cols / v + kWarp - 1) / kWarp * kWarp;
  return static_cast<unsigned>(std::clamp<int64_t>(needed, kWarp, kMostThreads));
}

unsigned FlatBlocks(int64_t threads) { return static_cast<unsigned>((threads + kFlatThreads - 1) / kFlatThreads); }

NormArgs ArgsOf(const Rows& x, const NormWeights& norm) {
  return {norm.weight, norm.bias, norm.epsilon, norm.heads, static_cast<int>(x.cols / norm.heads)};
}

}  // namespace

int Norm(const Rows& x, const NormWeights& norm, const Rows& out, float* rstd, void* stream) {
  if (x.rows == 0) return cudaSuccess;
  const NormArgs args = ArgsOf(x, norm);
  return Dispatch({&x, &out}, args.cols, [&](auto places) -> int {
    using T = typename decltype(places)::Type;
    constexpr int V = decltype(places)::kWidth;
    NormKernel<T, V, false>
        <<<static_cast<unsigned>(x.rows * norm.heads), RowThreads(args.cols, V), 0, StreamOf(stream)>>>(
            ViewOf<T>(x), {}, {}, args, ViewOf<T>(out), rstd);
    return cudaGetLastError();
  });
}

int AddNorm(const Rows& x, const Rows& delta, const Rows& sum, const NormWeights& norm, const Rows& out, float* rstd,
            void* stream) {
  if (x.rows == 0) return cudaSuccess;
  const NormArgs args = ArgsOf(x, norm);
  return Dispatch({&x, &delta, &sum, &out}, args.cols, [&](auto places) -> int {
    using T = typename decltype(places)::Type;
    constexpr int V = decltype(places)::kWidth;
    NormKernel<T, V, true>
        <<<static_cast<unsigned>(x.rows * norm.heads), RowThreads(args.cols, V), 0, StreamOf(stream)>>>(
            ViewOf<T>(x), ViewOf<T>(delta), ViewOf<T>(sum), args, ViewOf<T>(out), rstd);
    return cudaGetLastError();
  });
}

int NormBackward(const Rows& dy, const Rows& x, const NormWeights& norm, const float* rstd, const Rows& dx,
                 bool accumulate, void* stream) {
  if (x.rows == 0) return cudaSuccess;
  const NormArgs args = ArgsOf(x, norm);
  return Dispatch({&dy, &x, &dx}, args.cols, [&](auto places) -> int {
    using T = typename decltype(places)::Type;
    constexpr int V = decltype(places)::kWidth;
    NormBackwardKernel<T, V>
        <<<static_cast<unsigned>(x.rows * norm.heads), RowThreads(args.cols, V), 0, StreamOf(stream)>>>(
            ViewOf<T>(dy), ViewOf<T>(x), args, rstd, ViewOf<T>(dx), accumulate);
    return cudaGetLastError();
  });
}

int Rope(const Rows& x, int64_t heads, int64_t head_dim, const float* cos, const float* sin, bool inverse,
         void* stream) {
  if (x.rows == 0) return cudaSuccess;
  const RopeArgs args = {
      cos, sin, x.rows, static_cast<int>(heads), static_cast<int>(head_dim / 2), inverse ? -1.0F : 1.0F};
  return Dispatch({&x}, args.half, [&](auto places) -> int {
    using T = typename decltype(places)::Type;
    constexpr int V = decltype(places)::kWidth;
    const int64_t threads = x.rows * heads * args.half / V;
    RopeKernel<T, V><<<FlatBlocks(threads), kFlatThreads, 0, StreamOf(stream)>>>(ViewOf<T>(x), args);
    return cudaGetLastError();
  });
}

int Activate(Unit unit, const Rows& in, const Rows& out, void* stream) {
  if (out.rows == 0) return cudaSuccess;
  return Dispatch({&in, &out}, out.cols, [&](auto places) -> int {
    using T = typename decltype(places)::Type;
    constexpr int V = decltype(places)::kWidth;
    const auto run = [&](auto kernel) {
      kernel<<<FlatBlocks(out.rows * out.cols / V), kFlatThreads, 0, StreamOf(stream)>>>(
          ViewOf<T>(in), ViewOf<T>(out), out.rows, static_cast<int>(out.cols));
    };
    if (unit == Unit::kSwiglu) run(ActivateKernel<T, V, Silu, true>);
    if (unit == Unit::kGeglu) run(ActivateKernel<T, V, Gelu, true>);
    if (unit == Unit::kGelu) run(ActivateKernel<T, V, Gelu, false>);
    return cudaGetLastError();
  });
}

int ActivateBackward(Unit unit, const Rows& in, const Rows& dout, void* stream) {
  if (dout.rows == 0) return cudaSuccess;
  return Dispatch({&in, &dout}, dout.cols, [&](auto places) -> int {
    using T = typename decltype(places)::Type;
    constexpr int V = decltype(places)::kWidth;
    const auto run = [&](auto kernel) {
      kernel<<<FlatBlocks(dout.rows * dout.cols / V), kFlatThreads, 0, StreamOf(stream)>>>(
          ViewOf<T>(in), ViewOf<T>(dout), dout.rows, static_cast<int>(dout.cols));
    };
    if (unit == Unit::kSwiglu) run(ActivateBackwardKernel<T, V, Silu, true>);
    if (unit == Unit::kGeglu) run(ActivateBackwardKernel<T, V, Gelu, true>);
    if (unit == Unit::kGelu) run(ActivateBackwardKernel<T, V, Gelu, false>);
    return cudaGetLastError();
  });
}

int AddBias(const Rows& x, const float* bias, void* stream) {
  if (x.rows == 0) return cudaSuccess;
  return Dispatch({&x}, x.cols, [&](auto places) -> int {
    using T = typename decltype(places)::Type;
    constexpr int V = decltype(places)::kWidth;
    AddBiasKernel<T, V><<<FlatBlocks(x.rows * x.cols / V), kFlatThreads, 0, StreamOf(stream)>>>(
        ViewOf<T>(x), bias, x.rows, static_cast<int>(x.cols));
    return cudaGetLastError();
  });
}

int Add(const Rows& x, const Rows& delta, void* stream) {
  if (x.rows == 0) return cudaSuccess;
  return Dispatch({&x, &delta}, x.cols, [&](auto places) -> int {
    using T = typename decltype(places)::Type;
    constexpr int V = decltype(places)::kWidth;
    AddKernel<T, V><<<FlatBlocks(x.rows * x.cols / V), kFlatThreads, 0, StreamOf(stream)>>>(
        ViewOf<T>(x), ViewOf<T>(delta), x.rows, static_cast<int>(x.cols));
    return cudaGetLastError();
  });
}

int CrossEntropy(const Rows& logits, const int32_t* targets, const LossOptions& options, const float* scale, float* nll,
                 void* stream) {
  if (logits.rows == 0) return cudaSuccess;
  const LossArgs args = {targets, options, scale, nll, static_cast<int>(logits.cols)};
  return Dispatch({&logits}, logits.cols, [&](auto places) -> int {
    using T = typename decltype(places)::Type;
    constexpr int V = decltype(places)::kWidth;
    CrossEntropyKernel<T, V><<<static_cast<unsigned>(logits.rows), RowThreads(logits.cols, V), 0, StreamOf(stream)>>>(
        ViewOf<T>(logits), args);
    return cudaGetLastError();
  });
}

int Copy(const Rows& from, const Rows& to, void* stream) {
  if (to.rows == 0) return cudaSuccess;
  return Dispatch({&from, &to}, to.cols, [&](auto places) -> int {
    using T = typename decltype(places)::Type;
    constexpr int V = decltype(places)::kWidth;
    CopyKernel<T, V><<<FlatBlocks(to.rows * to.cols / V), kFlatThreads, 0, StreamOf(stream)>>>(
        ViewOf<T>(from), ViewOf<T>(to), to.rows, static_cast<int>(to.cols));
    return cudaGetLastError();
  });
}

int GatherRows(const Rows& table, const int32_t* index, const Rows& out, void* stream) {
  if (out.rows == 0) return cudaSuccess;
  return Dispatch({&table, &out}, out.cols, [&](auto places) -> int {
    using T = typename decltype(places)::Type;
    constexpr int V = decltype(places)::kWidth;
    GatherKernel<T, V><<<FlatBlocks(out.rows * out.cols / V), kFlatThreads, 0, StreamOf(stream)>>>(
        ViewOf<T>(table), index, ViewOf<T>(out), out.rows, static_cast<int>(out.cols));
    return cudaGetLastError();
  });
}

int ScatterRows(const Rows& in, const int32_t* index, const Rows& out, void* stream) {
  if (in.rows == 0) return cudaSuccess;
  return Dispatch({&in, &out}, in.cols, [&](auto places) -> int {
    using T = typename decltype(places)::Type;
    constexpr int V = decltype(places)::kWidth;
    ScatterKernel<T, V><<<FlatBlocks(in.rows * in.cols / V), kFlatThreads, 0, StreamOf(stream)>>>(
        ViewOf<T>(in), index, ViewOf<T>(out), in.rows, static_cast<int>(in.cols));
    return cudaGetLastError();
  });
}

int CopyScaled(const ScaledCopy* copies, int64_t count, Type type, void* stream) {
  if (count == 0) return cudaSuccess;
  constexpr unsigned kBlocksEach = 32;
  const dim3 grid(kBlocksEach, static_cast<unsigned>(count));
  if (type == Type::kF32) {
    CopyScaledKernel<float><<<grid, kFlatThreads, 0, StreamOf(stream)>>>(copies);
  } else {
    CopyScaledKernel<__nv_bfloat16><<<grid, kFlatThreads, 0, StreamOf(stream)>>>(copies);
  }
  return cudaGetLastError();
}

int SumSquares(const float* values, int64_t count, double* workspace, double* out, void* stream) {
  const int64_t wanted = (count + kFlatThreads - 1) / kFlatThreads;
  const auto blocks = static_cast<int>(std::clamp<int64_t>(wanted, 1, kSumSquaresWorkspace));
  SumSquaresKernel<<<static_cast<unsigned>(blocks), kFlatThreads, 0, StreamOf(stream)>>>(values, count, workspace);
  SumPartsKernel<<<1, kFlatThreads, 0, StreamOf(stream)>>>(workspace, blocks, out);
  return cudaGetLastError();
}

}  // namespace strata::kernels::cuda
