// Typed access to a JSON object whose faults say where in the file they lie.
#ifndef STRATA_CLIENT_DATA_JSON_FIELDS_H_
#define STRATA_CLIENT_DATA_JSON_FIELDS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace strata::data {

using Json = nlohmann::json;

// INVALID_ARGUMENT with the byte where the text stops being JSON.
absl::StatusOr<Json> ParseJson(std::string_view text, std::string_view place);

// A borrowed object and its place ("tokenizer.json: model.vocab"). Null counts as absent. All errors are
// INVALID_ARGUMENT.
class Fields {
 public:
  static absl::StatusOr<Fields> Of(const Json& json, std::string place);

  const std::string& place() const { return place_; }
  const Json* Find(std::string_view key) const;  // nullptr: absent or null
  absl::StatusOr<const Json*> Need(std::string_view key) const;
  absl::StatusOr<std::string> String(std::string_view key) const;
  absl::StatusOr<std::string> String(std::string_view key, std::string_view absent) const;
  absl::StatusOr<bool> Bool(std::string_view key, bool absent) const;
  absl::StatusOr<int64_t> Int(std::string_view key) const;
  absl::StatusOr<int64_t> Int(std::string_view key, int64_t absent) const;
  absl::StatusOr<Fields> Object(std::string_view key) const;
  absl::StatusOr<std::vector<Fields>> Objects(std::string_view key) const;  // an array of objects
  absl::StatusOr<char32_t> Character(std::string_view key, char32_t absent) const;
  absl::Status Fault(std::string_view what) const;
  std::string PlaceOf(std::string_view key) const;

 private:
  Fields(const Json& json, std::string place) : json_(&json), place_(std::move(place)) {}
  const Json* json_;
  std::string place_;
};

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_JSON_FIELDS_H_
