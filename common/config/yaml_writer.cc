#include "common/config/yaml_writer.h"

#include <algorithm>
#include <map>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/config/schema.h"
#include "common/config/units.h"

namespace strata::config {
namespace {

using google::protobuf::Message;
using google::protobuf::Reflection;

// Scalars that YAML readers may take for something else than a string.
bool LooksTyped(std::string_view text) {
  const std::string lower = absl::AsciiStrToLower(std::string(text));
  for (const char* word : {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}) {
    if (lower == word) return true;
  }
  return absl::ascii_isdigit(static_cast<unsigned char>(text[0])) || text[0] == '.' || text[0] == '-';
}

std::string ScalarText(const Message& message, const FieldDescriptor& field, int index) {
  const Reflection& reflection = *message.GetReflection();
  const bool list = index >= 0;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection.GetBool(message, &field) ? "true" : "false";
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return FormatNumber(list ? reflection.GetRepeatedDouble(message, &field, index)
                               : reflection.GetDouble(message, &field));
    case FieldDescriptor::CPPTYPE_UINT32:
      return absl::StrCat(list ? reflection.GetRepeatedUInt32(message, &field, index)
                               : reflection.GetUInt32(message, &field));
    case FieldDescriptor::CPPTYPE_UINT64: {
      const uint64_t value = reflection.GetUInt64(message, &field);
      return IsSize(field) ? FormatSize(value) : absl::StrCat(value);
    }
    case FieldDescriptor::CPPTYPE_ENUM:
      return absl::AsciiStrToLower(reflection.GetEnum(message, &field)->name());
    default:
      return QuoteYaml(list ? reflection.GetRepeatedString(message, &field, index)
                            : reflection.GetString(message, &field));
  }
}

std::string MapText(const Message& message, const FieldDescriptor& field, const std::string& margin) {
  const Reflection& reflection = *message.GetReflection();
  std::vector<std::string> lines;
  for (int i = 0; i < reflection.FieldSize(message, &field); ++i) {
    const Message& pair = reflection.GetRepeatedMessage(message, &field, i);
    const std::string key = pair.GetReflection()->GetString(pair, pair.GetDescriptor()->FindFieldByName("key"));
    const std::string value = ScalarText(pair, *pair.GetDescriptor()->FindFieldByName("value"), -1);
    lines.push_back(absl::StrCat(margin, "  ", QuoteYaml(key), ": ", value, "\n"));
  }
  // A proto map has no order; an ordered one keeps its own.
  if (field.is_map()) std::sort(lines.begin(), lines.end());
  return absl::StrCat(margin, field.name(), ":\n", absl::StrJoin(lines, ""));
}

std::string ListText(const Message& message, const FieldDescriptor& field, int indent) {
  const Reflection& reflection = *message.GetReflection();
  const std::string margin(static_cast<size_t>(indent), ' ');
  const int size = reflection.FieldSize(message, &field);
  const FieldDescriptor* flag = OneStringFlag(field);
  if (flag != nullptr && reflection.GetBool(message, flag)) {
    return absl::StrCat(margin, field.name(), ": ", size == 0 ? "all" : ScalarText(message, field, 0), "\n");
  }
  if (size == 0) return "";
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
    std::string text = absl::StrCat(margin, field.name(), ":\n");
    for (int i = 0; i < size; ++i) {
      std::string item = WriteYaml(reflection.GetRepeatedMessage(message, &field, i), indent + 4);
      item[margin.size() + 2] = '-';
      text += item;
    }
    return text;
  }
  std::vector<std::string> items;
  items.reserve(static_cast<size_t>(size));
  for (int i = 0; i < size; ++i) items.push_back(ScalarText(message, field, i));
  return absl::StrCat(margin, field.name(), ": [", absl::StrJoin(items, ", "), "]\n");
}

}  // namespace

std::string QuoteYaml(std::string_view text) {
  const bool plain = !text.empty() && !LooksTyped(text) && std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-' || c == '.' || c == '/';
  });
  if (plain) return std::string(text);
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      quoted.append({'\\', c});
    } else if (absl::ascii_iscntrl(static_cast<unsigned char>(c))) {
      absl::StrAppendFormat(&quoted, "\\x%02x", static_cast<unsigned char>(c));
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

std::string WriteYaml(const Message& message, int indent) {
  const Reflection& reflection = *message.GetReflection();
  const std::string margin(static_cast<size_t>(indent), ' ');
  std::string text;
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor& field = *message.GetDescriptor()->field(i);
    if (IsInternal(field)) continue;
    if (field.is_map() || IsOrderedMap(field)) {
      if (reflection.FieldSize(message, &field) > 0) text += MapText(message, field, margin);
    } else if (field.is_repeated()) {
      text += ListText(message, field, indent);
    } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      const std::string section =
          reflection.HasField(message, &field) ? WriteYaml(reflection.GetMessage(message, &field), indent + 2) : "";
      if (!section.empty()) absl::StrAppend(&text, margin, field.name(), ":\n", section);
    } else if (reflection.HasField(message, &field)) {
      absl::StrAppend(&text, margin, field.name(), ": ", ScalarText(message, field, -1), "\n");
    }
  }
  return text;
}

}  // namespace strata::config
