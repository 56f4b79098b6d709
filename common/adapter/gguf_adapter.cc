#include "common/adapter/gguf_adapter.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "common/runtime/pending_file.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::adapter {
namespace {

using format::GgufChange;
using format::GgufType;

constexpr float kLargestHalf = 65504;

struct Entry {
  const Factors* factors = nullptr;
  std::string name;      // blk.3.attn_q
  int64_t head_dim = 0;  // > 0: rows of B in GGUF's rotary order
  double gain = 1;       // multiplied into B
};

// The heads whose rows are reordered; 0: none are.
int64_t RotaryHeads(const GgufBase& base, GgufChange change) {
  if (change == GgufChange::kQueryRows) return base.num_heads;
  return change == GgufChange::kKeyRows ? base.num_kv_heads : 0;
}

absl::StatusOr<Entry> EntryOf(const Factors& factors, const GgufBase& base) {
  const auto fault = [&factors](auto&&... parts) {
    return absl::InvalidArgumentError(Cat("module '", factors.module, "' ", parts...));
  };
  const format::GgufModuleName name = format::GgufModuleOfHf(*base.family, factors.module);
  if (!name) return fault("has no name in GGUF's ", base.family->architecture, " family; is this its base model?");
  if (name.gguf == "output" && base.tied_head) {
    return fault("is tied to the embedding: GGUF has no tensor of it that an adapter could name");
  }
  Entry entry{.factors = &factors, .name = name.gguf};
  if (const int64_t heads = RotaryHeads(base, name.change); heads > 0) {
    if (factors.out % (2 * heads) != 0) {
      return fault("has ", factors.out, " rows, which are no even number for each of ", heads, " heads");
    }
    entry.head_dim = factors.out / heads;
  }
  return entry;
}

absl::StatusOr<std::vector<Entry>> EntriesOf(const Adapter& adapter, const GgufBase& base) {
  std::vector<Entry> entries;
  std::vector<std::string> faults;
  for (const Factors& factors : adapter.modules()) {
    if (factors.rank == 0) continue;
    auto entry = EntryOf(factors, base);
    if (entry.ok()) {
      entries.push_back(*std::move(entry));
    } else {
      faults.emplace_back(entry.status().message());
    }
  }
  if (!faults.empty()) return absl::InvalidArgumentError(absl::StrJoin(faults, "\n"));
  return entries;
}

// The alpha that needs the fewest factors changed. llama.cpp takes 0 for "no scaling", so 0 is never chosen.
float ChooseAlpha(std::vector<Entry>& entries) {
  std::map<float, int> counts;
  const auto wanted = [](const Entry& entry) {
    return entry.factors->scaling * static_cast<double>(entry.factors->rank);
  };
  for (const Entry& entry : entries) {
    const auto alpha = static_cast<float>(wanted(entry));
    if (alpha != 0 && std::isfinite(alpha)) ++counts[alpha];
  }
  const auto best =
      std::max_element(counts.begin(), counts.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  const float alpha = best == counts.end() ? 1.0F : best->first;
  for (Entry& entry : entries) entry.gain = wanted(entry) / static_cast<double>(alpha);
  return alpha;
}

absl::Status Append(runtime::PendingFile& file, GgufType type, std::span<const float> values, std::string_view name) {
  if (type == GgufType::kF16) {
    const auto beyond = std::find_if(values.begin(), values.end(), [](float v) { return std::abs(v) > kLargestHalf; });
    if (beyond != values.end()) {
      return absl::InvalidArgumentError(Cat("tensor ", name, ": ", *beyond, " is beyond F16; write F32"));
    }
  }
  std::vector<std::byte> bytes(format::GgufSizeBytes(type, values.size()));
  STRATA_RETURN_IF_ERROR(format::EncodeGguf(type, values, bytes));
  bytes.resize((bytes.size() + format::kGgufAlignment - 1) / format::kGgufAlignment * format::kGgufAlignment);
  return file.Append(bytes);
}

absl::StatusOr<std::vector<float>> RowsOfB(const Entry& entry) {
  const Factors& factors = *entry.factors;
  std::vector<double> stored(static_cast<size_t>(factors.out * factors.rank));
  STRATA_RETURN_IF_ERROR(format::ToDouble(factors.b, stored));
  std::vector<float> rows(stored.size());
  for (int64_t row = 0; row < factors.out; ++row) {
    const int64_t from = entry.head_dim > 0 ? format::HfRotaryRow(row, entry.head_dim) : row;
    std::transform(stored.begin() + from * factors.rank, stored.begin() + (from + 1) * factors.rank,
                   rows.begin() + row * factors.rank,
                   [&entry](double value) { return static_cast<float>(value * entry.gain); });
  }
  return rows;
}

absl::Status AppendFactors(runtime::PendingFile& file, GgufType type, const Entry& entry) {
  std::vector<float> a(static_cast<size_t>(entry.factors->rank * entry.factors->in));
  STRATA_RETURN_IF_ERROR(format::ToFloat(entry.factors->a, a));
  STRATA_RETURN_IF_ERROR(Append(file, type, a, Cat(entry.name, ".weight.lora_a")));
  STRATA_ASSIGN_OR_RETURN(const std::vector<float> b, RowsOfB(entry));
  return Append(file, type, b, Cat(entry.name, ".weight.lora_b"));
}

}  // namespace

absl::Status WriteGgufAdapter(runtime::FileSystem& files, const std::string& path, const Adapter& adapter,
                              const GgufBase& base, format::GgufType type) {
  STRATA_RETURN_IF_ERROR(RequireNoMagnitudes(
      adapter,
      "llama.cpp's adapters have no magnitudes; `strata-client merge` writes the model with it merged as GGUF"));
  STRATA_ASSIGN_OR_RETURN(std::vector<Entry> entries, EntriesOf(adapter, base));
  format::GgufMetadata metadata;
  metadata.SetString("general.architecture", base.family->architecture);
  metadata.SetString("general.type", "adapter");
  metadata.SetString("adapter.type", "lora");
  metadata.SetFloat("adapter.lora.alpha", ChooseAlpha(entries));
  std::vector<format::GgufTensorSpec> specs;
  for (const Entry& entry : entries) {
    specs.push_back({Cat(entry.name, ".weight.lora_a"), type, {entry.factors->rank, entry.factors->in}});
    specs.push_back({Cat(entry.name, ".weight.lora_b"), type, {entry.factors->out, entry.factors->rank}});
  }
  STRATA_ASSIGN_OR_RETURN(const std::string preamble, format::GgufPreamble(metadata, specs));
  STRATA_ASSIGN_OR_RETURN(runtime::PendingFile file, runtime::PendingFile::Create(files, path));
  STRATA_RETURN_IF_ERROR(file.Append(std::as_bytes(std::span(preamble))));
  for (const Entry& entry : entries) STRATA_RETURN_IF_ERROR(AppendFactors(file, type, entry));
  return std::move(file).Commit();
}

}  // namespace strata::adapter
