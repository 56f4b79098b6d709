// A LoRA adapter in the form that llama.cpp's loader reads.
#ifndef STRATA_COMMON_ADAPTER_GGUF_ADAPTER_H_
#define STRATA_COMMON_ADAPTER_GGUF_ADAPTER_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/adapter/adapter.h"
#include "common/format/gguf_names.h"
#include "common/format/gguf_writer.h"
#include "common/runtime/file_system.h"

namespace strata::adapter {

// What of the base model decides how its adapters look in GGUF.
struct GgufBase {
  const format::GgufFamily* family = nullptr;
  int64_t num_heads = 0, num_kv_heads = 0;  // of families whose rows of q and k lie in another order in GGUF
  bool tied_head = false;  // the head is the embedding: llama.cpp has no tensor that an adapter of it could name
};
// From an HF directory's config.json, or a GGUF file's metadata. NOT_FOUND: neither is there. INVALID_ARGUMENT: keys
// missing or of another type. UNIMPLEMENTED: a family whose names in GGUF are not known, with those that are.
absl::StatusOr<GgufBase> ReadGgufBase(runtime::FileSystem& files, const std::string& model);

// Writes general.type = adapter, adapter.type = lora, general.architecture, adapter.lora.alpha, and per module
// NAME.weight.lora_a [rank, in] and NAME.weight.lora_b [out, rank] as F32 or F16; of families whose q and k rows lie in
// another order in GGUF, lora_b's rows in that order. llama.cpp scales a module by alpha / rank with the rank of the
// tensors and the one alpha of the file: alpha is the most frequent scaling * rank, and where a module's differs the
// quotient is multiplied into its lora_b before rounding. Modules of rank 0 are left out. The file is complete or not
// there. INVALID_ARGUMENT, naming every module: no such module in the family, a tied head, rows that are no whole
// heads, an element beyond the range of F16; an adapter with magnitudes (DoRA).
absl::Status WriteGgufAdapter(runtime::FileSystem& files, const std::string& path, const Adapter& adapter,
                              const GgufBase& base, format::GgufType type);

// Reads such a file, whoever wrote it. Modules keep their names in GGUF (blk.3.attn_q) and rows their order: without
// the base model neither can be told. INVALID_ARGUMENT: no adapter of type lora, a lone factor, ranks that differ.
absl::StatusOr<Adapter> ReadGgufAdapter(runtime::FileSystem& files, const std::string& path);

}  // namespace strata::adapter

#endif  // STRATA_COMMON_ADAPTER_GGUF_ADAPTER_H_
