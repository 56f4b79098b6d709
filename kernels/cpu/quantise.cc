#include <algorithm>
#include <cmath>

#include "kernels/cpu/code_books.h"
#include "kernels/ops.h"

namespace strata::kernels {
namespace {

// Midpoints of each power of ten's range [0.1, 1] cut into 1, 2, 4 .. 64 equal parts, both signs, 0 and 1. The cuts are
// rounded as torch.linspace rounds them.
void FillScales(float* out) {
  constexpr float kPowers[] = {1e-6F, 1e-5F, 1e-4F, 1e-3F, 1e-2F, 1e-1F, 1};
  int next = 0;
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
  std::sort(out, out + next);
}

CodeBooks MakeBooks() {
  CodeBooks books;
  for (int byte = 0; byte < 256; ++byte) {
    books.nf4_pairs[byte][0] = kNf4Values[byte >> 4];
    books.nf4_pairs[byte][1] = kNf4Values[byte & 15];
  }
  FillScales(books.scales);
  return books;
}

// The largest magnitude; NaN where a value is not finite, so that it shows in whatever is computed with the scale.
float Magnitude(const float* values, int64_t count) {
  float most = 0;
  float poison = 0;
  for (int64_t i = 0; i < count; ++i) {
    most = std::max(most, std::fabs(values[i]));
    poison += values[i] * 0;
  }
  return most + poison;
}

// Index of the entry that is nearest; of the lower of two.
uint8_t NearestScale(const float* book, float value) {
  const float* above = std::lower_bound(book, book + 256, value);
  if (above == book + 256) return 255;
  if (above == book) return 0;
  return static_cast<uint8_t>(above - book - (*above - value < value - above[-1] ? 0 : 1));
}

uint8_t NearestNf4(float value) {
  int code = 0;
  for (int i = 0; i < 15; ++i) code += value > (kNf4Values[i] + kNf4Values[i + 1]) / 2 ? 1 : 0;
  return static_cast<uint8_t>(code);
}

}  // namespace

const CodeBooks& Books() {
  static const CodeBooks books = MakeBooks();
  return books;
}

void QuantiseNf4(const float* values, int64_t count, uint8_t* codes, float* scales) {
  for (int64_t first = 0; first < count; first += kNf4Block) {
    const int64_t end = std::min(count, first + kNf4Block);
    const float scale = Magnitude(values + first, end - first);
    scales[first / kNf4Block] = scale;
    const float divisor = scale > 0 ? scale : 1;
    uint8_t block[kNf4Block] = {};
    for (int64_t i = first; i < end; ++i) block[i - first] = NearestNf4(values[i] / divisor);
    for (int64_t i = first; i < end; i += 2)
      codes[i / 2] = static_cast<uint8_t>(block[i - first] << 4 | (i + 1 < end ? block[i - first + 1] : 0));
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
    for (int64_t i = first; i < end; ++i) codes[i] = NearestScale(Books().scales, (scales[i] - offset) / divisor);
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

}  // namespace strata::kernels
