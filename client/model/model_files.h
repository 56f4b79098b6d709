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
#include "kernels/ops.h"

namespace strata::model {

enum class RopeScaling { kNone, kLinear, kDynamic, kLlama3, kYarn, kLongRope };

// Rotary positions of a layer.
struct RopeConfig {
  double theta = 10000;
  RopeScaling scaling = RopeScaling::kNone;
  double share = 1;  // of each head's elements, from its first, that turn
  double factor = 1;
  int64_t original_max_positions = 8192;             // all but linear: positions that the model grew up with
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  double beta_fast = 32, beta_slow = 1;              // yarn: turns over the original positions, kept and slowed
  double attention_factor = 1;                       // yarn, longrope: q and k are multiplied by it
  bool truncate = true;                              // yarn: the bounds are whole dimensions
  // longrope: what divides each frequency, within the original positions and beyond them
  std::vector<double> short_factors = {}, long_factors = {};

  // Elements of a head that turn.
  int64_t turning(int64_t head_dim) const { return static_cast<int64_t>(static_cast<double>(head_dim) * share); }
  // Angles follow from the longest row of a batch too.
  bool depends_on_length() const {
    return scaling == RopeScaling::kDynamic || (scaling == RopeScaling::kLongRope && short_factors != long_factors);
  }
  bool operator==(const RopeConfig&) const = default;
};

enum class NormKind { kRms, kLayer };

// The canonical description of a decoder-only transformer, from config.json (old and new key names) or GGUF metadata.
// How its tensors are called is the family's (family.h).
struct ModelConfig {
  std::string architecture;  // the family's name, as `model_type` says
  int64_t hidden_size = 0, intermediate_size = 0, num_layers = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0,
          vocab_size = 0;
  int64_t max_positions = 0;
  NormKind norm = NormKind::kRms;
  double norm_eps = 1e-6;
  double norm_offset = 0;  // added to the norms' weights as the file has them
  kernels::Unit unit = kernels::Unit::kSwiglu;
  bool learned_positions = false;     // a table that is added to the embeddings, instead of rotary positions
  RopeConfig rope = {};               // of the layers that see everything before them
  RopeConfig window_rope = {};        // of the others
  std::vector<int64_t> windows = {};  // per layer: tokens that one attends to, itself included; 0 (or empty): all
  double query_scalar = 0;            // attention scores are divided by its root
  double attention_softcap = 0, logit_softcap = 0;  // > 0: x counts as cap * tanh(x / cap)
  bool scaled_embeddings = false;                   // times the root of hidden_size
  bool tied_embeddings = false;
  bool qkv_bias = false, output_bias = false, mlp_bias = false;

  int64_t window(size_t layer) const { return layer < windows.size() ? windows[layer] : 0; }
  // Deterministic text of everything that influences the result; part of the `semantics` digest.
  std::string Canonical() const;
};

// One tensor under its HF name, the one that transformers' and PEFT's modules have now, whatever file it lies in.
// GGUF's llama q/k rows are un-permuted into HF's rotary order on reading.
struct ModelTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::string stored_dtype;     // "BF16", "Q4_1"
  bool input_major = false;     // a linear module's matrix stored [in, out] (GPT-2), not [out, in]
  std::string older_name = {};  // in an HF file that has another
  bool other_part = false;      // of a model that takes more than text: no tensor of the part that is read here
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
  // Linear modules in model order: those of every layer (q,k,v,o,gate,up,down or as the family fuses them), the head
  // (lm_head) last when it is untied.
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
