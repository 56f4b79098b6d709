// A LoRA adapter as data: factors per module, their scaling, and PEFT's directory format.
#ifndef STRATA_COMMON_ADAPTER_ADAPTER_H_
#define STRATA_COMMON_ADAPTER_ADAPTER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/config/options.h"
#include "common/format/safetensors.h"
#include "common/format/tensor.h"
#include "common/runtime/file_system.h"

namespace strata::adapter {

// One adapted linear module: dW = scaling * B A with A [rank, in], B [out, rank]. With a magnitude m (DoRA, arXiv
// 2402.09353) the weight becomes m * (W + dW) / ||W + dW||, row by row.
struct Factors {
  std::string module;  // HF name without PEFT's prefixes and suffixes: model.layers.0.self_attn.q_proj
  int64_t rank = 0, out = 0, in = 0;
  double scaling = 1;  // alpha / rank, or alpha / sqrt(rank) for rsLoRA
  double alpha = 0;
  format::TensorView a, b;       // F32, BF16, F16 or F64, as stored
  format::TensorView magnitude;  // [out], of the same types; no shape: there is none
  bool has_magnitude() const { return !magnitude.shape.empty(); }
};

// Factors of an adapter by module name, in byte order of names, and the bytes they look into. Move-only; const use is
// thread-safe.
class Adapter {
 public:
  // From the bytes of an adapter_model.safetensors and what its config or manifest says of scalings: `scaling(module,
  // rank)`. INVALID_ARGUMENT: names that are not LoRA factors, a lone A or B, ranks that differ, dtypes that are no
  // floats, a magnitude missing or too much.
  struct Scaling {
    double scaling = 1;
    double alpha = 0;
    bool use_dora = false;  // the module must have a magnitude; else it must not
  };
  using ScalingOf = absl::StatusOr<Scaling> (*)(const void* context, std::string_view module, int64_t rank);
  static absl::StatusOr<Adapter> FromTensors(format::Safetensors tensors, ScalingOf scaling, const void* context);

  const std::vector<Factors>& modules() const { return modules_; }
  const Factors* Find(std::string_view module) const;
  uint64_t num_parameters() const;
  bool has_magnitudes() const;

  Adapter(Adapter&&) = default;
  Adapter& operator=(Adapter&&) = default;

 private:
  friend class AdapterBuilder;
  Adapter() = default;
  std::vector<Factors> modules_;
  std::shared_ptr<const void> owner_;  // keeps the views alive
};

// Collects fp32 factors into an Adapter.
class AdapterBuilder {
 public:
  AdapterBuilder();
  ~AdapterBuilder();
  AdapterBuilder(AdapterBuilder&&) noexcept;
  AdapterBuilder& operator=(AdapterBuilder&&) noexcept;
  // `a` is [rank, in], `b` [out, rank], row-major; both are taken over.
  void Add(std::string module, int64_t rank, int64_t out, int64_t in, double alpha, double scaling,
           std::vector<float> a, std::vector<float> b);
  // Of the module added last; [out].
  void AddMagnitude(std::vector<float> magnitude);
  // Numbers that `keeper` keeps alive and that nothing writes to any more.
  struct SharedValues {
    std::span<const float> a, b, magnitude;  // the last may be empty
    std::shared_ptr<const void> keeper;
  };
  void AddShared(std::string module, int64_t rank, int64_t out, int64_t in, double alpha, double scaling,
                 const SharedValues& values);
  Adapter Build() &&;

