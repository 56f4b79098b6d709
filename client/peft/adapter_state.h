// The trained factors: one flat fp32 buffer each for values, gradients and Adam's two moments, whatever the compute
// dtype.
#ifndef STRATA_CLIENT_PEFT_ADAPTER_STATE_H_
#define STRATA_CLIENT_PEFT_ADAPTER_STATE_H_

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/model/transformer.h"
#include "client/train/local_trainer.h"
#include "common/adapter/adapter.h"

namespace strata::peft {

// Where a module's factors lie in the flat buffers: A [rank, in], then B [out, rank], with DoRA the magnitude [out].
struct StateEntry {
  train::Target target;
  int64_t offset_a = 0, offset_b = 0, offset_magnitude = 0;
};
// One of them.
enum class Part { kA, kB, kMagnitude };
inline constexpr std::array<Part, 3> kParts = {Part::kA, Part::kB, Part::kMagnitude};

class AdapterState {
 public:
  // Everything zero. May throw LibTorch's exceptions (memory), as all of this class: call inside model::TorchGuard.
  AdapterState(std::vector<train::Target> targets, at::Device device);

  // PEFT's default: A uniform in +-1/sqrt(in) (kaiming_uniform with a = sqrt 5), drawn per module from Philox; B zero.
  // Magnitudes are left alone: they start as norms that the model knows (Transformer::ResetMagnitudes).
  void InitFresh(uint64_t seed, uint64_t round, const std::string& site);
  // Rows `first_rank..` of one module's A drawn anew, the same columns of its B set to zero.
  void InitFreshRows(const StateEntry& entry, int64_t first_rank, uint64_t seed, uint64_t round,
                     const std::string& site);
  // The adapter's stored values. INVALID_ARGUMENT: a module missing, or of another shape.
  absl::Status Assign(const adapter::Adapter& adapter);

  const std::vector<StateEntry>& entries() const { return entries_; }
  at::Tensor A(const StateEntry& entry) const { return View(values_, entry, Part::kA); }
  at::Tensor B(const StateEntry& entry) const { return View(values_, entry, Part::kB); }
  // Undefined where the module has no such part.
  at::Tensor Value(const StateEntry& entry, Part part) const { return View(values_, entry, part); }
  at::Tensor Gradient(const StateEntry& entry, Part part) const { return View(gradients_, entry, part); }

  const at::Tensor& values() const { return values_; }
  const at::Tensor& gradients() const { return gradients_; }
  const at::Tensor& first_moments() const { return first_; }
  const at::Tensor& second_moments() const { return second_; }

  // Views for Transformer::SetTrained; valid while this object lives.
  std::vector<model::NamedFactors> Factors() const;
  // A copy of the values; or the values themselves, once nothing trains them any more, and nothing else is left.
  adapter::Adapter ToAdapter() const&;
  adapter::Adapter ToAdapter() &&;

 private:
  adapter::Adapter AdapterOf(at::Tensor values) const;
  static at::Tensor View(const at::Tensor& flat, const StateEntry& entry, Part part);
  std::vector<StateEntry> entries_;
  at::Tensor values_, gradients_, first_, second_;
};

// fp32 tensors of an adapter's factors on `device`, for Transformer::SetBase.
absl::StatusOr<std::vector<model::NamedFactors>> FrozenFactors(const adapter::Adapter& adapter, at::Device device);
// A copy of a tensor as a plain vector, row-major.
std::vector<float> ToVector(const at::Tensor& tensor);

}  // namespace strata::peft

#endif  // STRATA_CLIENT_PEFT_ADAPTER_STATE_H_
