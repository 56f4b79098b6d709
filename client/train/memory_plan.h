// What a training takes of memory and how its steps are cut to fit, from the headers of the model's files alone.
#ifndef STRATA_CLIENT_TRAIN_MEMORY_PLAN_H_
#define STRATA_CLIENT_TRAIN_MEMORY_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/model/device.h"
#include "client/model/model_files.h"
#include "client/train/local_trainer.h"
#include "client/train/micro_batches.h"
#include "common/config/options.h"

namespace strata::train {

// The free choices of a step: none changes what is computed but for rounding.
struct StepShape {
  size_t micro_batch_tokens = kMicroBatchTokens;
  bool recompute = false;   // gradient_checkpointing
  int64_t host_layers = 0;  // on a CUDA device
};
// As the options ask for.
StepShape AskedShape(const config::TrainOptions& options);
// `device` as the options have it; for auto what it comes to on this machine.
std::string DeviceOf(const std::string& device);

// Bytes of `strata-client train` at its peak, where rows are max_length long. On the CPU resident ones of this machine
// (whose processor decides how wide bf16 activations are, model/processor.h), without the data; on a CUDA device those
// of the device, its context's among them.
struct MemoryNeeds {
  uint64_t weights = 0;      // the resident copy
  uint64_t adapter = 0;      // factors, gradients, moments, the copies that the products read
  uint64_t frozen = 0;       // C_t's factors, and the copies that the products read
  uint64_t activations = 0;  // what the passes take from the arena, and ATen's temporaries beside it
  uint64_t fixed = 0;        // program, libraries, tokenizer; of a device its workspaces
  uint64_t host = 0;         // on a device: what host_layers take of the host's memory, page-locked
  uint64_t peak() const { return weights + adapter + frozen + activations + fixed; }
};

struct PlannedRun {
  config::TrainOptions options;
  std::vector<Target> targets;
  std::vector<Target> frozen = {};  // C_t's factors; several of one module add up
  // Whether a CUDA device has this project's kernels, which a base_dtype other than dtype and host_layers need.
  bool cuda_kernels = model::HasCudaKernels();
};

MemoryNeeds NeedsOf(const model::ModelFiles& model, const PlannedRun& run, const StepShape& shape);

// What the options ask for where it fits into options.max_memory (0: no limit); else smaller micro-batches, else also
// recomputation, else also the first base_dtype of fewer bytes that fits, unless one was asked for; else, on a CUDA
// device, the fewest host_layers. options.base_dtype becomes what is taken. RESOURCE_EXHAUSTED: nothing fits (says what
// the least takes). INVALID_ARGUMENT: more host_layers than layers, or no CUDA device. REQUIRES: the device is not
// auto.
absl::StatusOr<StepShape> ChooseShape(const model::ModelFiles& model, PlannedRun& run);

// Trained numbers.
uint64_t NumParameters(const std::vector<Target>& targets);

}  // namespace strata::train

#endif  // STRATA_CLIENT_TRAIN_MEMORY_PLAN_H_
