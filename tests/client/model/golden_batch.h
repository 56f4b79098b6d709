// Golden vectors as tensors and packed batches.
#ifndef STRATA_TESTS_CLIENT_MODEL_GOLDEN_BATCH_H_
#define STRATA_TESTS_CLIENT_MODEL_GOLDEN_BATCH_H_

#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "client/data/dataset.h"
#include "common/format/safetensors.h"
#include "common/runtime/runtime.h"

namespace strata::testing {

inline runtime::FileSystem& Files() {
  static runtime::SystemRuntime system(1);
  return system.get().files;
}

inline format::Safetensors OpenGolden(const std::string& path) {
  absl::StatusOr<format::Safetensors> file = format::Safetensors::Open(Files(), path);
  if (!file.ok()) throw std::runtime_error(file.status().ToString());
  return *std::move(file);
}

// A copy: int64 stays, floats become fp32 or fp64 as stored.
inline at::Tensor Tensor(const format::Safetensors& file, const std::string& name) {
  const format::TensorView* view = file.Find(name);
  if (view == nullptr) throw std::runtime_error("golden file lacks " + name);
  const at::ScalarType type = view->dtype == format::DType::kI64   ? at::kLong
                              : view->dtype == format::DType::kF64 ? at::kDouble
                                                                   : at::kFloat;
  at::Tensor out = at::empty(view->shape, type);
  if (type == at::kFloat) {
    if (!format::ToFloat(*view, {out.data_ptr<float>(), static_cast<size_t>(out.numel())}).ok()) {
      throw std::runtime_error("golden file: " + name + " is no float tensor");
    }
  } else {
    std::memcpy(out.data_ptr(), view->data.data(), view->data.size());
  }
  return out;
}

// The rows of [B, T] ids with their padding cut off on both sides; positions count from the row's start, padding
// included, as the reference does.
inline std::vector<data::Example> GoldenRows(const at::Tensor& ids, const at::Tensor& mask, const at::Tensor& labels) {
  std::vector<data::Example> rows;
  for (int64_t b = 0; b < ids.size(0); ++b) {
    data::Example row;
    for (int64_t t = 0; t < ids.size(1); ++t) {
      if (mask[b][t].item<int64_t>() == 0) continue;
      row.ids.push_back(static_cast<int32_t>(ids[b][t].item<int64_t>()));
      row.labels.push_back(static_cast<int32_t>(labels[b][t].item<int64_t>()));
      row.position_ids.push_back(static_cast<int32_t>(t));
    }
    rows.push_back(row);
  }
  return rows;
}

// Laid out by hand, so that the tests of the model do not lean on client/data.
inline data::PackedBatch PackRows(const std::vector<data::Example>& rows) {
  data::PackedBatch batch;
  batch.starts.push_back(0);
  for (const data::Example& row : rows) {
    for (size_t i = 0; i < row.ids.size(); ++i) {
      batch.ids.push_back(row.ids[i]);
      batch.targets.push_back(i + 1 < row.ids.size() ? row.labels[i + 1] : -100);
      batch.positions.push_back(row.position_ids.empty() ? static_cast<int32_t>(i) : row.position_ids[i]);
      batch.num_targets += batch.targets.back() >= 0 ? 1 : 0;
    }
    batch.starts.push_back(static_cast<int32_t>(batch.ids.size()));
  }
  return batch;
}

// Rows of [B, T, X] where the mask is set, laid end to end like PackRows does: [tokens, X].
inline at::Tensor AtTokens(const at::Tensor& padded, const at::Tensor& mask) {
  return padded.flatten(0, 1).index_select(0, mask.flatten().nonzero().flatten());
}

inline double MaxDifference(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kCPU, at::kDouble) - b.to(at::kCPU, at::kDouble)).abs().max().item<double>();
}
inline double RelativeNorm(const at::Tensor& a, const at::Tensor& expected) {
  const double size = expected.to(at::kCPU, at::kDouble).norm().item<double>();
  const double difference = (a.to(at::kCPU, at::kDouble) - expected.to(at::kCPU, at::kDouble)).norm().item<double>();
  return size > 0 ? difference / size : difference;
}

}  // namespace strata::testing

#endif  // STRATA_TESTS_CLIENT_MODEL_GOLDEN_BATCH_H_
