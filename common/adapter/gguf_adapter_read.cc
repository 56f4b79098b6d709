#include <string>
#include <utility>
#include <vector>

#include "common/adapter/gguf_adapter.h"
#include "common/format/gguf.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::adapter {
namespace {

constexpr std::string_view kEndOfA = ".weight.lora_a";
constexpr std::string_view kEndOfB = ".weight.lora_b";

absl::StatusOr<std::vector<float>> Floats(const format::GgufTensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.num_elements()));
  STRATA_RETURN_IF_ERROR(format::DecodeGgufRows(tensor, 0, values));
  return values;
}

absl::Status CheckKind(const format::Gguf& gguf) {
  for (const auto& [key, wanted] : {std::pair("general.type", "adapter"), std::pair("adapter.type", "lora")}) {
    const std::string found = gguf.GetString(key).value_or("");
    if (found != wanted) return absl::InvalidArgumentError(Cat(key, " is '", found, "', expected '", wanted, "'"));
  }
  return absl::OkStatus();
}

absl::Status AddModule(const format::Gguf& gguf, const format::GgufTensor& a, double alpha, AdapterBuilder& builder) {
  const std::string module = a.name.substr(0, a.name.size() - kEndOfA.size());
  const format::GgufTensor* b = gguf.Find(Cat(module, kEndOfB));
  if (b == nullptr) return absl::InvalidArgumentError(Cat("module ", module, ": lora_a is there, lora_b is missing"));
  if (a.shape.size() != 2 || b->shape.size() != 2 || a.shape[0] != b->shape[1] || a.shape[0] == 0) {
    return absl::InvalidArgumentError(Cat("module ", module, ": lora_a and lora_b disagree about the rank"));
  }
  const int64_t rank = a.shape[0];
  STRATA_ASSIGN_OR_RETURN(std::vector<float> floats_of_a, Floats(a));
  STRATA_ASSIGN_OR_RETURN(std::vector<float> floats_of_b, Floats(*b));
  // As llama.cpp scales: an alpha of 0 stands for none.
  const double scaling = alpha == 0 ? 1 : alpha / static_cast<double>(rank);
  builder.Add(module, rank, b->shape[0], a.shape[1], alpha, scaling, std::move(floats_of_a), std::move(floats_of_b));
  return absl::OkStatus();
}

absl::StatusOr<Adapter> Read(const format::Gguf& gguf) {
  STRATA_RETURN_IF_ERROR(CheckKind(gguf));
  STRATA_ASSIGN_OR_RETURN(const double alpha, gguf.GetFloat("adapter.lora.alpha"));
  AdapterBuilder builder;
  for (const format::GgufTensor& tensor : gguf.tensors()) {
    if (tensor.name.ends_with(kEndOfA)) {
      STRATA_RETURN_IF_ERROR(AddModule(gguf, tensor, alpha, builder));
    } else if (!tensor.name.ends_with(kEndOfB)) {
      return absl::InvalidArgumentError(Cat("tensor ", tensor.name, " is no factor of a linear module"));
    } else if (gguf.Find(Cat(tensor.name.substr(0, tensor.name.size() - 1), "a")) == nullptr) {
      return absl::InvalidArgumentError(Cat("tensor ", tensor.name, " has no lora_a beside it"));
    }
  }
  return std::move(builder).Build();
}

}  // namespace

absl::StatusOr<Adapter> ReadGgufAdapter(runtime::FileSystem& files, const std::string& path) {
  STRATA_ASSIGN_OR_RETURN(const format::Gguf gguf, format::Gguf::Open(files, path));
  absl::StatusOr<Adapter> adapter = Read(gguf);
  if (!adapter.ok()) return Annotate(adapter.status(), path);
  return adapter;
}

}  // namespace strata::adapter
