// Which tensors a model of the Llama family consists of.
#ifndef STRATA_CLIENT_MODEL_LLAMA_TENSORS_H_
#define STRATA_CLIENT_MODEL_LLAMA_TENSORS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "client/model/model_files.h"
#include "common/config/options.h"

namespace strata::model {

struct ExpectedTensor {
  std::string name;  // HF's
  std::vector<int64_t> shape;
  int64_t rotary_heads = 0;  // > 0: rows of a query or key projection with so many heads
};

// All tensors of the model, in no particular order; lm_head.weight only when it is not tied.
std::vector<ExpectedTensor> ExpectedTensors(const ModelConfig& config);

// q, k, v, o, gate, up, down of each layer, then lm_head when it is not tied.
std::vector<config::ModuleShape> LlamaLinearModules(const ModelConfig& config);

// "[2, 3]"
std::string ShapeText(const std::vector<int64_t>& shape);

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_LLAMA_TENSORS_H_
