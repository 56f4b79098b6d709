#include <cstdint>
#include <iostream>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "client/commands.h"
#include "client/export/gguf_file.h"
#include "client/export/hf_directory.h"
#include "client/export/tensor_stream.h"
#include "client/model/model_files.h"
#include "common/adapter/adapter.h"
#include "common/runtime/posix_file_system.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

struct MergeFlags {
  std::string model, out, form, dtype = "auto", format = "text";
  std::vector<std::string> adapters, formats;
  uint64_t max_shard_bytes = exporting::HfOptions().max_shard_bytes;

  bool gguf() const { return form.empty() ? out.ends_with(".gguf") : form == "gguf"; }
};

const std::map<std::string, format::GgufType>& GgufTypes() {
  static const auto& types = *new std::map<std::string, format::GgufType>{{"f32", format::GgufType::kF32},
                                                                          {"f16", format::GgufType::kF16},
                                                                          {"bf16", format::GgufType::kBF16},
                                                                          {"q8_0", format::GgufType::kQ8_0}};
  return types;
}

std::optional<format::DType> HfDType(const std::string& word) {
  if (word == "f32") return format::DType::kF32;
  if (word == "f16") return format::DType::kF16;
  if (word == "bf16") return format::DType::kBF16;
  return std::nullopt;
}

// What most of the matrices of a model are, as far as 16 bits go: BF16 where it is BF16.
format::GgufType NativeType(const model::ModelFiles& model) {
  int64_t balance = 0;
  for (const model::ModelTensor& tensor : model.tensors()) {
    const int64_t count = exporting::ElementsOf(tensor);
    balance += tensor.stored_dtype == "BF16" ? count : -count;
  }
  return balance > 0 ? format::GgufType::kBF16 : format::GgufType::kF16;
}

absl::Status CheckFlags(const MergeFlags& flags) {
  if (flags.dtype == "q8_0" && !flags.gguf()) {
    return absl::InvalidArgumentError("--dtype q8_0 goes with GGUF; safetensors takes f32, f16, bf16");
  }
  return absl::OkStatus();
}

absl::StatusOr<exporting::Written> Write(runtime::FileSystem& files, const MergeFlags& flags,
                                         const exporting::MergedModel& merged) {
  if (!flags.gguf()) {
    return exporting::WriteHfDirectory(files, flags.out, merged,
                                       {.dtype = HfDType(flags.dtype), .max_shard_bytes = flags.max_shard_bytes});
  }
  const std::string path = flags.out.ends_with(".gguf") ? flags.out : runtime::JoinPath(flags.out, "model.gguf");
  STRATA_RETURN_IF_ERROR(files.MakeDirectories(runtime::DirName(path)));
  return exporting::WriteGgufFile(files, path, merged,
                                  flags.dtype == "auto" ? NativeType(merged.model()) : GgufTypes().at(flags.dtype));
}

void Print(const MergeFlags& flags, const exporting::MergedModel& merged, const exporting::Written& written) {
  if (flags.format == "json") {
    const nlohmann::ordered_json json = {{"out", written.path},
                                         {"format", flags.gguf() ? "gguf" : "hf"},
                                         {"merged_modules", merged.num_modules()},
                                         {"tensors", written.tensors},
                                         {"bytes", written.bytes},
                                         {"rounding_error", written.rounding.Relative()}};
    std::cout << json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << std::endl;
    return;
  }
  std::cout << absl::StrFormat("%d modules merged, %d tensors with %d bytes written to %s\n", merged.num_modules(),
                               written.tensors, written.bytes, written.path)
            << absl::StrFormat("rounding: ||round(W0 + C) - W0 - C|| / ||C|| = %.3g\n", written.rounding.Relative())
            << std::flush;
}

absl::Status Run(const MergeFlags& flags) {
  runtime::PosixFileSystem files;
  STRATA_ASSIGN_OR_RETURN(const auto model, model::ModelFiles::Open(files, flags.model));
  std::vector<adapter::Adapter> adapters;
  for (const std::string& directory : flags.adapters) {
    STRATA_ASSIGN_OR_RETURN(auto read, adapter::ReadPeftFor(model->LinearModules(), files, directory));
    adapters.push_back(std::move(read.first));
  }
  STRATA_ASSIGN_OR_RETURN(const exporting::MergedModel merged, exporting::MergedModel::Of(*model, adapters));
  STRATA_ASSIGN_OR_RETURN(const exporting::Written written, Write(files, flags, merged));
  Print(flags, merged, written);
  return absl::OkStatus();
}

}  // namespace

void AddMergeCommand(CLI::App& app, CommandContext& context) {
  auto flags = std::make_shared<MergeFlags>();
  CLI::App* command =
      app.add_subcommand("merge", "Write a base model with adapters merged into its weights: an HF directory or GGUF");
  command->add_option("--model", flags->model, "Model folder, GGUF file, or org/name in the HF cache")->required();
  command->add_option("--adapter", flags->adapters, "PEFT directory; several are added up")->required();
  command->add_option("--out", flags->out, "A new directory, or a file that ends in .gguf")->required();
  command
      ->add_option("--format", flags->formats,
                   "What is written: hf or gguf (default: gguf where --out ends in .gguf); text and json say how the "
                   "result prints")
      ->allow_extra_args(false)
      ->check(CLI::IsMember({"hf", "gguf", "text", "json"}));
  command
      ->add_option("--dtype", flags->dtype,
                   "Of the weights: f32, f16, bf16, for GGUF also q8_0; auto: HF as each tensor is (f32 where it was "
                   "quantised), GGUF bf16 where the model is, else f16")
      // Training says fp32 where GGUF says f32.
      ->transform(CLI::Transformer(std::map<std::string, std::string>{{"fp32", "f32"}, {"fp16", "f16"}}))
      ->check(CLI::IsMember({"auto", "f32", "f16", "bf16", "q8_0"}))
      ->capture_default_str();
  command->add_option("--max-shard-bytes", flags->max_shard_bytes, "Of one safetensors file; larger models are split")
      ->check(CLI::Range(uint64_t{1}, std::numeric_limits<uint64_t>::max()))
      ->capture_default_str();
  command->callback([flags, &context] {
    for (const std::string& word : flags->formats) {
      const bool printing = word == "text" || word == "json";
      (printing ? flags->format : flags->form) = word;
    }
    const absl::Status usable = CheckFlags(*flags);
    if (!usable.ok()) throw CLI::ValidationError(std::string(usable.message()));
    const absl::Status status = Run(*flags);
    if (!status.ok()) context.exit_code = ReportError(status, false);
  });
}

}  // namespace strata
