// JSON as the values of a template.
#ifndef STRATA_CLIENT_DATA_JSON_VALUE_H_
#define STRATA_CLIENT_DATA_JSON_VALUE_H_

#include "absl/status/statusor.h"
#include "client/data/jinja/value.h"
#include "nlohmann/json.hpp"

namespace strata::data {

using OrderedJson = nlohmann::ordered_json;  // templates show a row's keys in the order of the row

// INVALID_ARGUMENT: nested deeper than jinja::kMaxNesting, an integer that does not fit 64 bits.
absl::StatusOr<jinja::Value> ToValue(const OrderedJson& json);

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_JSON_VALUE_H_
