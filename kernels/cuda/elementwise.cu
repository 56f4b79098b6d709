// Element by element: rotary positions, the MLP's units, sums, copies. The truth is cpu/row_ops_impl.h.
#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <numeric>
#include <type_traits>

#include "kernels/cuda/rows.cuh"
#include "kernels/cuda_ops.h"

namespace strata::kernels::cuda {
namespace {

struct RopeArgs {
  const float* cos;
  const float* sin;
  int64_t rows;
  int heads, head_dim, pairs;
  float sign;
};

template <typename T, int V>
__global__ void RopeKernel(View<T> x, RopeArgs args) {
  const Place place = PlaceOf<V>(args.rows, args.heads * args.pairs / V);
  if (!place.inside) return;
  const int head = place.col / args.pairs;
  const int col = place.col - head * args.pairs;
  T* u_place = x.Row(place.row) + head * args.head_dim + col;
  float u[V];
  float v[V];
  float c[V];
  float s[V];
  Load<T, V>(u_place, u);
  Load<T, V>(u_place + args.pairs, v);
  Load<float, V>(args.cos + place.row * args.pairs + col, c);
  Load<float, V>(args.sin + place.row * args.pairs + col, s);
  float turned_u[V];
  float turned_v[V];
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const float sine = s[i] * args.sign;
    turned_u[i] = u[i] * c[i] - v[i] * sine;
    turned_v[i] = v[i] * c[i] + u[i] * sine;
  }
  Store<T, V>(u_place, turned_u);
  Store<T, V>(u_place + args.pairs, turned_v);
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

// Calls f(the unit's function, whether it is gated).
template <typename F>
void ForUnit(Unit unit, const F& f) {
  if (unit == Unit::kSwiglu) f(Silu{}, std::true_type{});
  if (unit == Unit::kGeglu) f(Gelu{}, std::true_type{});
  if (unit == Unit::kGelu) f(Gelu{}, std::false_type{});
}

}  // namespace

int Rope(const Rows& x, int64_t heads, int64_t head_dim, const Turns& turns, bool inverse, void* stream) {
  if (x.rows == 0) return cudaSuccess;
  const RopeArgs args = {.cos = turns.cos,
                         .sin = turns.sin,
                         .rows = x.rows,
                         .heads = static_cast<int>(heads),
                         .head_dim = static_cast<int>(head_dim),
                         .pairs = static_cast<int>(turns.pairs),
                         .sign = inverse ? -1.0F : 1.0F};
  return Dispatch({&x}, std::gcd(turns.pairs, head_dim), [&](auto places) -> int {
    using T = typename decltype(places)::Type;
    constexpr int V = decltype(places)::kWidth;
    const int64_t threads = x.rows * heads * args.pairs / V;
    RopeKernel<T, V><<<FlatBlocks(threads), kFlatThreads, 0, StreamOf(stream)>>>(ViewOf<T>(x), args);
    return cudaGetLastError();
  });
}

int Activate(Unit unit, const Rows& in, const Rows& out, void* stream) {
  return StartFlat({&in, &out}, out, [&](auto places, unsigned blocks, int cols) {
    using T = typename decltype(places)::Type;
    ForUnit(unit, [&](auto function, auto gated) {
      ActivateKernel<T, decltype(places)::kWidth, decltype(function), decltype(gated)::value>
          <<<blocks, kFlatThreads, 0, StreamOf(stream)>>>(ViewOf<T>(in), ViewOf<T>(out), out.rows, cols);
    });
  });
}

int ActivateBackward(Unit unit, const Rows& in, const Rows& dout, void* stream) {
  return StartFlat({&in, &dout}, dout, [&](auto places, unsigned blocks, int cols) {
    using T = typename decltype(places)::Type;
    ForUnit(unit, [&](auto function, auto gated) {
      ActivateBackwardKernel<T, decltype(places)::kWidth, decltype(function), decltype(gated)::value>
          <<<blocks, kFlatThreads, 0, StreamOf(stream)>>>(ViewOf<T>(in), ViewOf<T>(dout), dout.rows, cols);
    });
  });
}

int AddBias(const Rows& x, const float* bias, void* stream) {
  return StartFlat({&x}, x, [&](auto places, unsigned blocks, int cols) {
    using T = typename decltype(places)::Type;
    AddBiasKernel<T, decltype(places)::kWidth>
        <<<blocks, kFlatThreads, 0, StreamOf(stream)>>>(ViewOf<T>(x), bias, x.rows, cols);
  });
}

int Add(const Rows& x, const Rows& delta, void* stream) {
  return StartFlat({&x, &delta}, x, [&](auto places, unsigned blocks, int cols) {
    using T = typename decltype(places)::Type;
    AddKernel<T, decltype(places)::kWidth>
        <<<blocks, kFlatThreads, 0, StreamOf(stream)>>>(ViewOf<T>(x), ViewOf<T>(delta), x.rows, cols);
  });
}

int Copy(const Rows& from, const Rows& to, void* stream) {
  return StartFlat({&from, &to}, to, [&](auto places, unsigned blocks, int cols) {
    using T = typename decltype(places)::Type;
    CopyKernel<T, decltype(places)::kWidth>
        <<<blocks, kFlatThreads, 0, StreamOf(stream)>>>(ViewOf<T>(from), ViewOf<T>(to), to.rows, cols);
  });
}

int GatherRows(const Rows& table, const int32_t* index, const Rows& out, void* stream) {
  return StartFlat({&table, &out}, out, [&](auto places, unsigned blocks, int cols) {
    using T = typename decltype(places)::Type;
    GatherKernel<T, decltype(places)::kWidth>
        <<<blocks, kFlatThreads, 0, StreamOf(stream)>>>(ViewOf<T>(table), index, ViewOf<T>(out), out.rows, cols);
  });
}

int ScatterRows(const Rows& in, const int32_t* index, const Rows& out, void* stream) {
  return StartFlat({&in, &out}, in, [&](auto places, unsigned blocks, int cols) {
    using T = typename decltype(places)::Type;
    ScatterKernel<T, decltype(places)::kWidth>
        <<<blocks, kFlatThreads, 0, StreamOf(stream)>>>(ViewOf<T>(in), index, ViewOf<T>(out), in.rows, cols);
  });
}

}  // namespace strata::kernels::cuda
