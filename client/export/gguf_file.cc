#include "client/export/gguf_file.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "client/data/tokenizer_to_gguf.h"
#include "client/export/tensor_stream.h"
#include "client/model/model_config.h"
#include "common/format/gguf_names.h"
#include "common/format/gguf_writer.h"
#include "common/runtime/pending_file.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::exporting {
namespace {

using format::GgufMetadata;
using format::GgufTensorSpec;
using format::GgufType;

// One tensor of the file: of the model, or (null) numbers of its configuration.
struct Entry {
  const model::ModelTensor* tensor = nullptr;
  std::vector<float> numbers = {};
  GgufTensorSpec spec;
  TensorForm form;
  int64_t layer = 0;  // where it stands in the file
};

// The number that readers show for what most of the file is.
uint32_t FileType(GgufType type) {
  switch (type) {
    case GgufType::kF16:
      return 1;
    case GgufType::kQ8_0:
      return 7;
    case GgufType::kBF16:
      return 32;
    default:
      return 0;
  }
}

int64_t LayerOf(std::string_view gguf_name) {
  if (gguf_name.starts_with("output")) return std::numeric_limits<int64_t>::max();
  int64_t layer = -1;
  if (!gguf_name.starts_with("blk.")) return layer;
  gguf_name.remove_prefix(4);
  const std::string number(gguf_name.substr(0, gguf_name.find('.')));
  return absl::SimpleAtoi(number, &layer) ? layer : -1;
}

// Vectors stay F32, and so does the table of positions, which readers add rows of.
GgufType TypeOf(const std::vector<int64_t>& shape, std::string_view name, GgufType wanted) {
  if (shape.size() < 2 || name == "position_embd") return GgufType::kF32;
  return format::CanEncodeGguf(wanted, shape.back()) ? wanted : GgufType::kF16;
}

// Divisors without more to them (model/gguf_config.cc), which any family takes.
bool DividesAlike(const model::ModelConfig& config) {
  const model::RopeConfig& rope = config.rope;
  return rope.scaling == model::RopeScaling::kLongRope && rope.short_factors == rope.long_factors &&
         rope.attention_factor == 1 && rope.original_max_positions == config.max_positions;
}

absl::StatusOr<Entry> EntryOf(const model::ModelTensor& tensor, const MergedModel& merged,
                              const format::GgufFamily& family, GgufType type) {
  const size_t dot = tensor.name.rfind('.');
  const format::GgufModuleName name = format::GgufModuleOfHf(family, tensor.name.substr(0, dot));
  if (!name || dot == std::string::npos) {
    return absl::UnimplementedError(
        Cat("tensor '", tensor.name, "' has no name in GGUF's ", family.architecture, " family"));
  }
  Entry entry{.tensor = &tensor, .numbers = {}, .spec = {}, .form = {}, .layer = LayerOf(name.gguf)};
  entry.form = FormOf(merged, tensor, type, /*to_gguf=*/true);
  std::vector<int64_t> shape = ShapeOf(tensor, entry.form);
  entry.form.type = TypeOf(shape, name.gguf, type);
  entry.spec = {.name = Cat(name.gguf, tensor.name.substr(dot)), .type = entry.form.type, .shape = std::move(shape)};
  return entry;
}

absl::StatusOr<std::vector<Entry>> EntriesOf(const MergedModel& merged, const format::GgufFamily& family,
                                             GgufType type) {
  std::vector<Entry> entries;
  const model::ModelConfig& config = merged.model().config();
  const auto add = [&entries](std::string_view name, std::vector<float> numbers) {
    const auto count = static_cast<int64_t>(numbers.size());
    entries.push_back({.tensor = nullptr,
                       .numbers = std::move(numbers),
                       .spec = {std::string(name), GgufType::kF32, {count}},
                       .form = {},
                       .layer = -1});
  };
  const model::RopeConfig& rope = config.rope;
  if (rope.scaling == model::RopeScaling::kLlama3) {
    add(model::kRopeDivisors, model::Llama3Divisors(rope, config.head_dim));
  } else if (DividesAlike(config)) {
    add(model::kRopeDivisors, {rope.long_factors.begin(), rope.long_factors.end()});
  } else if (rope.scaling == model::RopeScaling::kLongRope) {
    add(model::kRopeLongFactors, {rope.long_factors.begin(), rope.long_factors.end()});
    add(model::kRopeShortFactors, {rope.short_factors.begin(), rope.short_factors.end()});
  }
  for (const model::ModelTensor& tensor : merged.model().tensors()) {
    if (tensor.other_part) continue;  // llama.cpp wants them in a file of their own
    STRATA_ASSIGN_OR_RETURN(Entry entry, EntryOf(tensor, merged, family, type));
    entries.push_back(std::move(entry));
  }
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.layer < b.layer; });
  return entries;
}

