#include "common/adapter/adapter.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/str_join.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::adapter {
namespace {

constexpr std::string_view kPrefix = "base_model.model.";
constexpr size_t kMaxFaults = 20;

// A module's tensors as the file has them.
struct Parts {
  const format::TensorView* a = nullptr;
  const format::TensorView* b = nullptr;
  const format::TensorView* magnitude = nullptr;
};
using Slot = const format::TensorView* Parts::*;

constexpr std::array<std::pair<std::string_view, Slot>, 7> kSuffixes = {{
    {".lora_A.weight", &Parts::a},
    {".lora_A.default.weight", &Parts::a},
    {".lora_B.weight", &Parts::b},
    {".lora_B.default.weight", &Parts::b},
    {".lora_magnitude_vector", &Parts::magnitude},
    {".lora_magnitude_vector.weight", &Parts::magnitude},
    {".lora_magnitude_vector.default.weight", &Parts::magnitude},
}};

struct FactorName {
  std::string module;
  Slot slot = nullptr;
};

std::optional<FactorName> ParseFactorName(std::string_view name) {
  if (name.starts_with(kPrefix)) name.remove_prefix(kPrefix.size());
  for (const auto& [suffix, slot] : kSuffixes) {
    if (name.size() > suffix.size() && name.ends_with(suffix)) {
      return FactorName{std::string(name.substr(0, name.size() - suffix.size())), slot};
    }
  }
  return std::nullopt;
}

// What a name that is no LoRA factor belongs to, for the error message.
std::string_view Explain(std::string_view name) {
  if (name.find("lora_embedding_") != std::string_view::npos)
    return "a factor of an adapted embedding, which is not supported";
  if (name.find("modules_to_save") != std::string_view::npos)
    return "a whole module (modules_to_save), which is not supported";
  if (name.find("lm_head.") != std::string_view::npos)
    return "a part of the output head (lm_head), which cannot be adapted; exclude it";
  if (name.find(".base_layer.") != std::string_view::npos)
    return "a weight of the base model (PEFT stores that of an adapted embedding), which is not supported";
  if (name.ends_with(".bias")) return "a bias, which is not supported";
  return "not named like a LoRA factor (expected MODULE.lora_A.weight or MODULE.lora_B.weight)";
}

bool IsFloat(format::DType dtype) {
  return dtype == format::DType::kF32 || dtype == format::DType::kBF16 || dtype == format::DType::kF16 ||
         dtype == format::DType::kF64;
}

std::string ShapeOf(const format::TensorView& tensor) { return Cat("[", absl::StrJoin(tensor.shape, ", "), "]"); }

absl::Status CheckFactors(const Parts& parts) {
  const auto fault = [](auto&&... text) { return absl::InvalidArgumentError(Cat(text...)); };
  const bool any = parts.a != nullptr || parts.b != nullptr;
  if (parts.a == nullptr) return fault(any ? "lora_B" : "a magnitude vector", " is there, lora_A is missing");
  if (parts.b == nullptr) return fault("lora_A is there, lora_B is missing");
  for (const format::TensorView* tensor : {parts.a, parts.b, parts.magnitude}) {
    if (tensor == nullptr) continue;
    if (!IsFloat(tensor->dtype)) {
      return fault("'", tensor->name, "' is ", format::DTypeName(tensor->dtype), ", expected F32, BF16, F16 or F64");
    }
    if (tensor != parts.magnitude && tensor->shape.size() != 2) {
      return fault("'", tensor->name, "' has shape ", ShapeOf(*tensor), ", expected two dimensions");
    }
  }
  if (parts.a->shape[0] != parts.b->shape[1]) {
    return fault("lora_A ", ShapeOf(*parts.a), " and lora_B ", ShapeOf(*parts.b), " disagree about the rank");
  }
  if (parts.a->shape[1] <= 0 || parts.b->shape[0] <= 0) {
    return fault("lora_A ", ShapeOf(*parts.a), " and lora_B ", ShapeOf(*parts.b), " adapt a module without elements");
  }
  return absl::OkStatus();
}

absl::Status CheckMagnitude(const Parts& parts, bool use_dora) {
  if (parts.magnitude == nullptr) {
    return use_dora ? absl::InvalidArgumentError("use_dora is set, lora_magnitude_vector is missing")
                    : absl::OkStatus();
  }
  if (!use_dora) return absl::InvalidArgumentError("a magnitude vector of DoRA is there, use_dora is not set");
  const int64_t out = parts.b->shape[0];
  if (parts.magnitude->shape == std::vector<int64_t>{out}) return absl::OkStatus();
  return absl::InvalidArgumentError(
      Cat("'", parts.magnitude->name, "' has shape ", ShapeOf(*parts.magnitude), ", expected [", out, "]"));
}

// All the faults in one status, so that a site sees them at once.
class Faults {
 public:
  void Add(std::string fault) {
    ++count_;
    if (faults_.size() < kMaxFaults) faults_.push_back(std::move(fault));
  }
  absl::Status Status() const {
    if (count_ == 0) return absl::OkStatus();
    std::string text = absl::StrJoin(faults_, "; ");
    if (count_ > faults_.size()) text += Cat("; and ", count_ - faults_.size(), " more");
    return absl::InvalidArgumentError(text);
  }

