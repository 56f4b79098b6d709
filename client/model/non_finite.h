// Weights that are no numbers: why a loss is none.
#ifndef STRATA_CLIENT_MODEL_NON_FINITE_H_
#define STRATA_CLIENT_MODEL_NON_FINITE_H_

#include <string>

#include "client/model/model_files.h"

namespace strata::model {

// "tensor 'NAME' of FILE holds elements that are not finite" for the first one; empty: there is none, or the weights
// cannot be read. Reads every weight.
std::string NonFiniteWeight(const ModelFiles& model);

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_NON_FINITE_H_