void SetArchitecture(const model::ModelConfig& config, std::string_view architecture, GgufMetadata& metadata) {
  const auto key = [architecture](std::string_view name) { return Cat(architecture, ".", name); };
  const auto set = [&](std::string_view name, int64_t value) {
    metadata.SetUint(key(name), static_cast<uint32_t>(value));
  };
  set("context_length", config.max_positions);
  set("embedding_length", config.hidden_size);
  set("block_count", config.num_layers);
  set("feed_forward_length", config.intermediate_size);
  set("attention.head_count", config.num_heads);
  set("attention.head_count_kv", config.num_kv_heads);
  set("attention.key_length", config.head_dim);
  set("attention.value_length", config.head_dim);
  set("vocab_size", config.vocab_size);
  const auto real = [&](std::string_view name, double value) {
    metadata.SetFloat(key(name), static_cast<float>(value));
  };
  const bool rms = config.norm == model::NormKind::kRms;
  real(rms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon", config.norm_eps);
  if (!config.windows.empty()) {
    set("attention.sliding_window", *std::max_element(config.windows.begin(), config.windows.end()));
  }
  if (config.attention_softcap > 0) real("attn_logit_softcapping", config.attention_softcap);
  if (config.logit_softcap > 0) real("final_logit_softcapping", config.logit_softcap);
  if (config.learned_positions) return;
  set("rope.dimension_count", config.rope.turning(config.head_dim));
  real("rope.freq_base", config.rope.theta);
  if (config.rope.scaling == model::RopeScaling::kLongRope && !DividesAlike(config)) {
    set("rope.scaling.original_context_length", config.rope.original_max_positions);
    real("rope.scaling.attn_factor", config.rope.attention_factor);
  }
  const bool yarn = config.rope.scaling == model::RopeScaling::kYarn;
  if (!yarn && config.rope.scaling != model::RopeScaling::kLinear) return;
  metadata.SetString(key("rope.scaling.type"), yarn ? "yarn" : "linear");
  real("rope.scaling.factor", config.rope.factor);
  if (yarn) set("rope.scaling.original_context_length", config.rope.original_max_positions);
}

// From another GGUF file all but what this file says itself.
absl::Status CopyMetadata(runtime::FileSystem& files, const std::string& path, GgufMetadata& metadata) {
  STRATA_ASSIGN_OR_RETURN(const format::Gguf gguf, format::Gguf::Open(files, path));
  for (const auto& [key, value] : gguf.metadata()) {
    if (key == "general.alignment" || key == "general.file_type" || key.starts_with("split.")) continue;
    metadata.SetEncoded(key, gguf.EncodedValue(key));
  }
  return absl::OkStatus();
}

absl::StatusOr<GgufMetadata> MetadataOf(runtime::FileSystem& files, const model::ModelFiles& model,
                                        const format::GgufFamily& family, GgufType type) {
  GgufMetadata metadata;
  metadata.SetString("general.architecture", family.architecture);
  metadata.SetString("general.type", "model");
  metadata.SetString("general.name", runtime::BaseName(model.path()));
  metadata.SetUint("general.quantization_version", 2);
  STRATA_ASSIGN_OR_RETURN(const runtime::FileInfo info, files.Stat(model.path()));
  if (info.is_directory) {
    SetArchitecture(model.config(), family.architecture, metadata);
    STRATA_RETURN_IF_ERROR(data::TokenizerToGguf(files, model.path(), model.config().vocab_size, metadata));
  } else {
    STRATA_RETURN_IF_ERROR(CopyMetadata(files, model.path(), metadata));
  }
  metadata.SetUint("general.file_type", FileType(type));
  return metadata;
}

absl::Status AppendTensor(const MergedModel& merged, const Entry& entry, runtime::PendingFile& file,
                          Rounding& rounding) {
  if (entry.tensor != nullptr) {
    STRATA_RETURN_IF_ERROR(StreamTensor(merged, *entry.tensor, entry.form, file, rounding));
  } else {
    STRATA_RETURN_IF_ERROR(file.Append(std::as_bytes(std::span(entry.numbers))));
  }
  const std::vector<std::byte> padding((format::kGgufAlignment - file.size_bytes() % format::kGgufAlignment) %
                                       format::kGgufAlignment);
  return file.Append(padding);
}

}  // namespace

absl::StatusOr<Written> WriteGgufFile(runtime::FileSystem& files, const std::string& path, const MergedModel& merged,
                                      GgufType type) {
  const model::ModelConfig& config = merged.model().config();
  STRATA_RETURN_IF_ERROR(model::CheckSayableInGguf(config, merged.model().path()));
  const format::GgufFamily* family = format::FindGgufFamily(config.architecture);
  STRATA_ASSIGN_OR_RETURN(const std::vector<Entry> entries, EntriesOf(merged, *family, type));
  STRATA_ASSIGN_OR_RETURN(const GgufMetadata metadata, MetadataOf(files, merged.model(), *family, type));
  std::vector<GgufTensorSpec> specs;
  specs.reserve(entries.size());
  for (const Entry& entry : entries) specs.push_back(entry.spec);
  STRATA_ASSIGN_OR_RETURN(const std::string preamble, format::GgufPreamble(metadata, specs));
  STRATA_ASSIGN_OR_RETURN(runtime::PendingFile file, runtime::PendingFile::Create(files, path));
  STRATA_RETURN_IF_ERROR(file.Append(std::as_bytes(std::span(preamble))));
  Written written{.path = path, .bytes = 0, .tensors = entries.size()};
  for (const Entry& entry : entries) STRATA_RETURN_IF_ERROR(AppendTensor(merged, entry, file, written.rounding));
  written.bytes = file.size_bytes() - preamble.size();
  STRATA_RETURN_IF_ERROR(std::move(file).Commit());
  return written;
}

}  // namespace strata::exporting
