// What an update must be before it counts.
#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "common/format/tensor.h"
#include "common/linalg/factors.h"
#include "common/status/cat.h"
#include "server/aggregate/aggregate.h"

namespace strata::aggregate {
namespace {

constexpr size_t kMaxFaults = 50;  // more would not fit a status message

class Checker {
 public:
  explicit Checker(const UpdateRules& rules) : rules_(rules) {}

  void Check(const adapter::Factors& factors) {
    const bool shapes_fit = CheckTable(factors);
    CheckRank(factors);
    bool finite = CheckFinite(factors.a);
    finite = CheckFinite(factors.b) && finite;
    if (!std::isfinite(factors.scaling)) {
      Fault("module '", factors.module, "': scaling ", factors.scaling, " is not finite");
      finite = false;
    }
    can_measure_ = can_measure_ && finite && shapes_fit;
    if (can_measure_ && rules_.max_norm > 0) norms_.push_back(NormOf(factors));
  }

  absl::Status Finish() {
    if (rules_.max_norm > 0 && can_measure_) {
      const double norm = linalg::Norm(norms_.data(), static_cast<int64_t>(norms_.size()));
      if (!(norm <= rules_.max_norm))
        Fault("the update's norm is ", norm, ", at most ", rules_.max_norm, " is allowed");
    }
    if (count_ == 0) return absl::OkStatus();
    std::string text = absl::StrJoin(faults_, "; ");
    if (count_ > faults_.size()) text += Cat("; and ", count_ - faults_.size(), " more");
    return absl::InvalidArgumentError(Cat("the update is refused: ", text));
  }

 private:
  template <typename... Parts>
  void Fault(const Parts&... parts) {
    ++count_;
    if (faults_.size() < kMaxFaults) faults_.push_back(Cat(parts...));
  }

  bool CheckTable(const adapter::Factors& factors) {
    const auto known = std::find_if(rules_.modules.begin(), rules_.modules.end(),
                                    [&](const config::ModuleShape& shape) { return shape.name == factors.module; });
    if (known == rules_.modules.end()) {
      Fault("module '", factors.module, "' is not one of the base model's");
      return false;
    }
    if (known->out == factors.out && known->in == factors.in) return true;
    Fault("module '", factors.module, "': factors for [", factors.out, ", ", factors.in, "], the base model has [",
          known->out, ", ", known->in, "]");
    return false;
  }

  void CheckRank(const adapter::Factors& factors) {
    const auto assigned = std::find_if(rules_.max_rank.begin(), rules_.max_rank.end(),
                                       [&](const auto& entry) { return entry.first == factors.module; });
    if (assigned == rules_.max_rank.end()) {
      Fault("module '", factors.module, "' was not assigned");
    } else if (factors.rank > assigned->second) {
      Fault("module '", factors.module, "': rank ", factors.rank, " is over the assigned ", assigned->second);
    }
  }

  bool CheckFinite(const format::TensorView& tensor) {
    std::vector<double> values(static_cast<size_t>(tensor.num_elements()));
    if (const absl::Status status = format::ToDouble(tensor, values); !status.ok()) {
      Fault(status.message());
      return false;
    }
    const auto bad = std::find_if(values.begin(), values.end(), [](double value) { return !std::isfinite(value); });
    if (bad == values.end()) return true;
    const auto index = bad - values.begin();
    const int64_t columns = tensor.shape.back();
    Fault("tensor '", tensor.name, "' holds ", *bad, " at [", index / columns, ", ", index % columns, "]");
    return false;
  }

  static double NormOf(const adapter::Factors& factors) {
    const linalg::SingleThreadedBlas single_threaded;
    linalg::Matrix x(factors.out, factors.rank);
    linalg::Matrix y(factors.in, factors.rank);
    if (!linalg::WidenFactors(factors, x.data(), y.data()).ok()) return 0;
    return std::abs(factors.scaling) * linalg::ProductNorm(std::move(x), std::move(y));
  }

  const UpdateRules& rules_;
  std::vector<std::string> faults_;
  size_t count_ = 0;
  std::vector<double> norms_;
  bool can_measure_ = true;
};

}  // namespace

absl::Status ValidateUpdate(const adapter::Adapter& update, const UpdateRules& rules) {
  Checker checker(rules);
  for (const adapter::Factors& factors : update.modules()) checker.Check(factors);
  return checker.Finish();
}

}  // namespace strata::aggregate