 private:
  std::vector<std::string> faults_;
  size_t count_ = 0;
};

std::map<std::string, Parts> CollectParts(const std::vector<format::TensorView>& tensors, Faults& faults) {
  std::map<std::string, Parts> modules;
  for (const format::TensorView& tensor : tensors) {
    const std::optional<FactorName> name = ParseFactorName(tensor.name);
    if (!name.has_value()) {
      faults.Add(Cat("tensor '", tensor.name, "' is ", Explain(tensor.name)));
      continue;
    }
    const format::TensorView*& slot = modules[name->module].*name->slot;
    if (slot != nullptr) {
      faults.Add(Cat("tensors '", slot->name, "' and '", tensor.name, "' are the same factor"));
    }
    slot = &tensor;
  }
  return modules;
}

// `scaling` is that of the module and the rank that its factors have.
absl::StatusOr<Factors> FactorsOf(const std::string& module, const Parts& parts, Adapter::ScalingOf scaling,
                                  const void* context) {
  STRATA_RETURN_IF_ERROR(CheckFactors(parts));
  const int64_t rank = parts.a->shape[0];
  STRATA_ASSIGN_OR_RETURN(const Adapter::Scaling scale, scaling(context, module, rank));
  if (!std::isfinite(scale.scaling)) {
    return absl::InvalidArgumentError(Cat("the scaling is ", scale.scaling, ", expected a finite number"));
  }
  STRATA_RETURN_IF_ERROR(CheckMagnitude(parts, scale.use_dora));
  return Factors{.module = module,
                 .rank = rank,
                 .out = parts.b->shape[0],
                 .in = parts.a->shape[1],
                 .scaling = scale.scaling,
                 .alpha = scale.alpha,
                 .a = *parts.a,
                 .b = *parts.b,
                 .magnitude = parts.magnitude == nullptr ? format::TensorView() : *parts.magnitude};
}

}  // namespace

absl::StatusOr<Adapter> Adapter::FromTensors(format::Safetensors tensors, ScalingOf scaling, const void* context) {
  auto owner = std::make_shared<const format::Safetensors>(std::move(tensors));
  Faults faults;
  Adapter adapter;
  for (const auto& [module, parts] : CollectParts(owner->tensors(), faults)) {
    absl::StatusOr<Factors> factors = FactorsOf(module, parts, scaling, context);
    if (factors.ok()) {
      adapter.modules_.push_back(*std::move(factors));
    } else {
      faults.Add(Cat("module '", module, "': ", factors.status().message()));
    }
  }
  STRATA_RETURN_IF_ERROR(faults.Status());
  adapter.owner_ = std::move(owner);
  return adapter;
}

const Factors* Adapter::Find(std::string_view module) const {
  const auto found =
      std::lower_bound(modules_.begin(), modules_.end(), module,
                       [](const Factors& factors, std::string_view name) { return factors.module < name; });
  return found != modules_.end() && found->module == module ? &*found : nullptr;
}

