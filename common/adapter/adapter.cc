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
constexpr std::array<std::string_view, 2> kSuffixesOfA = {".lora_A.weight", ".lora_A.default.weight"};
constexpr std::array<std::string_view, 2> kSuffixesOfB = {".lora_B.weight", ".lora_B.default.weight"};
constexpr size_t kMaxFaults = 20;

struct FactorName {
  std::string module;
  bool is_a = false;
};

std::optional<FactorName> ParseFactorName(std::string_view name) {
  if (name.starts_with(kPrefix)) name.remove_prefix(kPrefix.size());
  for (const bool is_a : {true, false}) {
    for (const std::string_view suffix : is_a ? kSuffixesOfA : kSuffixesOfB) {
      if (name.size() > suffix.size() && name.ends_with(suffix)) {
        return FactorName{std::string(name.substr(0, name.size() - suffix.size())), is_a};
      }
    }
  }
  return std::nullopt;
}

// What a name that is no LoRA factor belongs to, for the error message.
std::string_view Explain(std::string_view name) {
  if (name.find("lora_magnitude_vector") != std::string_view::npos)
    return "a magnitude vector of DoRA, which is not supported";
  if (name.find("lora_embedding_") != std::string_view::npos)
    return "a factor of an adapted embedding, which is not supported";
  if (name.find("modules_to_save") != std::string_view::npos)
    return "a whole module (modules_to_save), which is not supported";
  if (name.ends_with(".bias")) return "a bias, which is not supported";
  return "not named like a LoRA factor (expected MODULE.lora_A.weight or MODULE.lora_B.weight)";
}

bool IsFloat(format::DType dtype) {
  return dtype == format::DType::kF32 || dtype == format::DType::kBF16 || dtype == format::DType::kF16 ||
         dtype == format::DType::kF64;
}

std::string ShapeOf(const format::TensorView& tensor) { return Cat("[", absl::StrJoin(tensor.shape, ", "), "]"); }

struct Pair {
  const format::TensorView* a = nullptr;
  const format::TensorView* b = nullptr;
};

absl::Status CheckPair(const std::string& module, const Pair& pair) {
  const auto fault = [&module](auto&&... parts) {
    return absl::InvalidArgumentError(Cat("module '", module, "': ", parts...));
  };
  if (pair.a == nullptr) return fault("lora_B is there, lora_A is missing");
  if (pair.b == nullptr) return fault("lora_A is there, lora_B is missing");
  for (const format::TensorView* tensor : {pair.a, pair.b}) {
    if (!IsFloat(tensor->dtype)) {
      return fault("'", tensor->name, "' is ", format::DTypeName(tensor->dtype), ", expected F32, BF16, F16 or F64");
    }
    if (tensor->shape.size() != 2) {
      return fault("'", tensor->name, "' has shape ", ShapeOf(*tensor), ", expected two dimensions");
    }
  }
  if (pair.a->shape[0] != pair.b->shape[1]) {
    return fault("lora_A ", ShapeOf(*pair.a), " and lora_B ", ShapeOf(*pair.b), " disagree about the rank");
  }
  if (pair.a->shape[1] <= 0 || pair.b->shape[0] <= 0) {
    return fault("lora_A ", ShapeOf(*pair.a), " and lora_B ", ShapeOf(*pair.b), " adapt a module without elements");
  }
  return absl::OkStatus();
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

std::map<std::string, Pair> CollectPairs(const std::vector<format::TensorView>& tensors, Faults& faults) {
  std::map<std::string, Pair> pairs;
  for (const format::TensorView& tensor : tensors) {
    const std::optional<FactorName> name = ParseFactorName(tensor.name);
    if (!name.has_value()) {
      faults.Add(Cat("tensor '", tensor.name, "' is ", Explain(tensor.name)));
      continue;
    }
    const format::TensorView*& slot = name->is_a ? pairs[name->module].a : pairs[name->module].b;
    if (slot != nullptr) {
      faults.Add(Cat("tensors '", slot->name, "' and '", tensor.name, "' are the same factor"));
    }
    slot = &tensor;
  }
  return pairs;
}

}  // namespace

absl::StatusOr<Adapter> Adapter::FromTensors(format::Safetensors tensors, ScalingOf scaling, const void* context) {
  auto owner = std::make_shared<const format::Safetensors>(std::move(tensors));
  Faults faults;
  Adapter adapter;
  for (const auto& [module, pair] : CollectPairs(owner->tensors(), faults)) {
    if (const absl::Status status = CheckPair(module, pair); !status.ok()) {
      faults.Add(std::string(status.message()));
      continue;
    }
    const int64_t rank = pair.a->shape[0];
    const absl::StatusOr<Scaling> scale = scaling(context, module, rank);
    if (!scale.ok()) {
      faults.Add(Cat("module '", module, "': ", scale.status().message()));
      continue;
    }
    if (!std::isfinite(scale->scaling)) {
      faults.Add(Cat("module '", module, "': the scaling is ", scale->scaling, ", expected a finite number"));
      continue;
    }
    adapter.modules_.push_back({.module = module,
                                .rank = rank,
                                .out = pair.b->shape[0],
                                .in = pair.a->shape[1],
                                .scaling = scale->scaling,
                                .alpha = scale->alpha,
                                .a = *pair.a,
                                .b = *pair.b});
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
  }
  return count;
}

struct AdapterBuilder::Owned {
  Factors factors;
  std::vector<float> a, b;
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
                   .b = {}};
  owned.a = std::move(a);
  owned.b = std::move(b);
  owned_.push_back(std::move(owned));
}

Adapter AdapterBuilder::Build() && {
  std::sort(owned_.begin(), owned_.end(),
            [](const Owned& x, const Owned& y) { return x.factors.module < y.factors.module; });
  auto owner = std::make_shared<std::vector<Owned>>(std::move(owned_));
  Adapter adapter;
  for (Owned& owned : *owner) {
    Factors factors = owned.factors;
    factors.a = {.name = PeftTensorName(factors.module, true),
                 .dtype = format::DType::kF32,
                 .shape = {factors.rank, factors.in},
                 .data = std::as_bytes(std::span(owned.a))};
    factors.b = {.name = PeftTensorName(factors.module, false),
                 .dtype = format::DType::kF32,
                 .shape = {factors.out, factors.rank},
                 .data = std::as_bytes(std::span(owned.b))};
    adapter.modules_.push_back(std::move(factors));
  }
  adapter.owner_ = std::move(owner);
  return adapter;
}

std::string PeftTensorName(std::string_view module, bool is_a) {
  return Cat(kPrefix, module, is_a ? ".lora_A.weight" : ".lora_B.weight");
}

}  // namespace strata::adapter
