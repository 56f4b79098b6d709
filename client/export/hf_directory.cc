#include "client/export/hf_directory.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "client/export/hf_files.h"
#include "client/export/tensor_stream.h"
#include "common/format/safetensors.h"
#include "common/runtime/pending_file.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"
#include "nlohmann/json.hpp"

namespace strata::exporting {
namespace {

using format::DType;
using runtime::JoinPath;

// A file of the weights and the tensors in it, as the file and as the model has them.
struct Shard {
  std::string name;
  std::vector<format::TensorView> tensors;
  std::vector<const model::ModelTensor*> sources;
  uint64_t bytes = 0;
};

format::GgufType TypeOf(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return format::GgufType::kF16;
    case DType::kBF16:
      return format::GgufType::kBF16;
    case DType::kF64:
      return format::GgufType::kF64;
    default:
      return format::GgufType::kF32;
  }
}

DType DTypeFor(const model::ModelTensor& tensor, const HfOptions& options) {
  if (options.dtype.has_value()) return *options.dtype;
  return format::ParseDType(tensor.stored_dtype).value_or(DType::kF32);
}

// In order of names, a new file where the next tensor would pass the limit.
std::vector<Shard> PlanShards(const MergedModel& merged, const HfOptions& options) {
  std::vector<Shard> shards(1);
  for (const model::ModelTensor& tensor : merged.model().tensors()) {
    const DType dtype = DTypeFor(tensor, options);
    const TensorForm form = FormOf(merged, tensor, TypeOf(dtype), /*to_gguf=*/false);
    format::TensorView view = {.name = tensor.older_name.empty() ? tensor.name : tensor.older_name,
                               .dtype = dtype,
                               .shape = ShapeOf(tensor, form),
                               .data = {}};
    const uint64_t bytes = static_cast<uint64_t>(view.num_elements()) * format::DTypeSize(view.dtype);
    if (shards.back().bytes > 0 && shards.back().bytes + bytes > options.max_shard_bytes) shards.emplace_back();
    shards.back().tensors.push_back(std::move(view));
    shards.back().sources.push_back(&tensor);
    shards.back().bytes += bytes;
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    shards[i].name = shards.size() == 1 ? "model.safetensors"
                                        : absl::StrFormat("model-%05d-of-%05d.safetensors", i + 1, shards.size());
  }
  return shards;
}

absl::Status WriteShard(runtime::FileSystem& files, const std::string& directory, const MergedModel& merged,
                        Shard& shard, Rounding& rounding) {
  const std::string preamble = format::SafetensorsPreamble(shard.tensors, {{"format", "pt"}});
  STRATA_ASSIGN_OR_RETURN(runtime::PendingFile file,
                          runtime::PendingFile::Create(files, JoinPath(directory, shard.name)));
  STRATA_RETURN_IF_ERROR(file.Append(std::as_bytes(std::span(preamble))));
  for (size_t i = 0; i < shard.tensors.size(); ++i) {
    const model::ModelTensor& tensor = *shard.sources[i];
    const TensorForm form = FormOf(merged, tensor, TypeOf(shard.tensors[i].dtype), /*to_gguf=*/false);
    STRATA_RETURN_IF_ERROR(StreamTensor(merged, tensor, form, file, rounding));
  }
  return std::move(file).Commit();
}

std::string IndexText(const std::vector<Shard>& shards) {
  nlohmann::ordered_json index;
  uint64_t total = 0;
  std::map<std::string, std::string> map;
  for (const Shard& shard : shards) {
    total += shard.bytes;
    for (const format::TensorView& tensor : shard.tensors) map.emplace(tensor.name, shard.name);
  }
  index["metadata"] = {{"total_size", total}};
  index["weight_map"] = map;
  return index.dump(2) + "\n";
}

absl::Status WriteFiles(runtime::FileSystem& files, const std::string& directory, const MergedModel& merged,
                        const HfOptions& options, Written& written) {
  STRATA_RETURN_IF_ERROR(WriteModelTexts(files, directory, merged.model(), options.dtype));
  std::vector<Shard> shards = PlanShards(merged, options);
  for (Shard& shard : shards) {
    STRATA_RETURN_IF_ERROR(WriteShard(files, directory, merged, shard, written.rounding));
    written.bytes += shard.bytes;
    written.tensors += shard.tensors.size();
  }
  if (shards.size() == 1) return absl::OkStatus();
  return files.WriteFile(JoinPath(directory, "model.safetensors.index.json"), IndexText(shards));
}

}  // namespace

absl::StatusOr<Written> WriteHfDirectory(runtime::FileSystem& files, const std::string& directory,
                                         const MergedModel& merged, const HfOptions& options) {
  Written written{.path = runtime::JoinPath(runtime::DirName(directory), runtime::BaseName(directory))};
  if (files.Exists(written.path)) {
    return absl::AlreadyExistsError(Cat(written.path, ": is there already; give a new directory"));
  }
  const std::string temporary = Cat(written.path, ".tmp");
  STRATA_RETURN_IF_ERROR(files.RemoveAll(temporary));
  STRATA_RETURN_IF_ERROR(files.MakeDirectories(temporary));
  absl::Status status = WriteFiles(files, temporary, merged, options, written);
  if (status.ok()) status = files.Rename(temporary, written.path);
  if (!status.ok()) {
    files.RemoveAll(temporary).IgnoreError();
    return status;
  }
  STRATA_RETURN_IF_ERROR(files.SyncDirectory(runtime::DirName(written.path)));
  return written;
}

}  // namespace strata::exporting
