#include "common/config/message_reader.h"

#include <array>
#include <cstddef>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/config/schema.h"
#include "common/config/units.h"

namespace strata::config {
namespace {

using google::protobuf::Message;
using google::protobuf::Reflection;

// What PEFT, transformers and habit call our keys.
constexpr std::array<std::pair<std::string_view, std::string_view>, 18> kOtherNames = {{
    {"r", "rank"},
    {"lora_alpha", "alpha"},
    {"lora_dropout", "dropout"},
    {"lr", "learning_rate"},
    {"num_train_epochs", "epochs"},
    {"max_steps", "steps"},
    {"per_device_train_batch_size", "batch_size"},
    {"max_seq_length", "max_length"},
    {"max_seq_len", "max_length"},
    {"packing", "pack"},
    {"lr_scheduler_type", "schedule"},
    {"adam_epsilon", "epsilon"},
    {"eps", "epsilon"},
    {"clip", "max_grad_norm"},
    {"gradient_accumulation", "gradient_accumulation_steps"},
    {"save_steps", "checkpoint_steps"},
    {"num_rounds", "count"},
    {"init", "start"},
}};

// The value as a fault shows it.
std::string Show(const Node& node) {
  switch (node.kind) {
    case Node::Kind::kNull:
      return "nothing";
    case Node::Kind::kList:
      return "a list";
    case Node::Kind::kMap:
      return "a map";
    case Node::Kind::kString:
      return absl::StrCat("the string \"", node.text.substr(0, 60), node.text.size() > 60 ? ".." : "", "\"");
    default:
      return absl::StrCat("`", node.text.substr(0, 60), node.text.size() > 60 ? ".." : "", "`");
  }
}

class Reader {
 public:
  Reader(const Descriptor& root, Faults& faults) : root_(root), faults_(faults) {}

  void ReadMap(const Node& node, const std::string& prefix, Message& message) {
    for (const Entry& entry : node.entries) {
      const FieldDescriptor* field = message.GetDescriptor()->FindFieldByName(entry.key);
      if (field == nullptr || IsInternal(*field)) {
        Unknown(entry, *message.GetDescriptor());
        continue;
      }
      const std::string path = JoinKeys(prefix, entry.key);
      faults_.SetLine(path, entry.line);
      ReadField(entry.value, path, *field, message);
    }
  }

 private:
  void Unknown(const Entry& entry, const Descriptor& message) {
    std::string_view meant = std::string_view(entry.key).substr(0, 64);
    for (const auto& [other, ours] : kOtherNames) {
      if (entry.key == other) meant = ours;
    }
    std::string hint = Nearest(meant, KeysOf(message));
    // A key that is nearer, in the wrong section.
    const std::string other = Nearest(meant, NamesIn(root_));
    const size_t distance = EditDistance(meant, other);
    if (distance < EditDistance(meant, hint) && 3 * distance <= meant.size()) hint = PathsTo(root_, other).front();
    faults_.AddAtLine(entry.line,
                      absl::StrCat("unknown key `", entry.key.substr(0, 60), "`; did you mean `", hint, "`?"));
  }

  // At the line of the value, which may stand below its key.
  void Wrong(const Node& node, const std::string& path, std::string_view expected) {
    faults_.SetBroken(path);
    const size_t dot = path.rfind('.');
    WrongValue(node, dot == std::string::npos ? path : path.substr(dot + 1), expected);
  }

  void WrongValue(const Node& node, std::string_view key, std::string_view expected) {
    faults_.AddAtLine(node.line,
                      absl::StrCat("`", std::string(key), "` expects ", std::string(expected), ", found ", Show(node)));
  }

  void ReadField(const Node& node, const std::string& path, const FieldDescriptor& field, Message& message) {
    if (field.is_map()) return ReadStringMap(node, path, field, message);
    if (IsOrderedMap(field)) return ReadOrderedMap(node, path, field, message);
    if (field.is_repeated()) return ReadList(node, path, field, message);
    if (field.cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) return ReadScalar(node, path, field, message);
    if (node.kind != Node::Kind::kMap && node.kind != Node::Kind::kNull) {
      return Wrong(node, path,
                   absl::StrCat("keys and values (", absl::StrJoin(KeysOf(*field.message_type()), ", "), ")"));
    }
    ReadMap(node, path, *message.GetReflection()->MutableMessage(&message, &field));
  }

  void ReadList(const Node& node, const std::string& path, const FieldDescriptor& field, Message& message) {
    const FieldDescriptor* flag = OneStringFlag(field);
    if (flag != nullptr && node.is_scalar()) {
      if (flag->name() != "all_sites") {
        message.GetReflection()->AddString(&message, &field, node.text);
      } else if (node.text != "all") {
        return Wrong(node, path, "`all` or a list of site names");
      }
      message.GetReflection()->SetBool(&message, flag, true);
      return;
    }
    if (MayBeOneNumber(field) && node.is_scalar()) return ReadScalar(node, path, field, message);
    if (node.kind != Node::Kind::kList) return Wrong(node, path, ListForm(field));
    for (size_t i = 0; i < node.items.size(); ++i) {
      const Node& item = node.items[i];
      const std::string item_path = absl::StrCat(path, "[", i, "]");
      faults_.SetLine(item_path, item.line);
      if (field.cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
        ReadScalar(item, item_path, field, message);
      } else if (item.kind == Node::Kind::kMap) {
        ReadMap(item, item_path, *message.GetReflection()->AddMessage(&message, &field));
      } else {
        Wrong(item, item_path, "keys and values");
      }
    }
  }

