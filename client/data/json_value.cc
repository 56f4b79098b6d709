#include "client/data/json_value.h"

#include <utility>
#include <vector>

#include "common/status/status_macros.h"

namespace strata::data {
namespace {

absl::StatusOr<jinja::Value> Convert(const OrderedJson& json, int depth) {
  if (depth > jinja::kMaxNesting) return absl::InvalidArgumentError("lists and objects are nested too deeply");
  switch (json.type()) {
    case OrderedJson::value_t::boolean:
      return jinja::Value(json.get<bool>());
    case OrderedJson::value_t::number_integer:
    case OrderedJson::value_t::number_unsigned:
      if (json.is_number_unsigned() && json.get<uint64_t>() > INT64_MAX) {
        return absl::InvalidArgumentError("an integer that does not fit 64 bits");
      }
      return jinja::Value(json.get<int64_t>());
    case OrderedJson::value_t::number_float:
      return jinja::Value(json.get<double>());
    case OrderedJson::value_t::string:
      return jinja::Value(json.get_ref<const std::string&>());
    case OrderedJson::value_t::array: {
      std::vector<jinja::Value> items;
      for (const OrderedJson& item : json) {
        STRATA_ASSIGN_OR_RETURN(jinja::Value value, Convert(item, depth + 1));
        items.push_back(std::move(value));
      }
      return jinja::Value::MakeList(std::move(items));
    }
    case OrderedJson::value_t::object: {
      std::vector<std::pair<jinja::Value, jinja::Value>> entries;
      for (auto it = json.begin(); it != json.end(); ++it) {
        STRATA_ASSIGN_OR_RETURN(jinja::Value value, Convert(it.value(), depth + 1));
        entries.emplace_back(jinja::Value(it.key()), std::move(value));
      }
      return jinja::Value::MakeDict(std::move(entries));
    }
    default:
      return jinja::Value::MakeNone();
  }
}

}  // namespace

absl::StatusOr<jinja::Value> ToValue(const OrderedJson& json) { return Convert(json, 1); }

}  // namespace strata::data
