// The base model's weights: one resident copy.
#ifndef STRATA_CLIENT_MODEL_WEIGHTS_H_
#define STRATA_CLIENT_MODEL_WEIGHTS_H_

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/model/family.h"
#include "client/model/held_matrix.h"
#include "client/model/host_layers.h"
#include "client/model/model_files.h"
#include "client/model/ops.h"
#include "common/config/precision.h"

namespace strata::model {

// A linear module inside a group: rows [first_row, first_row + rows) of the group's matrix.
struct LinearModule {
  std::string name;  // model.layers.0.self_attn.q_proj
  int64_t first_row = 0, rows = 0;
};

// Linear modules that read the same input, as one matrix.
struct LinearGroup {
  HeldMatrix weight;  // [sum of rows, in]
  // On a device, of what activations are and stays there: [sum of rows + margin, in + margin], whose first rows and
  // columns the weight is. The rest is an adapter's (side_adapter.h).
  at::Tensor wide;
  at::Tensor bias;  // fp32 [sum of rows]; undefined where there is none
  int64_t in = 0;
  std::vector<LinearModule> modules;
};

struct LayerWeights {
  std::array<Norm, kNumNorms> norms;
  std::array<LinearGroup, kNumGroups> groups;
};

struct Weights {
  at::Tensor embedding;  // [vocab, hidden], fp32, bf16 or fp16
  at::Tensor positions;  // [max_positions, hidden], in the same; undefined where they are rotary
  at::Tensor head;       // the same tensor as `embedding` when tied
  Norm final_norm;
  std::vector<LayerWeights> layers;
  // What activations and adapter columns are computed in (processor.h).
  at::ScalarType activation_type = at::kFloat;
  size_t resident_bytes = 0;                // in memory of the device
  std::shared_ptr<HostLayers> host_layers;  // null: all of them are on the device

  // Before work with a layer's matrices is started.
  void Use(size_t layer) const;
  // Whether C_t can be merged into them.
  bool mergeable() const { return host_layers == nullptr && !layers.front().groups[kQkv].weight.quantised(); }
  // The group and module that `name` is; nulls when there is none.
  struct Place {
    int64_t layer = -1;
    int group = -1;
    int module = -1;
  };
  Place Find(std::string_view name) const;
};

// Decodes every tensor straight into its place, quantising on the way, row block by row block on all threads; file
// pages are released behind. Peak memory beyond the result: a few MiB per thread, and one matrix where it is stored
// transposed, on its way to a device, or, in fp32, to become fp16. Each module is quantised on its own. The matrices of
// `host_layers` layers stay on the host. Errors: those of ModelFiles::ReadRows; RESOURCE_EXHAUSTED: memory;
// OUT_OF_RANGE: a value beyond fp16. REQUIRES: host_layers 0 or STRATA_CUDA and a CUDA device.
absl::StatusOr<Weights> LoadWeights(const ModelFiles& files, const config::Precision& precision, at::Device device,
                                    int64_t host_layers);
// Whether there is room for columns of `ranks` altogether beside a group, or it stands in no wide matrix.
bool HasMargin(const LinearGroup& group, int64_t ranks);
// Makes it. The weight moves; what was there before stays as long as somebody holds it.
void EnsureMargin(LinearGroup& group, int64_t ranks);
// Reads one linear module's rows again, as the files have them. REQUIRES: not quantised.
absl::Status ReloadModule(const ModelFiles& files, const LinearModule& module, LinearGroup& group);

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_WEIGHTS_H_
