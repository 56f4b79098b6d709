#include <array>
#include <utility>

#include "common/format/gguf.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::format {
namespace {

std::string_view TypeName(const GgufValue& value) {
  static constexpr std::array<std::string_view, 6> kNames = {"an unsigned integer", "a signed integer", "a float",
                                                             "a boolean",           "a string",         "an array"};
  return kNames[value.index()];
}

absl::StatusOr<const GgufValue*> FindValue(const std::map<std::string, GgufValue>& metadata, std::string_view key) {
  const auto it = metadata.find(std::string(key));
  if (it == metadata.end()) return absl::NotFoundError(Cat("GGUF key '", key, "' is missing"));
  return &it->second;
}

absl::Status WrongType(std::string_view key, std::string_view expected, const GgufValue& value) {
  return absl::InvalidArgumentError(Cat("GGUF key '", key, "': expected ", expected, ", found ", TypeName(value)));
}

template <typename T>
absl::StatusOr<T> Get(const std::map<std::string, GgufValue>& metadata, std::string_view key,
                      std::string_view expected) {
  STRATA_ASSIGN_OR_RETURN(const GgufValue* value, FindValue(metadata, key));
  if (const T* held = std::get_if<T>(value)) return *held;
  return WrongType(key, expected, *value);
}

}  // namespace

absl::StatusOr<uint64_t> Gguf::GetUint(std::string_view key) const {
  STRATA_ASSIGN_OR_RETURN(const GgufValue* value, FindValue(metadata_, key));
  if (const auto* held = std::get_if<uint64_t>(value)) return *held;
  if (const auto* held = std::get_if<int64_t>(value); held != nullptr && *held >= 0) {
    return static_cast<uint64_t>(*held);
  }
  return WrongType(key, "an unsigned integer", *value);
}

absl::StatusOr<double> Gguf::GetFloat(std::string_view key) const { return Get<double>(metadata_, key, "a float"); }

absl::StatusOr<std::string> Gguf::GetString(std::string_view key) const {
  return Get<std::string>(metadata_, key, "a string");
}

absl::StatusOr<bool> Gguf::GetBool(std::string_view key) const { return Get<bool>(metadata_, key, "a boolean"); }

absl::StatusOr<std::vector<std::string>> Gguf::GetStrings(std::string_view key) const {
  STRATA_ASSIGN_OR_RETURN(const GgufValue* value, FindValue(metadata_, key));
  if (const auto* array = std::get_if<std::shared_ptr<const GgufArray>>(value)) {
    if (const auto* held = std::get_if<std::vector<std::string>>(&(*array)->values)) return *held;
    return absl::InvalidArgumentError(Cat("GGUF key '", key, "': expected an array of strings"));
  }
  return WrongType(key, "an array of strings", *value);
}

absl::StatusOr<std::vector<double>> Gguf::GetNumbers(std::string_view key) const {
  STRATA_ASSIGN_OR_RETURN(const GgufValue* value, FindValue(metadata_, key));
  const auto* array = std::get_if<std::shared_ptr<const GgufArray>>(value);
  if (array == nullptr) return WrongType(key, "an array of numbers", *value);
  const auto& values = (*array)->values;
  if (const auto* held = std::get_if<std::vector<double>>(&values)) return *held;
  if (const auto* held = std::get_if<std::vector<uint64_t>>(&values)) {
    return std::vector<double>(held->begin(), held->end());
  }
  if (const auto* held = std::get_if<std::vector<int64_t>>(&values)) {
    return std::vector<double>(held->begin(), held->end());
  }
  return absl::InvalidArgumentError(Cat("GGUF key '", key, "': expected an array of numbers"));
}

}  // namespace strata::format