uint64_t Adapter::num_parameters() const {
  uint64_t count = 0;
  for (const Factors& factors : modules_) {
    count += static_cast<uint64_t>(factors.rank) * static_cast<uint64_t>(factors.out + factors.in);
    if (factors.has_magnitude()) count += static_cast<uint64_t>(factors.out);
  }
  return count;
}

bool Adapter::has_magnitudes() const {
  return std::any_of(modules_.begin(), modules_.end(), [](const Factors& f) { return f.has_magnitude(); });
}

struct AdapterBuilder::Owned {
  Factors factors;
  std::vector<float> own_a, own_b, own_magnitude;
  std::span<const float> a, b, magnitude;  // of the own ones only once they have found their place
  std::shared_ptr<const void> keeper;      // of others
};

AdapterBuilder::AdapterBuilder() = default;
AdapterBuilder::~AdapterBuilder() = default;
AdapterBuilder::AdapterBuilder(AdapterBuilder&&) noexcept = default;
AdapterBuilder& AdapterBuilder::operator=(AdapterBuilder&&) noexcept = default;

void AdapterBuilder::Add(std::string module, int64_t rank, int64_t out, int64_t in, double alpha, double scaling,
                         std::vector<float> a, std::vector<float> b) {
  Owned owned;
  owned.factors = {.module = std::move(module),
                   .rank = rank,
                   .out = out,
                   .in = in,
                   .scaling = scaling,
                   .alpha = alpha,
                   .a = {},
                   .b = {},
                   .magnitude = {}};
  owned.own_a = std::move(a);
  owned.own_b = std::move(b);
  owned_.push_back(std::move(owned));
}

void AdapterBuilder::AddMagnitude(std::vector<float> magnitude) { owned_.back().own_magnitude = std::move(magnitude); }

void AdapterBuilder::AddShared(std::string module, int64_t rank, int64_t out, int64_t in, double alpha, double scaling,
                               const SharedValues& values) {
  Add(std::move(module), rank, out, in, alpha, scaling, {}, {});
  Owned& owned = owned_.back();
  owned.a = values.a;
  owned.b = values.b;
  owned.magnitude = values.magnitude;
  owned.keeper = values.keeper;
}

Adapter AdapterBuilder::Build() && {
  std::sort(owned_.begin(), owned_.end(),
            [](const Owned& x, const Owned& y) { return x.factors.module < y.factors.module; });
  auto owner = std::make_shared<std::vector<Owned>>(std::move(owned_));
  Adapter adapter;
  for (Owned& owned : *owner) {
    if (owned.keeper == nullptr) {
      owned.a = owned.own_a;
      owned.b = owned.own_b;
      owned.magnitude = owned.own_magnitude;
    }
    Factors factors = owned.factors;
    factors.a = {.name = PeftTensorName(factors.module, true),
                 .dtype = format::DType::kF32,
                 .shape = {factors.rank, factors.in},
                 .data = std::as_bytes(owned.a)};
    factors.b = {.name = PeftTensorName(factors.module, false),
                 .dtype = format::DType::kF32,
                 .shape = {factors.out, factors.rank},
                 .data = std::as_bytes(owned.b)};
    if (!owned.magnitude.empty()) {
      factors.magnitude = {.name = PeftMagnitudeName(factors.module),
                           .dtype = format::DType::kF32,
                           .shape = {factors.out},
                           .data = std::as_bytes(owned.magnitude)};
    }
    adapter.modules_.push_back(std::move(factors));
  }
  adapter.owner_ = std::move(owner);
  return adapter;
}

std::string PeftTensorName(std::string_view module, bool is_a) {
  return Cat(kPrefix, module, is_a ? ".lora_A.weight" : ".lora_B.weight");
}

std::string PeftMagnitudeName(std::string_view module) { return Cat(kPrefix, module, ".lora_magnitude_vector"); }

absl::Status RequireNoMagnitudes(const Adapter& adapter, std::string_view reason) {
  if (!adapter.has_magnitudes()) return absl::OkStatus();
  return absl::InvalidArgumentError(Cat("the adapter is a DoRA one (use_dora): ", reason));
}

}  // namespace strata::adapter
