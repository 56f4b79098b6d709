// A base model's files: which tensors, which shapes, which architecture, whose digest. Nothing here computes with
// LibTorch.
#ifndef STRATA_CLIENT_MODEL_MODEL_FILES_H_
#define STRATA_CLIENT_MODEL_MODEL_FILES_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/adapter/manifest.h"
#include "common/config/options.h"
#include "common/format/gguf.h"
#include "common/format/safetensors.h"
#include "common/runtime/file_system.h"

namespace strata::model {

enum class RopeScaling { kNone, kLinear, kLlama3 };

// The canonical description of a decoder-only transformer (Llama family), from config.json (old and new key names) or
// GGUF metadata.
struct ModelConfig {
  std::string architecture;  // "llama"
  int64_t hidden_size = 0, intermediate_size = 0, num_layers = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0,
          vocab_size = 0;
  int64_t max_positions = 0;
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000;
  RopeScaling rope_scaling = RopeScaling::kNone;
  double rope_factor = 1, rope_low_freq_factor = 1, rope_high_freq_factor = 4;
  int64_t rope_original_max_positions = 8192;
  bool tied_embeddings = false;
  bool attention_bias = false, mlp_bias = false;
  // Deterministic text of everything that influences the result; part of the `semantics` digest.
  std::string Canonical() const;
};

// One tensor under its HF name, whatever file it lies in. GGUF's llama q/k rows are un-permuted into HF's rotary order
// on reading.
struct ModelTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::string stored_dtype;  // "BF16", "Q4_1"
};

// An opened model: an HF directory (config.json; model.safetensors or shards with an index), org/name found offline in
// the HF cache ($HF_HOME, default
// ~/.cache/huggingface), or a GGUF file. Const use is thread-safe.
class ModelFiles {
 public:
  // Errors name file and tensor, expected and found: NOT_FOUND (nothing there; what was tried), INVALID_ARGUMENT
  // (missing shard, tensor missing, wrong shape or dtype, config contradicting tensors), UNIMPLEMENTED (architecture;
  // lists the known ones).
  static absl::StatusOr<std::unique_ptr<ModelFiles>> Open(runtime::FileSystem& files, const std::string& model);
  virtual ~ModelFiles() = default;

  virtual const ModelConfig& config() const = 0;
  virtual const std::string& path() const = 0;                  // directory or file as resolved
  virtual const std::vector<ModelTensor>& tensors() const = 0;  // by name
  // Decodes rows [first, first + out.size()/row) of a tensor to fp32. Whole-tensor reads release the file's pages
  // behind them.
  virtual absl::Status ReadRows(std::string_view tensor, int64_t first_row, std::span<float> out) const = 0;
  // The stored bytes where they are plain BF16/F32/F16 in HF order (no copy); empty where decoding is needed.
  virtual std::span<const std::byte> RawBytes(std::string_view tensor) const = 0;
  // The bytes in the file whatever their encoding and order: what the digest covers. Empty: no such tensor.
  virtual std::span<const std::byte> StoredBytes(std::string_view tensor) const = 0;
  virtual void ReleasePages(std::string_view tensor) const = 0;
  // The files that hold the weights.
  virtual const std::vector<std::string>& weight_files() const = 0;
  // Linear modules in model order: q,k,v,o,gate,up,down of every layer, the head (lm_head) last when it is untied.
  virtual std::vector<config::ModuleShape> LinearModules() const = 0;
};

// weights: SHA-256 over (name, dtype, shape, SHA-256 of stored bytes) in byte order of names; semantics: SHA-256 of
// config().Canonical() and the tokenizer's Canonical() (nothing where the model has no tokenizer); encoding: the dtype
// that most of the weights are stored in. The digest of the weights is cached in `cache_directory` (empty: no cache) by
// device, inode, size, mtime of the files.
absl::StatusOr<adapter::BaseIdentity> IdentifyBase(runtime::FileSystem& files, const ModelFiles& model,
                                                   const std::string& cache_directory);

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_MODEL_FILES_H_
