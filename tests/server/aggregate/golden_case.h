// One case of tests/golden/aggregate: the sites' factors and what independent code makes of them.
#ifndef STRATA_TESTS_SERVER_AGGREGATE_GOLDEN_CASE_H_
#define STRATA_TESTS_SERVER_AGGREGATE_GOLDEN_CASE_H_

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/adapter/adapter.h"
#include "common/format/safetensors.h"
#include "common/runtime/runtime.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "server/aggregate/aggregate.h"
#include "tests/testing/golden.h"

namespace strata::testing {

inline std::vector<std::string> AggregateCases() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(GoldenDir("aggregate"))) {
    if (std::filesystem::exists(entry.path() / "case.json")) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

class GoldenCase {
 public:
  explicit GoldenCase(const std::string& name) : directory_(GoldenDir("aggregate/" + name)) {
    std::ifstream in(directory_ + "/case.json");
    json_ = nlohmann::json::parse(in);
    expected_.emplace(*format::Safetensors::Open(runtime_.get().files, directory_ + "/expected.safetensors"));
    adapters_.reserve(json_["clients"].size());
    for (const auto& client : json_["clients"]) {
      const std::string site = client["site"];
      auto adapter = adapter::Adapter::FromTensors(
          *format::Safetensors::Open(runtime_.get().files, directory_ + "/" + site + ".safetensors"), ScalingOf,
          &client["modules"]);
      EXPECT_TRUE(adapter.ok()) << adapter.status();
      adapters_.push_back(*std::move(adapter));
    }
  }

  runtime::FileSystem& files() { return runtime_.get().files; }
  const nlohmann::json& json() const { return json_; }
  const std::string& directory() const { return directory_; }

  std::vector<aggregate::Member> members() const {
    std::vector<aggregate::Member> members;
    for (size_t i = 0; i < adapters_.size(); ++i) {
      members.push_back(
          {.site = json_["clients"][i]["site"], .weight = json_["clients"][i]["weight"], .adapter = &adapters_[i]});
    }
    return members;
  }

  bool has(const std::string& tensor) const { return expected_->Find(tensor) != nullptr; }
  std::vector<double> expected(const std::string& tensor) const {
    const format::TensorView* view = expected_->Find(tensor);
    EXPECT_NE(view, nullptr) << tensor;
    if (view == nullptr) return {};
    std::vector<double> values(static_cast<size_t>(view->num_elements()));
    EXPECT_TRUE(format::ToDouble(*view, values).ok());
    return values;
  }

  // sum_j p_j s_j ||B_j|| ||A_j||
  double Gauge(const std::string& module) const {
    double gauge = 0;
    for (const aggregate::Member& member : members()) {
      const adapter::Factors* factors = member.adapter->Find(module);
      if (factors == nullptr) continue;
      gauge += member.weight * factors->scaling * NormOf(factors->a) * NormOf(factors->b);
    }
    return gauge;
  }

  static double Norm(const std::vector<double>& values) {
    double largest = 0;
    for (const double v : values) largest = std::max(largest, std::abs(v));
    if (largest == 0) return 0;
    double sum = 0;
    for (const double v : values) sum += (v / largest) * (v / largest);
    return largest * std::sqrt(sum);
  }
  static double NormOf(const format::TensorView& view) {
    std::vector<double> values(static_cast<size_t>(view.num_elements()));
    EXPECT_TRUE(format::ToDouble(view, values).ok());
    return Norm(values);
  }
  static double Distance(const std::vector<double>& x, const std::vector<double>& y) {
    EXPECT_EQ(x.size(), y.size());
    std::vector<double> difference(x.size());
    for (size_t i = 0; i < x.size() && i < y.size(); ++i) difference[i] = x[i] - y[i];
    return Norm(difference);
  }
  // b [out, rank] times a [rank, in].
  template <typename Element>
  static std::vector<double> Multiply(const std::vector<Element>& b, const std::vector<Element>& a, int64_t out,
                                      int64_t in) {
    const int64_t rank = static_cast<int64_t>(a.size()) / in;
    std::vector<double> product(static_cast<size_t>(out * in));
    for (int64_t i = 0; i < out; ++i) {
      for (int64_t r = 0; r < rank; ++r) {
        for (int64_t j = 0; j < in; ++j) {
          product[i * in + j] += static_cast<double>(b[i * rank + r]) * static_cast<double>(a[r * in + j]);
        }
      }
    }
    return product;
  }
  // scaling * B A of one module of an adapter; zero where it is absent.
  static std::vector<double> Product(const adapter::Adapter& adapter, const std::string& module, int64_t out,
                                     int64_t in) {
    const adapter::Factors* factors = adapter.Find(module);
    if (factors == nullptr) return std::vector<double>(static_cast<size_t>(out * in));
    std::vector<double> a(static_cast<size_t>(factors->rank * in));
    std::vector<double> b(static_cast<size_t>(out * factors->rank));
    EXPECT_TRUE(format::ToDouble(factors->a, a).ok());
    EXPECT_TRUE(format::ToDouble(factors->b, b).ok());
    for (double& value : b) value *= factors->scaling;
    return Multiply(b, a, out, in);
  }

 private:
  static absl::StatusOr<adapter::Adapter::Scaling> ScalingOf(const void* context, std::string_view module,
                                                             int64_t rank) {
    const auto& entry = static_cast<const nlohmann::json*>(context)->at(std::string(module));
    EXPECT_EQ(entry["r"], rank);
    return adapter::Adapter::Scaling{.scaling = entry["scaling"].is_null() ? 1.0 : entry["scaling"].get<double>(),
                                     .alpha = 0};
  }

  std::string directory_;
  runtime::SystemRuntime runtime_{1};
  nlohmann::json json_;
  std::optional<format::Safetensors> expected_;
  std::vector<adapter::Adapter> adapters_;
};

}  // namespace strata::testing

#endif  // STRATA_TESTS_SERVER_AGGREGATE_GOLDEN_CASE_H_
