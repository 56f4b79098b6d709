// A decoder-only transformer of a known family (family.h) over LibTorch, with trained and frozen low-rank columns
// beside its linear modules.
#ifndef STRATA_CLIENT_MODEL_TRANSFORMER_H_
#define STRATA_CLIENT_MODEL_TRANSFORMER_H_

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/data/dataset.h"
#include "client/model/arena.h"
#include "client/model/device.h"
#include "client/model/kv_cache.h"
#include "client/model/model_files.h"
#include "client/model/pass_inputs.h"
#include "client/model/side_adapter.h"
#include "client/model/weights.h"
#include "common/config/options.h"

namespace strata::model {

class StepGraphs;

struct NamedFactors {
  std::string module;
  SideFactors factors;
};

// How C_t is applied: by what the weights are held in, or as told (tests).
enum class BaseRoute {
  kByDtype,  // merged into fp32 weights, beside all others
  kSide,
  kMerge,
};

struct Inspection {
  std::vector<at::Tensor>
      hidden;         // fp32 [tokens, hidden]: embeddings, each layer's output; the last one after the final norm
  at::Tensor logits;  // fp32 [tokens, vocab]
};

// Tokens behind a cached sequence.
struct Continuation {
  size_t sequence = 0;
  std::vector<int32_t> ids;
};

// Not thread-safe. Deterministic for the same calls, machine and thread count. Tokens must lie inside the vocabulary
// and positions inside a learned table (INVALID_ARGUMENT else). Every function returns LibTorch's failures as statuses:
// RESOURCE_EXHAUSTED for memory, else INTERNAL.
class Transformer {
 public:
  // Reads the weights; `files` is kept for reading pristine rows again. The processor is prepared (processor.h) and
  // `threads` threads (0: all cores) compute. The matrices of `host_layers` layers stay in the host's memory
  // (host_layers.h). INVALID_ARGUMENT: a precision that contradicts itself or is not available on the device, layers on
  // the host beside it. FAILED_PRECONDITION: what takes our own CUDA kernels, in a build without them.
  static absl::StatusOr<std::unique_ptr<Transformer>> Load(std::unique_ptr<ModelFiles> files,
                                                           const config::Precision& precision, at::Device device,
                                                           int threads, int64_t host_layers = 0);

  const ModelConfig& config() const { return files_->config(); }
  const ModelFiles& files() const { return *files_; }
  at::Device device() const { return weights_.embedding.device(); }
  // Shapes of training steps whose launches are recorded; 0 but on a CUDA device.
  size_t recorded_steps() const;
  size_t resident_bytes() const { return weights_.resident_bytes; }

  // Sets C_t (several factors of one module add up), replacing the one before; merged modules are first read again from
  // the files. INVALID_ARGUMENT: a module that the model lacks, factors of another shape, or kMerge over quantised
  // weights.
  absl::Status SetBase(const std::vector<NamedFactors>& base, BaseRoute route);
  // Sets the trained factors (each with gradients), replacing the ones before. Their tensors are borrowed. Errors as
  // SetBase.
  absl::Status SetTrained(const std::vector<NamedFactors>& trained);
  // The trained factors' values changed.
  void RefreshTrained();
  // Sets the trained magnitudes to the norms of their rows as they are now, so that the factors count as without them:
  // DoRA's start.
  absl::Status ResetMagnitudes();

  // Forward and backward of one micro-batch: adds scale * d(sum of nll) to the trained factors' gradients and returns
  // the sum of nll. `recompute`: layers keep only their input and are computed again in the backward pass; the same
  // bits from less memory.
  absl::StatusOr<double> TrainStep(const data::PackedBatch& batch, double scale, const DropoutKey& dropout,
                                   bool recompute = false);
  // Sum of nll of each document.
  absl::StatusOr<std::vector<double>> Evaluate(const data::PackedBatch& batch);
  absl::StatusOr<Inspection> Inspect(const data::PackedBatch& batch);

  // A cache of this model; what it holds is of the adapters that were set when it was filled.
  absl::StatusOr<std::unique_ptr<KvCache>> NewCache(const KvCache::Size& size) const;
  // Appends tokens to the cached sequences and returns what may follow each: logits fp32 [continuations, vocab] on the
  // CPU. INVALID_ARGUMENT too: no tokens, or more than the cache has room for. REQUIRES: each sequence once.
  absl::StatusOr<at::Tensor> Continue(const std::vector<Continuation>& continuations, KvCache& cache);
  // Sum of nll of each continuation's tokens but the first. The cache keeps none of them, and several may stand behind
  // the same sequence. Errors as Continue.
  absl::StatusOr<std::vector<double>> EvaluateBehind(const std::vector<Continuation>& continuations, KvCache& cache);

 private:
  Transformer(std::unique_ptr<ModelFiles> files, at::Device device);
  // Whether a step's launches may be recorded and are worth it.
  bool Recordable(const data::PackedBatch& batch) const;
  absl::Status Check(const data::PackedBatch& batch) const;
  PassInputs InputsOf(const data::PackedBatch& batch, const PassInputs::Step& step = {}) {
    return {batch, step, config(), device(), turn_tables_, {}};
  }
  absl::StatusOr<data::PackedBatch> PackBehind(const KvCache& cache,
                                               const std::vector<Continuation>& continuations) const;
  absl::StatusOr<Weights::Place> Locate(const NamedFactors& factors) const;
  absl::Status Merge(const std::vector<NamedFactors>& base);
  absl::Status Rebuild();
  absl::Status MakeRoom();
  void ListCopies();

  std::unique_ptr<ModelFiles> files_;
  Weights weights_;
  Arena arena_;
  TurnTables turn_tables_;
  std::shared_ptr<StepGraphs> graphs_;  // of training steps; in a build with STRATA_CUDA on its devices
  std::vector<NamedFactors> side_base_, trained_;
  std::vector<std::string> merged_;
  std::vector<std::array<SideAdapter, kNumGroups>> sides_;
  // In a build with STRATA_CUDA on its devices: kernels::cuda::ScaledCopy[], what brings all trained factors up to
  // date.
  at::Tensor copies_;
};

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_TRANSFORMER_H_
