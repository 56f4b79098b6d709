#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/commands.h"
#include "client/export/tensor_stream.h"
#include "client/model/model_files.h"
#include "common/adapter/adapter.h"
#include "common/adapter/gguf_adapter.h"
#include "common/format/gguf.h"
#include "common/linalg/factors.h"
#include "common/runtime/posix_file_system.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

using Json = nlohmann::ordered_json;

struct InspectFlags {
  std::string path, format = "text";
  bool json() const { return format == "json"; }
};

void PrintJson(const Json& json) {
  std::cout << json.dump(-1, ' ', false, Json::error_handler_t::replace) << std::endl;
}

// Columns as wide as they need to be, the first to the left.
void PrintTable(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths(rows.front().size());
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      const int width = static_cast<int>(widths[i]);
      std::cout << (i == 0 ? absl::StrFormat("%-*s", width, row[i]) : absl::StrFormat("  %*s", width, row[i]));
    }
    std::cout << "\n";
  }
}

std::string ShapeText(const std::vector<int64_t>& shape) { return Cat("[", absl::StrJoin(shape, ", "), "]"); }

// Of a DoRA module's magnitude.
struct Spread {
  double least = 0, mean = 0, largest = 0;
};

// What is known of one adapted module. A magnitude counts for a base model's weights, so that the norm and the singular
// values are those of the product alone.
struct Module {
  const adapter::Factors* factors = nullptr;
  std::vector<double> singular_values;  // of the update, descending
  double norm = 0;                      // Frobenius, of the update
  std::optional<Spread> magnitude;
  std::string dtype;   // of A, as the file has it
  uint64_t bytes = 0;  // in the file
};

double Norm(const std::vector<double>& values) {
  return std::sqrt(std::accumulate(values.rbegin(), values.rend(), 0.0,
                                   [](double sum, double value) { return sum + value * value; }));
}

absl::StatusOr<Spread> SpreadOf(const format::TensorView& magnitude) {
  std::vector<double> values(static_cast<size_t>(magnitude.num_elements()));
  STRATA_RETURN_IF_ERROR(format::ToDouble(magnitude, values));
  const auto [least, largest] = std::minmax_element(values.begin(), values.end());
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  return Spread{.least = *least, .mean = sum / static_cast<double>(values.size()), .largest = *largest};
}

// What was read of a GGUF file is fp32; `gguf`, which may be null, says what it was.
void DescribeStored(const adapter::Factors& factors, const format::Gguf* gguf, Module& module) {
  const auto stored = [&](std::string_view end) {
    return gguf == nullptr ? nullptr : gguf->Find(Cat(factors.module, ".weight.lora_", end));
  };
  const format::GgufTensor* a = stored("a");
  const format::GgufTensor* b = stored("b");
  module.dtype = a == nullptr ? format::DTypeName(factors.a.dtype) : format::GgufTypeName(a->type);
  module.bytes = (a == nullptr ? factors.a.data.size() : a->data.size()) +
                 (b == nullptr ? factors.b.data.size() : b->data.size()) + factors.magnitude.data.size();
}

absl::StatusOr<std::vector<Module>> Measure(const adapter::Adapter& adapter, const format::Gguf* gguf) {
  std::vector<Module> modules;
  for (const adapter::Factors& factors : adapter.modules()) {
    STRATA_ASSIGN_OR_RETURN(std::vector<double> values, linalg::SingularValues(factors));
    const double norm = Norm(values);
    modules.push_back({.factors = &factors,
                       .singular_values = std::move(values),
                       .norm = norm,
                       .magnitude = std::nullopt,
                       .dtype = {}});
    DescribeStored(factors, gguf, modules.back());
    if (factors.has_magnitude()) {
      STRATA_ASSIGN_OR_RETURN(modules.back().magnitude, SpreadOf(factors.magnitude));
    }
  }
  return modules;
}

void PrintAdapterTable(const std::vector<Module>& modules) {
  std::vector<std::vector<std::string>> rows = {
      {"module", "shape", "dtype", "bytes", "rank", "alpha", "scaling", "norm", "largest s", "smallest s"}};
  const bool dora =
      std::any_of(modules.begin(), modules.end(), [](const Module& m) { return m.magnitude.has_value(); });
  if (dora) rows.front().emplace_back("magnitudes");
  const auto number = [](double value) { return absl::StrFormat("%.4g", value); };
  for (const Module& module : modules) {
    const adapter::Factors& f = *module.factors;
    const bool any = !module.singular_values.empty();
    rows.push_back({f.module, ShapeText({f.out, f.in}), module.dtype, std::to_string(module.bytes),
                    std::to_string(f.rank), number(f.alpha), number(f.scaling), number(module.norm),
                    any ? number(module.singular_values.front()) : "-",
                    any ? number(module.singular_values.back()) : "-"});
    if (!dora) continue;
    const Spread spread = module.magnitude.value_or(Spread());
    rows.back().push_back(Cat(number(spread.least), " .. ", number(spread.largest)));
  }
  PrintTable(rows);
}

