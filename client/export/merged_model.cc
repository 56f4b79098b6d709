#include "client/export/merged_model.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "client/model/faults.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::exporting {
namespace {

constexpr std::string_view kWeight = ".weight";
constexpr int64_t kBlockElements = int64_t{1} << 20;

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

// s B and A of one adapter.
absl::StatusOr<TensorUpdate> ProductOf(const adapter::Factors& factors) {
  TensorUpdate update;
  update.rank = factors.rank;
  update.width = factors.in;
  STRATA_ASSIGN_OR_RETURN(update.right, Floats(factors.a));
  STRATA_ASSIGN_OR_RETURN(update.left, Floats(factors.b));
  if (!AllFinite(update.right) || !AllFinite(update.left)) {
    return absl::InvalidArgumentError(
        Cat("module '", factors.module, "': a factor holds elements that are not finite"));
  }
  const auto scaling = static_cast<float>(factors.scaling);
  for (float& value : update.left) value *= scaling;
  return update;
}

// Norms of the module's rows, the tensor with `update` [out, in] added.
absl::StatusOr<std::vector<double>> RowNorms(const model::ModelFiles& model, const model::ModelTensor& tensor,
                                             TensorUpdate update) {
  const int64_t rows = tensor.shape[0];
  const int64_t width = tensor.shape[1];
  if (tensor.input_major) update.Turn();
  std::vector<double> norms(static_cast<size_t>(tensor.input_major ? width : rows));
  std::vector<float> base, added;
  const int64_t step = std::max<int64_t>(1, kBlockElements / width);
  for (int64_t first = 0; first < rows; first += step) {
    base.resize(static_cast<size_t>(std::min(step, rows - first) * width));
    added.resize(base.size());
    STRATA_RETURN_IF_ERROR(model.ReadRows(tensor.name, first, base));
    update.ComputeRows(first, base, added);
    for (size_t i = 0; i < base.size(); ++i) {
      const double value = static_cast<double>(base[i]) + static_cast<double>(added[i]);
      const auto at = static_cast<int64_t>(i);
      norms[static_cast<size_t>(tensor.input_major ? at % width : first + at / width)] += value * value;
    }
  }
  for (double& norm : norms) norm = std::sqrt(norm);
  return norms;
}

// Turns s B A of a module with a magnitude into all that it adds. A row whose norm is 0 is left as it is.
absl::Status ApplyMagnitude(const model::ModelFiles& model, const model::ModelTensor& tensor,
                            const adapter::Factors& factors, TensorUpdate& update) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<float> magnitude, Floats(factors.magnitude));
  if (!AllFinite(magnitude)) {
    return absl::InvalidArgumentError(
        Cat("module '", factors.module, "': the magnitude holds elements that are not finite"));
  }
  STRATA_ASSIGN_OR_RETURN(const std::vector<double> norms, RowNorms(model, tensor, update));
  update.shares.resize(magnitude.size());
  for (size_t row = 0; row < magnitude.size(); ++row) {
    const double gain = norms[row] > 0 ? static_cast<double>(magnitude[row]) / norms[row] : 1;
    update.shares[row] = static_cast<float>(gain - 1);
    for (int64_t k = 0; k < update.rank; ++k) {
      float& value = update.left[row * static_cast<size_t>(update.rank) + static_cast<size_t>(k)];
      value = static_cast<float>(gain * static_cast<double>(value));
    }
  }
  return absl::OkStatus();
}

// Joins `part` to the right of the columns of `update.left` before `column`, and below these rows of `update.right`.
void Join(const TensorUpdate& part, int64_t column, TensorUpdate& update) {
  std::copy(part.right.begin(), part.right.end(), update.right.begin() + column * update.width);
  const int64_t rows = static_cast<int64_t>(part.left.size()) / part.rank;
  for (int64_t row = 0; row < rows; ++row) {
    std::copy_n(part.left.begin() + row * part.rank, part.rank, update.left.begin() + row * update.rank + column);
  }
  if (part.shares.empty()) return;
  update.shares.resize(part.shares.size());
  std::transform(part.shares.begin(), part.shares.end(), update.shares.begin(), update.shares.begin(), std::plus<>());
}

}  // namespace

// Four columns of the product at a time: the row that is added to is read and written a quarter as often.
void TensorUpdate::ComputeRows(int64_t first_row, std::span<const float> base, std::span<float> out) const {
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
    if (shares.empty()) continue;
    for (int64_t j = 0; j < width; ++j) {
      sum[j] += shares[outputs_are_columns ? j : first_row + row] * base[row * width + j];
    }
  }
}

void TensorUpdate::Turn() {
  const int64_t rows = static_cast<int64_t>(left.size()) / rank;
  std::vector<float> turned = Transposed(right, rank, width);
  right = Transposed(left, rows, rank);
  left = std::move(turned);
  width = rows;
  outputs_are_columns = !outputs_are_columns;
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

absl::StatusOr<TensorUpdate> MergedModel::UpdateOf(const model::ModelTensor& tensor, bool input_major) const {
  const std::string_view name = tensor.name;
  if (!name.ends_with(kWeight)) return TensorUpdate{};
  const auto it = parts_.find(name.substr(0, name.size() - kWeight.size()));
  if (it == parts_.end()) return TensorUpdate{};
  TensorUpdate update;
  update.width = it->second.front()->in;
  for (const adapter::Factors* factors : it->second) update.rank += factors->rank;
  update.left.resize(static_cast<size_t>(it->second.front()->out * update.rank));
  update.right.resize(static_cast<size_t>(update.rank * update.width));
  int64_t column = 0;
  for (const adapter::Factors* factors : it->second) {
    STRATA_ASSIGN_OR_RETURN(TensorUpdate part, ProductOf(*factors));
    if (factors->has_magnitude()) STRATA_RETURN_IF_ERROR(ApplyMagnitude(*model_, tensor, *factors, part));
    Join(part, column, update);
    column += factors->rank;
  }
  if (input_major) update.Turn();
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
