#include "client/export/merged_model.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "client/model/faults.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::exporting {
namespace {

constexpr std::string_view kWeight = ".weight";

// [rows, columns] as [columns, rows].
std::vector<float> Transposed(const std::vector<float>& matrix, int64_t rows, int64_t columns) {
  std::vector<float> out(matrix.size());
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) out[j * rows + i] = matrix[i * columns + j];
  }
  return out;
}

absl::StatusOr<std::vector<float>> Floats(const format::TensorView& view) {
  std::vector<float> values(static_cast<size_t>(view.num_elements()));
  STRATA_RETURN_IF_ERROR(format::ToFloat(view, values));
  return values;
}

bool AllFinite(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
}

// Joins one adapter's factors to the right of `left` [out, rank before] and below `right`.
absl::Status Join(const adapter::Factors& factors, int64_t total_rank, int64_t column, TensorUpdate& update) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<float> a, Floats(factors.a));
  STRATA_ASSIGN_OR_RETURN(const std::vector<float> b, Floats(factors.b));
  if (!AllFinite(a) || !AllFinite(b)) {
    return absl::InvalidArgumentError(
        Cat("module '", factors.module, "': a factor holds elements that are not finite"));
  }
  std::copy(a.begin(), a.end(), update.right.begin() + column * factors.in);
  const auto scaling = static_cast<float>(factors.scaling);
  for (int64_t row = 0; row < factors.out; ++row) {
    std::transform(b.begin() + row * factors.rank, b.begin() + (row + 1) * factors.rank,
                   update.left.begin() + row * total_rank + column, [scaling](float v) { return scaling * v; });
  }
  return absl::OkStatus();
}

}  // namespace

// Four columns of the product at a time: the row that is added to is read and written a quarter as often.
void TensorUpdate::ComputeRows(int64_t first_row, std::span<float> out) const {
  const int64_t rows = static_cast<int64_t>(out.size()) / width;
  for (int64_t row = 0; row < rows; ++row) {
    float* sum = out.data() + row * width;
    const float* factor = left.data() + (first_row + row) * rank;
    std::fill(sum, sum + width, 0.0F);
    int64_t k = 0;
    for (; k + 4 <= rank; k += 4) {
      const float* r = right.data() + k * width;
      for (int64_t j = 0; j < width; ++j) {
        sum[j] = (((sum[j] + factor[k] * r[j]) + factor[k + 1] * r[width + j]) + factor[k + 2] * r[2 * width + j]) +
                 factor[k + 3] * r[3 * width + j];
      }
    }
    for (; k < rank; ++k) {
      const float* r = right.data() + k * width;
      for (int64_t j = 0; j < width; ++j) sum[j] += factor[k] * r[j];
    }
  }
}

absl::StatusOr<MergedModel> MergedModel::Of(const model::ModelFiles& model,
                                            std::span<const adapter::Adapter> adapters) {
  std::map<std::string, config::ModuleShape> known;
  for (config::ModuleShape& shape : model.LinearModules()) known.emplace(shape.name, shape);
  MergedModel merged(model);
  model::Faults faults;
  for (const adapter::Adapter& adapter : adapters) {
    for (const adapter::Factors& factors : adapter.modules()) {
      const auto it = known.find(factors.module);
      if (it == known.end()) {
        faults.Add(Cat("module '", factors.module, "' is no linear module of the model",
                       factors.module == "lm_head" ? " (its head is the embedding)" : ""));
      } else if (it->second.out != factors.out || it->second.in != factors.in) {
        faults.Add(Cat("module '", factors.module, "': the adapter is for [", factors.out, ", ", factors.in,
                       "], the model has [", it->second.out, ", ", it->second.in, "]"));
      } else if (factors.rank > 0) {
        merged.parts_[factors.module].push_back(&factors);
      }
    }
  }
  STRATA_RETURN_IF_ERROR(faults.ToStatus(Cat("the adapter does not fit ", model.path())));
  return merged;
}

absl::StatusOr<TensorUpdate> MergedModel::UpdateOf(std::string_view tensor, bool input_major) const {
  if (!tensor.ends_with(kWeight)) return TensorUpdate{};
  const auto it = parts_.find(tensor.substr(0, tensor.size() - kWeight.size()));
  if (it == parts_.end()) return TensorUpdate{};
  const int64_t out = it->second.front()->out;
  const int64_t in = it->second.front()->in;
  TensorUpdate update;
  for (const adapter::Factors* factors : it->second) update.rank += factors->rank;
  update.left.resize(static_cast<size_t>(out * update.rank));
  update.right.resize(static_cast<size_t>(update.rank * in));
  int64_t column = 0;
  for (const adapter::Factors* factors : it->second) {
    STRATA_RETURN_IF_ERROR(Join(*factors, update.rank, column, update));
    column += factors->rank;
  }
  update.width = in;
  if (input_major) {
    std::vector<float> left = Transposed(update.right, update.rank, in);
    update.right = Transposed(update.left, out, update.rank);
    update.left = std::move(left);
    update.width = out;
  }
  return update;
}

void Rounding::Add(std::span<const float> base, std::span<const float> update, std::span<const float> stored) {
  for (size_t i = 0; i < update.size(); ++i) {
    const double change = static_cast<double>(update[i]);
    const double error = static_cast<double>(stored[i]) - static_cast<double>(base[i]) - change;
    error_squared += error * error;
    update_squared += change * change;
  }
}

double Rounding::Relative() const { return update_squared == 0 ? 0 : std::sqrt(error_squared / update_squared); }

}  // namespace strata::exporting