Json ModuleJson(const Module& module) {
  const adapter::Factors& f = *module.factors;
  Json json = {{"name", f.module},      {"shape", {f.out, f.in}}, {"dtype", module.dtype},
               {"bytes", module.bytes}, {"rank", f.rank},         {"alpha", f.alpha},
               {"scaling", f.scaling},  {"norm", module.norm},    {"singular_values", module.singular_values}};
  if (const auto& spread = module.magnitude; spread.has_value()) {
    json["magnitude"] = {{"min", spread->least}, {"mean", spread->mean}, {"max", spread->largest}};
  }
  return json;
}

absl::Status InspectAdapter(const InspectFlags& flags, const adapter::Adapter& adapter, const std::string& base_model,
                            const format::Gguf* gguf) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Module> modules, Measure(adapter, gguf));
  uint64_t bytes = 0;
  std::vector<double> norms;
  Json listed = Json::array();
  for (const Module& module : modules) {
    bytes += module.bytes;
    norms.push_back(module.norm);
    listed.push_back(ModuleJson(module));
  }
  if (flags.json()) {
    PrintJson({{"kind", "adapter"},
               {"base_model", base_model},
               {"modules", std::move(listed)},
               {"totals",
                {{"modules", modules.size()},
                 {"parameters", adapter.num_parameters()},
                 {"bytes", bytes},
                 {"norm", Norm(norms)}}}});
    return absl::OkStatus();
  }
  PrintAdapterTable(modules);
  std::cout << absl::StrFormat("%d modules, %d parameters, %d bytes, norm %.4g\n", modules.size(),
                               adapter.num_parameters(), bytes, Norm(norms));
  return absl::OkStatus();
}

void InspectModel(const InspectFlags& flags, const model::ModelFiles& model) {
  uint64_t bytes = 0, parameters = 0;
  std::vector<std::vector<std::string>> rows = {{"tensor", "shape", "dtype", "bytes"}};
  Json tensors = Json::array();
  for (const model::ModelTensor& tensor : model.tensors()) {
    const uint64_t size = model.StoredBytes(tensor.name).size();
    bytes += size;
    parameters += static_cast<uint64_t>(exporting::ElementsOf(tensor));
    rows.push_back({tensor.name, ShapeText(tensor.shape), tensor.stored_dtype, std::to_string(size)});
    tensors.push_back(
        {{"name", tensor.name}, {"shape", tensor.shape}, {"dtype", tensor.stored_dtype}, {"bytes", size}});
  }
  if (flags.json()) {
    return PrintJson({{"kind", "model"},
                      {"architecture", model.config().architecture},
                      {"modules", std::move(tensors)},
                      {"totals", {{"modules", rows.size() - 1}, {"parameters", parameters}, {"bytes", bytes}}}});
  }
  PrintTable(rows);
  std::cout << absl::StrFormat("%s: %d tensors, %d parameters, %d bytes\n", model.config().architecture,
                               rows.size() - 1, parameters, bytes);
}

// Whether a file is an adapter in GGUF rather than a model.
bool IsAdapter(const absl::StatusOr<format::Gguf>& gguf) {
  return gguf.ok() && gguf->GetString("general.type").value_or("") == "adapter";
}

absl::Status Run(const InspectFlags& flags) {
  runtime::PosixFileSystem files;
  if (files.Exists(runtime::JoinPath(flags.path, "adapter_config.json"))) {
    STRATA_ASSIGN_OR_RETURN(const auto read, adapter::ReadPeft(files, flags.path));
    return InspectAdapter(flags, read.first, read.second.base_model, nullptr);
  }
  if (const auto gguf = format::Gguf::Open(files, flags.path); IsAdapter(gguf)) {
    STRATA_ASSIGN_OR_RETURN(const adapter::Adapter adapter, adapter::ReadGgufAdapter(files, flags.path));
    return InspectAdapter(flags, adapter, "", &*gguf);
  }
  STRATA_ASSIGN_OR_RETURN(const auto model, model::ModelFiles::Open(files, flags.path));
  InspectModel(flags, *model);
  return absl::OkStatus();
}

}  // namespace

void AddInspectCommand(CLI::App& app, CommandContext& context) {
  auto flags = std::make_shared<InspectFlags>();
  CLI::App* command = app.add_subcommand(
      "inspect", "The tensors of a model; the modules of an adapter with their ranks, norms and singular values");
  command
      ->add_option("PATH", flags->path,
                   "Model folder, GGUF file or org/name in the HF cache; PEFT directory or GGUF adapter")
      ->required();
  command->add_option("--format", flags->format, "text or json")->check(CLI::IsMember({"text", "json"}));
  command->callback([flags, &context] {
    const absl::Status status = Run(*flags);
    if (!status.ok()) context.exit_code = ReportError(status, false);
  });
}

}  // namespace strata
