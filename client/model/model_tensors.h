// Which tensors a model consists of, by its family's table and its configuration's sizes.
#ifndef STRATA_CLIENT_MODEL_MODEL_TENSORS_H_
#define STRATA_CLIENT_MODEL_MODEL_TENSORS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "client/model/family.h"
#include "client/model/model_files.h"
#include "common/config/options.h"
#include "common/config/precision.h"

namespace strata::model {

struct ExpectedTensor {
  std::string name;            // HF's
  std::vector<int64_t> shape;  // of a linear module [out, in]
  bool linear = false;         // a linear module's matrix
};

// All tensors of the model, in no particular order; lm_head.weight only when it is not tied.
std::vector<ExpectedTensor> ExpectedTensors(const ModelConfig& config);

// What it takes of memory: linear modules as precision.base says; other matrices in its type, or in bf16 (fp16 beside
// fp16) where that is quantised; vectors in fp32.
uint64_t HeldBytes(const ExpectedTensor& tensor, const config::Precision& precision);

// The linear modules of each layer, then lm_head when it is not tied.
std::vector<config::ModuleShape> LinearModulesOf(const ModelConfig& config);

// "model.layers.3."
std::string LayerPrefix(const Family& family, int64_t layer);
// Rows of a linear module, columns of a group's modules, and whether they have biases.
int64_t RowsOfLinear(const ModelConfig& config, LinearRows rows);
int64_t ColumnsOfGroup(const ModelConfig& config, GroupIndex group);
bool HasBias(const ModelConfig& config, GroupIndex group);
// Elements of a norm's weight.
int64_t SizeOfNorm(const ModelConfig& config, NormIndex place);

// "[2, 3]"
std::string ShapeText(const std::vector<int64_t>& shape);

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_MODEL_TENSORS_H_