 private:
  struct Owned;
  std::vector<Owned> owned_;
};

// What an adapter_config.json says (PEFT's LoraConfig), old releases and new.
struct PeftConfig {
  config::AdapterOptions options;  // r, lora_alpha, target_modules, patterns, use_rslora, use_dora, ...
  std::string base_model;          // base_model_name_or_path
  bool adapts_nothing = false;     // target_modules is an empty list: how an update that is zero is written
  bool fan_in_fan_out = false;     // the base stores its weights [in, out] (GPT-2); the factors are the same either way
  // Features that change what the factors mean and that Strata does not read ("lora_bias", "layer_replication",
  // ..). ReadPeft refuses them.
  std::vector<std::string> unsupported;
  // rank_pattern / alpha_pattern looked up with PEFT's rule, then the defaults.
  uint32_t RankOf(std::string_view module) const;
  double AlphaOf(std::string_view module) const;
  double ScalingOf(std::string_view module) const;
};
// INVALID_ARGUMENT, every fault at once: no JSON object, wrong types, a peft_type other than LORA, expressions that are
// none.
absl::StatusOr<PeftConfig> ParsePeftConfig(std::string_view json, std::string_view place);

// Reads DIR/adapter_config.json and DIR/adapter_model.safetensors. NOT_FOUND: a file is missing. INVALID_ARGUMENT: what
// ParsePeftConfig and FromTensors refuse, an unsupported feature (named), a rank other than the config's, or a tensor
// with an element that is not finite in fp32.
absl::StatusOr<std::pair<Adapter, PeftConfig>> ReadPeft(runtime::FileSystem& files, const std::string& directory);
// The same of an adapter for a model with these linear modules. INVALID_ARGUMENT too: one that the config names has no
// factors (exclude_modules and layers_to_transform leave out what they name), or none has any though the config does
// not say so. That the factors fit the model is for the caller to see.
absl::StatusOr<std::pair<Adapter, PeftConfig>> ReadPeftFor(const std::vector<config::ModuleShape>& modules,
                                                           runtime::FileSystem& files, const std::string& directory);

struct PeftWriteOptions {
  std::string base_model = {};                       // base_model_name_or_path
  std::map<std::string, std::string> metadata = {};  // of the safetensors file; {"format","pt"} is always there
  bool use_rslora = false;                           // alpha of the config is then scaling * sqrt(rank)
  double dropout = 0;
  bool fan_in_fan_out = false;
  format::DType dtype = format::DType::kF32;  // F32, BF16, F16 or F64
};
// Writes a directory that HF PEFT loads unchanged: target_modules holds full names, rank_pattern and alpha_pattern what
// differs from the most frequent rank and alpha, use_dora follows from the magnitudes. Modules of rank 0 are left out
// (PEFT refuses r = 0). Deterministic bytes. REQUIRES: all modules have a magnitude or none has.
absl::Status WritePeft(runtime::FileSystem& files, const std::string& directory, const Adapter& adapter,
                       const PeftWriteOptions& options);
// The two files' contents, for callers that send them instead.
std::string PeftConfigJson(const Adapter& adapter, const PeftWriteOptions& options);
std::string PeftTensorBytes(const Adapter& adapter, const PeftWriteOptions& options);
// base_model.model.<module>.lora_A.weight / lora_B.weight
std::string PeftTensorName(std::string_view module, bool is_a);
// base_model.model.<module>.lora_magnitude_vector
std::string PeftMagnitudeName(std::string_view module);
// INVALID_ARGUMENT, with `reason`, where a module has a magnitude: for what handles low-rank products alone.
absl::Status RequireNoMagnitudes(const Adapter& adapter, std::string_view reason);

// Does `selector` name this module (PEFT's rules)? all-linear: every module given, the head excepted by the caller. An
// empty selector names nothing.
bool Selects(const config::ModuleSelector& selector, std::string_view module);
// Is this module adapted: target_modules without exclude_modules, and layers_to_transform, which PEFT applies to names
// matched by suffix (or all-linear) by the first number in the name that follows two segments.
bool IsTarget(const config::AdapterOptions& options, std::string_view module);
// INVALID_ARGUMENT: an expression of target_modules, exclude_modules, rank_pattern or alpha_pattern that is none
// (PCRE2).
absl::Status CheckExpressions(const config::AdapterOptions& options);
// The rank and alpha that the options give to a module: patterns by PEFT's rule, then the defaults.
uint32_t RankOf(const config::AdapterOptions& options, std::string_view module);
double AlphaOf(const config::AdapterOptions& options, std::string_view module);
// alpha / rank, or alpha / sqrt(rank); 1 for rank 0.
double ScalingOf(double alpha, int64_t rank, bool use_rslora);

}  // namespace strata::adapter

#endif  // STRATA_COMMON_ADAPTER_ADAPTER_H_
