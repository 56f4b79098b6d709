#include "client/data/json_fields.h"

#include <utility>

#include "client/data/unicode.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::data {

absl::StatusOr<Json> ParseJson(std::string_view text, std::string_view place) {
  try {
    return Json::parse(text.begin(), text.end());
  } catch (const Json::exception& error) {
    std::string_view what = error.what();
    if (const size_t end = what.find("] "); end != std::string_view::npos) what.remove_prefix(end + 2);
    return absl::InvalidArgumentError(Cat(place, ": no valid JSON: ", ToValidUtf8(what)));
  }
}

absl::StatusOr<Fields> Fields::Of(const Json& json, std::string place) {
  if (!json.is_object()) {
    return absl::InvalidArgumentError(Cat(place, ": an object is expected, found ", json.type_name()));
  }
  return Fields(json, std::move(place));
}

std::string Fields::PlaceOf(std::string_view key) const {
  return Cat(place_, place_.find(": ") == std::string::npos ? ": " : ".", key);
}

absl::Status Fields::Fault(std::string_view what) const { return absl::InvalidArgumentError(Cat(place_, ": ", what)); }

const Json* Fields::Find(std::string_view key) const {
  const auto it = json_->find(key);
  return it == json_->end() || it->is_null() ? nullptr : &*it;
}

absl::StatusOr<const Json*> Fields::Need(std::string_view key) const {
  const Json* value = Find(key);
  if (value == nullptr) return Fault(Cat("'", key, "' is missing"));
  return value;
}

absl::StatusOr<std::string> Fields::String(std::string_view key) const {
  STRATA_ASSIGN_OR_RETURN(const Json* value, Need(key));
  if (!value->is_string()) {
    return absl::InvalidArgumentError(Cat(PlaceOf(key), ": a string is expected, found ", value->type_name()));
  }
  return value->get_ref<const std::string&>();
}

absl::StatusOr<std::string> Fields::String(std::string_view key, std::string_view absent) const {
  if (Find(key) == nullptr) return std::string(absent);
  return String(key);
}

absl::StatusOr<bool> Fields::Bool(std::string_view key, bool absent) const {
  const Json* value = Find(key);
  if (value == nullptr) return absent;
  if (!value->is_boolean()) {
    return absl::InvalidArgumentError(Cat(PlaceOf(key), ": true or false is expected, found ", value->type_name()));
  }
  return value->get<bool>();
}

absl::StatusOr<int64_t> Fields::Int(std::string_view key) const {
  STRATA_ASSIGN_OR_RETURN(const Json* value, Need(key));
  if (!value->is_number_integer() || (value->is_number_unsigned() && value->get<uint64_t>() > INT64_MAX)) {
    return absl::InvalidArgumentError(Cat(PlaceOf(key), ": an integer is expected, found ", value->type_name()));
  }
  return value->get<int64_t>();
}

absl::StatusOr<int64_t> Fields::Int(std::string_view key, int64_t absent) const {
  if (Find(key) == nullptr) return absent;
  return Int(key);
}

absl::StatusOr<Fields> Fields::Object(std::string_view key) const {
  STRATA_ASSIGN_OR_RETURN(const Json* value, Need(key));
  return Of(*value, PlaceOf(key));
}

absl::StatusOr<std::vector<Fields>> Fields::Objects(std::string_view key) const {
  STRATA_ASSIGN_OR_RETURN(const Json* value, Need(key));
  if (!value->is_array()) {
    return absl::InvalidArgumentError(Cat(PlaceOf(key), ": an array is expected, found ", value->type_name()));
  }
  std::vector<Fields> objects;
  for (size_t i = 0; i < value->size(); ++i) {
    STRATA_ASSIGN_OR_RETURN(Fields object, Of((*value)[i], Cat(PlaceOf(key), "[", i, "]")));
    objects.push_back(std::move(object));
  }
  return objects;
}

absl::StatusOr<char32_t> Fields::Character(std::string_view key, char32_t absent) const {
  if (Find(key) == nullptr) return absent;
  STRATA_ASSIGN_OR_RETURN(const std::string text, String(key));
  if (NumCodePoints(text) != 1) {
    return absl::InvalidArgumentError(Cat(PlaceOf(key), ": one character is expected, found '", text, "'"));
  }
  size_t pos = 0;
  return NextCodePoint(text, pos);
}

}  // namespace strata::data
