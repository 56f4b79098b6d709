// A base model with adapters merged into its weights, read tensor by tensor: W0 + sum of s B A; an adapter with
// magnitudes m (DoRA) adds m * (W0 + s B A) / ||W0 + s B A|| - W0, row by row, instead.
#ifndef STRATA_CLIENT_EXPORT_MERGED_MODEL_H_
#define STRATA_CLIENT_EXPORT_MERGED_MODEL_H_

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/model/model_files.h"
#include "common/adapter/adapter.h"

namespace strata::exporting {

// What merging one tensor adds to it: a product of fp32 matrices, left [rows, rank] and right [rank, width], and from
// magnitudes a share of the tensor itself.
struct TensorUpdate {
  int64_t rank = 0, width = 0;
  std::vector<float> left, right;
  std::vector<float> shares;         // one for each output of the module; empty: none
  bool outputs_are_columns = false;  // of the tensor

  bool empty() const { return rank == 0; }
  // Rows [first_row, first_row + out.size() / width); each element of the product is a sum over the rank in order.
  // `base`: these rows as they are.
  void ComputeRows(int64_t first_row, std::span<const float> base, std::span<float> out) const;
  // Of the transpose.
  void Turn();
};

// Borrows the model and the adapters. Const use is thread-safe.
class MergedModel {
 public:
  // INVALID_ARGUMENT, naming every module: one that the model does not have as a linear module, of other extents, with
  // an element that is not finite.
  static absl::StatusOr<MergedModel> Of(const model::ModelFiles& model, std::span<const adapter::Adapter> adapters);

  const model::ModelFiles& model() const { return *model_; }
  // Whether the model's files are GGUF, not an HF directory.
  bool from_gguf() const { return model_->weight_files().front() == model_->path(); }
  size_t num_modules() const { return parts_.size(); }
  // Empty for a tensor that no adapter changes. `input_major`: of the transpose, [in, out]. Magnitudes have the tensor
  // read once, for its norms.
  absl::StatusOr<TensorUpdate> UpdateOf(const model::ModelTensor& tensor, bool input_major) const;

 private:
  explicit MergedModel(const model::ModelFiles& model) : model_(&model) {}
  const model::ModelFiles* model_;
  std::map<std::string, std::vector<const adapter::Factors*>, std::less<>> parts_;  // by module
};

// How far what was stored is from W0 + C, over the tensors that were changed.
struct Rounding {
  double error_squared = 0, update_squared = 0;
  void Add(std::span<const float> base, std::span<const float> update, std::span<const float> stored);
  // ||round(W0 + C) - W0 - C|| / ||C||; 0 where C is.
  double Relative() const;
};

}  // namespace strata::exporting

#endif  // STRATA_CLIENT_EXPORT_MERGED_MODEL_H_
