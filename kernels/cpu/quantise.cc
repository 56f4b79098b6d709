#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/cpu/code_books.h"
#include "kernels/cpu/decode.h"
#include "kernels/ops.h"

namespace strata::kernels {
namespace {

// Midpoints of each power of ten's range [0.1, 1] cut into 1, 2, 4 .. 64 equal parts, both signs, 0 and 1. The cuts are
// rounded as torch.linspace rounds them.
std::array<float, 256> MakeScaleBook() {
  constexpr float kPowers[] = {1e-6F, 1e-5F, 1e-4F, 1e-3F, 1e-2F, 1e-1F, 1};
  std::array<float, 256> out;
  size_t next = 0;
  out[next++] = 0;
  out[next++] = 1;
  for (int i = 0; i < 7; ++i) {
    const int parts = 1 << i;
    const float step = (1.0F - 0.1F) / static_cast<float>(parts);
    const auto cut = [&](int k) {
      const double from = k < (parts + 1) / 2 ? double{0.1F} : 1.0;
      return static_cast<float>(from + double{step} * (k < (parts + 1) / 2 ? k : k - parts));
    };
    for (int k = 0; k < parts; ++k) {
      const float value = kPowers[i] * ((cut(k) + cut(k + 1)) / 2);
      out[next++] = value;
      out[next++] = -value;
    }
  }
  std::sort(out.begin(), out.end());
  return out;
}

// The largest magnitude; NaN where a value is not finite, so that it shows in whatever is computed with the scale.
float Magnitude(const float* values, int64_t count) {
  constexpr int kLanes = 16;
  float most[kLanes] = {};
  float poison[kLanes] = {};
  const auto take = [&](float value, int lane) {
    most[lane] = std::max(most[lane], std::fabs(value));
    poison[lane] += value * 0;
  };
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) take(values[i + lane], lane);
  }
  for (; i < count; ++i) take(values[i], 0);
  for (int lane = 1; lane < kLanes; ++lane) take(most[lane] + poison[lane], 0);
  return most[0] + poison[0];
}

// Index of the entry that is nearest; of the lower of two.
uint8_t NearestScale(const float* book, float value) {
  const float* above = std::lower_bound(book, book + 256, value);
  if (above == book + 256) return 255;
  if (above == book) return 0;
  return static_cast<uint8_t>(above - book - (*above - value < value - above[-1] ? 0 : 1));
}

// codes[i] = index of the entry that is nearest to values[i] / divisor; of the lower of two.
void NearestNf4(const float* values, float divisor, int32_t (&codes)[kNf4Block]) {
  float scaled[kNf4Block];
  for (int64_t i = 0; i < kNf4Block; ++i) scaled[i] = values[i] / divisor;
  for (int32_t& code : codes) code = 0;
  for (int entry = 0; entry < 15; ++entry) {
    const float middle = (kNf4Values[entry] + kNf4Values[entry + 1]) / 2;
    for (int64_t i = 0; i < kNf4Block; ++i) codes[i] += scaled[i] > middle ? 1 : 0;
  }
}

}  // namespace

const float* ScaleBook() {
  static const std::array<float, 256> book = MakeScaleBook();
  return book.data();
}

void QuantiseNf4(const float* values, int64_t count, uint8_t* codes, float* scales) {
  for (int64_t first = 0; first < count; first += kNf4Block) {
    const int64_t length = std::min(count - first, kNf4Block);
    const float scale = Magnitude(values + first, length);
    scales[first / kNf4Block] = scale;
    float block[kNf4Block] = {};
    std::copy_n(values + first, length, block);
    int32_t nearest[kNf4Block];
    NearestNf4(block, scale > 0 ? scale : 1, nearest);
    if (length % 2 == 1) nearest[length] = 0;
    for (int64_t i = 0; i < length; i += 2)
      codes[(first + i) / 2] = static_cast<uint8_t>(nearest[i] << 4 | nearest[i + 1]);
  }
}

float QuantiseScales(const float* scales, int64_t count, uint8_t* codes, float* scale_scales) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(scales[i]);
  const auto offset = static_cast<float>(sum / static_cast<double>(std::max<int64_t>(count, 1)));
  for (int64_t first = 0; first < count; first += kNf4ScaleBlock) {
    const int64_t end = std::min(count, first + kNf4ScaleBlock);
    float most = 0;
    for (int64_t i = first; i < end; ++i) most = std::max(most, std::fabs(scales[i] - offset));
    scale_scales[first / kNf4ScaleBlock] = most;
    const float divisor = most > 0 ? most : 1;
    for (int64_t i = first; i < end; ++i) codes[i] = NearestScale(ScaleBook(), (scales[i] - offset) / divisor);
  }
  return offset;
}

float QuantiseInt8(const float* values, int64_t count, int8_t* out) {
  const float scale = Magnitude(values, count) / 127;
  const float divisor = scale > 0 ? scale : 1;
  for (int64_t i = 0; i < count; ++i) {
    const float steps = std::nearbyint(values[i] / divisor);
    out[i] = static_cast<int8_t>(steps >= -127 && steps <= 127 ? steps : 0);
  }
  return scale;
}

void Decode(const Rows& m, int64_t first, int64_t count, float* out) {
  for (int64_t r = 0; r < count; ++r) DecodeRow(m, ScaleBook(), first + r, 0, m.cols, out + r * m.cols);
}

}  // namespace strata::kernels
