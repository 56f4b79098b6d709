// Everything that is wrong with a model, told at once.
#ifndef STRATA_CLIENT_MODEL_FAULTS_H_
#define STRATA_CLIENT_MODEL_FAULTS_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace strata::model {

class Faults {
 public:
  // Keeps the first 20 and counts the others.
  void Add(std::string fault);
  bool empty() const { return count_ == 0; }
  // OK when empty; else `place`: the only fault, or a line per fault.
  absl::Status ToStatus(std::string_view place, absl::StatusCode code = absl::StatusCode::kInvalidArgument) const;

 private:
  std::vector<std::string> shown_;
  size_t count_ = 0;
};

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_FAULTS_H_
