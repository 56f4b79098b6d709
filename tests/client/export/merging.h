// A golden model on a disk in memory with a golden adapter to merge.
#ifndef STRATA_TESTS_CLIENT_EXPORT_MERGING_H_
#define STRATA_TESTS_CLIENT_EXPORT_MERGING_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "client/export/merged_model.h"
#include "tests/client/model/model_folder.h"

namespace strata::exporting {

inline std::vector<float> Floats(const format::TensorView& view) {
  std::vector<float> values(static_cast<size_t>(view.num_elements()));
  EXPECT_OK(format::ToFloat(view, values));
  return values;
}

class MergeTest : public ::testing::Test {
 protected:
  // The model is at /m, the adapter (none where its name is empty) at /a.
  void Take(const std::string& model, const std::string& adapter) {
    folder_ = std::make_unique<model::ModelFolder>(model);
    TakeAdapter(adapter);
  }
  void TakeAdapter(const std::string& adapter) {
    adapters_.clear();
    if (adapter.empty()) return;
    folder_->Copy(testing::GoldenDir("lora/" + adapter), "/a");
    ASSERT_OK_AND_ASSIGN(auto read, adapter::ReadPeft(files(), "/a"));
    adapters_.push_back(std::move(read.first));
  }
  runtime::FileSystem& files() { return folder_->files(); }
  // Opens PATH as the base; the result lives as long as the fixture.
  MergedModel Merged(const std::string& path = "/m") {
    models_.push_back(folder_->Open(path).value());
    return MergedModel::Of(*models_.back(), adapters_).value();
  }
  // C of one element, added up in the order of the rank in fp32, as the contract says.
  static float UpdateAt(const adapter::Factors& factors, const std::vector<float>& a, const std::vector<float>& b,
                        int64_t row, int64_t column) {
    float sum = 0;
    for (int64_t k = 0; k < factors.rank; ++k) {
      sum += static_cast<float>(factors.scaling) * b[row * factors.rank + k] * a[k * factors.in + column];
    }
    return sum;
  }
  // W0 + C of a tensor of the model at /m, in fp32.
  std::vector<float> Expected(const model::ModelTensor& tensor) {
    std::vector<float> values = model::ReadTensor(*folder_->Open().value(), tensor);
    for (const adapter::Adapter& adapter : adapters_) {
      const adapter::Factors* factors = adapter.Find(tensor.name.substr(0, tensor.name.rfind('.')));
      if (factors == nullptr || !tensor.name.ends_with(".weight")) continue;
      const std::vector<float> a = Floats(factors->a);
      const std::vector<float> b = Floats(factors->b);
      for (int64_t i = 0; i < factors->out; ++i) {
        for (int64_t j = 0; j < factors->in; ++j) values[i * factors->in + j] += UpdateAt(*factors, a, b, i, j);
      }
    }
    return values;
  }

  std::unique_ptr<model::ModelFolder> folder_;
  std::vector<adapter::Adapter> adapters_;
  std::vector<std::unique_ptr<model::ModelFiles>> models_;
};

}  // namespace strata::exporting

#endif  // STRATA_TESTS_CLIENT_EXPORT_MERGING_H_