  static std::string ListForm(const FieldDescriptor& field) {
    const FieldDescriptor* flag = OneStringFlag(field);
    if (flag != nullptr && flag->name() == "all_sites") return "`all` or a list of site names";
    if (flag != nullptr) return "a string or a list of strings";
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) return "a list of maps";
    return field.cpp_type() == FieldDescriptor::CPPTYPE_STRING ? "a list of strings" : "a list of numbers";
  }

  void ReadStringMap(const Node& node, const std::string& path, const FieldDescriptor& field, Message& message) {
    if (node.kind == Node::Kind::kNull) return;
    if (node.kind != Node::Kind::kMap) return Wrong(node, path, "a map of strings (`label: value`)");
    for (const Entry& entry : node.entries) {
      const std::string entry_path = JoinKeys(path, entry.key);
      faults_.SetLine(entry_path, entry.line);
      AddPair(entry, field, message);
    }
  }

  void ReadOrderedMap(const Node& node, const std::string& path, const FieldDescriptor& field, Message& message) {
    if (node.kind == Node::Kind::kNull) return;
    if (node.kind != Node::Kind::kMap) return Wrong(node, path, "a map (`module: number`)");
    for (size_t i = 0; i < node.entries.size(); ++i) {
      const std::string entry_path = absl::StrCat(path, "[", i, "]");
      faults_.SetLine(entry_path, node.entries[i].line);
      AddPair(node.entries[i], field, message);
    }
  }

  void AddPair(const Entry& entry, const FieldDescriptor& field, Message& message) {
    const Descriptor& type = *field.message_type();
    Message* pair = message.GetReflection()->AddMessage(&message, &field);
    pair->GetReflection()->SetString(pair, type.FindFieldByName("key"), entry.key);
    if (!SetScalar(entry.value, *type.FindFieldByName("value"), *pair)) {
      WrongValue(entry.value, entry.key, Expected(*type.FindFieldByName("value")));
      message.GetReflection()->RemoveLast(&message, &field);
    }
  }

  void ReadScalar(const Node& node, const std::string& path, const FieldDescriptor& field, Message& message) {
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_ENUM) return ReadEnum(node, path, field, message);
    if (!SetScalar(node, field, message)) Wrong(node, path, Expected(field));
  }

  void ReadEnum(const Node& node, const std::string& path, const FieldDescriptor& field, Message& message) {
    const std::vector<std::string> words = WordsOf(*field.enum_type());
    for (const std::string& word : words) {
      if (!node.is_scalar() || node.text != word) continue;
      const auto* value = field.enum_type()->FindValueByName(absl::AsciiStrToUpper(word));
      return message.GetReflection()->SetEnum(&message, &field, value);
    }
    const std::string expected = absl::StrCat("one of ", absl::StrJoin(words, ", "));
    if (!node.is_scalar()) return Wrong(node, path, expected);
    faults_.SetBroken(path);
    faults_.AddAtLine(node.line, absl::StrCat("`", field.name(), "` expects ", expected, ", found ", Show(node),
                                              "; did you mean `", Nearest(node.text, words), "`?"));
  }

  static std::string Expected(const FieldDescriptor& field) {
    if (IsSize(field)) return "a size such as `8GiB`";
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_BOOL:
        return "`true` or `false`";
      case FieldDescriptor::CPPTYPE_DOUBLE:
        return "a number";
      case FieldDescriptor::CPPTYPE_UINT32:
        return "a whole number from 0 to 4294967295, without leading zeros";
      case FieldDescriptor::CPPTYPE_UINT64:
        return "a whole number from 0 to 18446744073709551615, without leading zeros";
      default:
        return "a string";
    }
  }

  // Sets a singular field, or adds to a repeated one. False: the value does not fit the type.
  static bool SetScalar(const Node& node, const FieldDescriptor& field, Message& message) {
    const Reflection& reflection = *message.GetReflection();
    const bool list = field.is_repeated();
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
      if (!node.is_scalar()) return false;
      list ? reflection.AddString(&message, &field, node.text) : reflection.SetString(&message, &field, node.text);
      return true;
    }
    if (node.kind != Node::Kind::kPlain && !(node.kind == Node::Kind::kString && IsSize(field))) return false;
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_BOOL) {
      if (node.text != "true" && node.text != "false") return false;
      reflection.SetBool(&message, &field, node.text == "true");
      return true;
    }
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE) {
      const std::optional<double> value = ParseNumber(node.text);
      if (!value.has_value()) return false;
      list ? reflection.AddDouble(&message, &field, *value) : reflection.SetDouble(&message, &field, *value);
      return true;
    }
    const std::optional<uint64_t> value = IsSize(field) ? ParseSize(node.text) : ParseUnsigned(node.text);
    if (!value.has_value()) return false;
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_UINT64) {
      reflection.SetUInt64(&message, &field, *value);
      return true;
    }
    if (*value > std::numeric_limits<uint32_t>::max()) return false;
    const auto narrow = static_cast<uint32_t>(*value);
    list ? reflection.AddUInt32(&message, &field, narrow) : reflection.SetUInt32(&message, &field, narrow);
    return true;
  }

  const Descriptor& root_;
  Faults& faults_;
};

}  // namespace

void ReadMessage(const Node& root, Faults& faults, Message& message) {
  Reader(*message.GetDescriptor(), faults).ReadMap(root, "", message);
}

}  // namespace strata::config
