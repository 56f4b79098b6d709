#include "client/model/non_finite.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <numeric>
#include <vector>

#include "common/status/cat.h"

namespace strata::model {
namespace {

bool AllFinite(const ModelFiles& model, const ModelTensor& tensor) {
  constexpr int64_t kBlockElements = int64_t{1} << 20;
  const int64_t rows = tensor.shape.front();
  const int64_t width = std::accumulate(tensor.shape.begin() + 1, tensor.shape.end(), int64_t{1}, std::multiplies<>());
  const int64_t step = std::max<int64_t>(1, kBlockElements / std::max<int64_t>(width, 1));
  std::vector<float> values;
  for (int64_t first = 0; first < rows; first += step) {
    values.resize(static_cast<size_t>(std::min(step, rows - first) * width));
    if (!model.ReadRows(tensor.name, first, values).ok()) return true;
    if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); })) return false;
  }
  return true;
}

}  // namespace

std::string NonFiniteWeight(const ModelFiles& model) {
  for (const ModelTensor& tensor : model.tensors()) {
    if (tensor.other_part || tensor.shape.empty()) continue;
    const bool finite = AllFinite(model, tensor);
    model.ReleasePages(tensor.name);
    if (finite) continue;
    const std::string& file = model.weight_files().size() == 1 ? model.weight_files().front() : model.path();
    return Cat("tensor '", tensor.name, "' of ", file, " holds elements that are not finite");
  }
  return "";
}

}  // namespace strata::model
