#include "common/config/schema.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/ascii.h"
#include "common/config/faults.h"

namespace strata::config {
namespace {

struct OneString {
  std::string_view field;
  std::string_view flag;
};

constexpr std::array<OneString, 3> kOneStrings = {{
    {"strata.v1.AdapterConfig.target_modules", "target_is_expression"},
    {"strata.v1.AdapterConfig.exclude_modules", "exclude_is_expression"},
    {"strata.v1.JobConfig.sites", "all_sites"},
}};

}  // namespace

bool IsInternal(const FieldDescriptor& field) {
  return std::any_of(kOneStrings.begin(), kOneStrings.end(),
                     [&](const OneString& o) { return o.flag == field.name(); });
}

const FieldDescriptor* OneStringFlag(const FieldDescriptor& field) {
  for (const OneString& one : kOneStrings) {
    if (one.field == field.full_name()) return field.containing_type()->FindFieldByName(std::string(one.flag));
  }
  return nullptr;
}

bool MayBeOneNumber(const FieldDescriptor& field) { return field.name() == "layers_to_transform"; }

bool IsOrderedMap(const FieldDescriptor& field) {
  return field.is_repeated() && !field.is_map() && field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE &&
         field.message_type()->name().ends_with("Pattern");
}

bool IsSize(const FieldDescriptor& field) { return field.name().ends_with("_bytes") || field.name() == "max_memory"; }

std::vector<std::string> KeysOf(const Descriptor& message) {
  std::vector<std::string> keys;
  for (int i = 0; i < message.field_count(); ++i) {
    if (!IsInternal(*message.field(i))) keys.push_back(message.field(i)->name());
  }
  return keys;
}

std::vector<std::string> PathsTo(const Descriptor& message, std::string_view key) {
  std::vector<std::string> paths;
  for (int i = 0; i < message.field_count(); ++i) {
    const FieldDescriptor& field = *message.field(i);
    if (IsInternal(field)) continue;
    if (field.name() == key) paths.push_back(field.name());
    if (field.is_repeated() || field.cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) continue;
    for (const std::string& path : PathsTo(*field.message_type(), key)) paths.push_back(JoinKeys(field.name(), path));
  }
  return paths;
}

std::vector<std::string> NamesIn(const Descriptor& message) {
  std::vector<std::string> names = KeysOf(message);
  for (int i = 0; i < message.field_count(); ++i) {
    const FieldDescriptor& field = *message.field(i);
    if (field.is_repeated() || field.cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) continue;
    for (std::string& name : NamesIn(*field.message_type())) names.push_back(std::move(name));
  }
  return names;
}

std::vector<std::string> WordsOf(const EnumDescriptor& type) {
  std::vector<std::string> words;
  for (int i = 0; i < type.value_count(); ++i) {
    if (type.value(i)->number() != 0) words.push_back(absl::AsciiStrToLower(type.value(i)->name()));
  }
  return words;
}

}  // namespace strata::config
