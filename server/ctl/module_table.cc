#include "server/ctl/module_table.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/format/safetensors.h"
#include "common/status/status_macros.h"

namespace strata::ctl {
namespace {

constexpr char kSuffix[] = ".weight";

void AddModules(const format::Safetensors& file, std::vector<config::ModuleShape>& modules) {
  for (const format::TensorView& tensor : file.tensors()) {
    absl::string_view name = tensor.name;
    if (tensor.shape.size() != 2 || !absl::StrContains(name, ".layers.") || !absl::ConsumeSuffix(&name, kSuffix)) {
      continue;
    }
    modules.push_back({.name = std::string(name), .out = tensor.shape[0], .in = tensor.shape[1]});
  }
}

}  // namespace

absl::StatusOr<std::vector<config::ModuleShape>> ReadModuleTable(runtime::FileSystem& files,
                                                                 const std::string& directory) {
  absl::StatusOr<std::vector<std::string>> names = files.List(directory);
  if (!names.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--model: ", directory, " is no HF directory (", names.status().message(),
                     "); for a GGUF file leave --model out: the first site's check-in brings the table"));
  }
  std::vector<config::ModuleShape> modules;
  for (const std::string& name : *names) {
    if (!absl::EndsWith(name, ".safetensors")) continue;
    STRATA_ASSIGN_OR_RETURN(const format::Safetensors file,
                            format::Safetensors::Open(files, runtime::JoinPath(directory, name)));
    AddModules(file, modules);
  }
  if (modules.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--model: no safetensors file in ", directory, " holds linear modules of decoder layers"));
  }
  std::sort(modules.begin(), modules.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return modules;
}

}  // namespace strata::ctl
