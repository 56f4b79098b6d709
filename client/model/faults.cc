#include "client/model/faults.h"

#include <utility>

#include "common/status/cat.h"

namespace strata::model {
namespace {

constexpr size_t kShown = 20;

}  // namespace

void Faults::Add(std::string fault) {
  if (++count_ <= kShown) shown_.push_back(std::move(fault));
}

absl::Status Faults::ToStatus(std::string_view place, absl::StatusCode code) const {
  if (empty()) return absl::OkStatus();
  if (count_ == 1) return {code, Cat(place, ": ", shown_.front())};
  std::string message = Cat(place, ": ", count_, " faults");
  for (const std::string& fault : shown_) message += Cat("\n  ", fault);
  if (count_ > shown_.size()) message += Cat("\n  and ", count_ - shown_.size(), " more");
  return {code, message};
}

}  // namespace strata::model
