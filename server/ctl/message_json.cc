#include "server/ctl/message_json.h"

#include <google/protobuf/descriptor.h>

#include <cmath>

#include "absl/strings/ascii.h"
#include "common/secure/digest.h"
#include "nlohmann/json.hpp"

namespace strata::ctl {
namespace {

using Json = nlohmann::ordered_json;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

Json ToJson(const Message& message);

Json Number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

// One value of a field: the only one, or number `index` of a repeated field.
class Value {
 public:
  Value(const Message& message, const FieldDescriptor& field, int index)
      : message_(message), reflection_(*message.GetReflection()), field_(field), index_(index) {}

  Json ToJsonValue() const {
    switch (field_.cpp_type()) {
      case FieldDescriptor::CPPTYPE_INT32:
        return Get(&Reflection::GetInt32, &Reflection::GetRepeatedInt32);
      case FieldDescriptor::CPPTYPE_INT64:
        return Get(&Reflection::GetInt64, &Reflection::GetRepeatedInt64);
      case FieldDescriptor::CPPTYPE_UINT32:
        return Get(&Reflection::GetUInt32, &Reflection::GetRepeatedUInt32);
      case FieldDescriptor::CPPTYPE_UINT64:
        return Get(&Reflection::GetUInt64, &Reflection::GetRepeatedUInt64);
      case FieldDescriptor::CPPTYPE_DOUBLE:
        return Number(Get(&Reflection::GetDouble, &Reflection::GetRepeatedDouble));
      case FieldDescriptor::CPPTYPE_FLOAT:
        return Number(Get(&Reflection::GetFloat, &Reflection::GetRepeatedFloat));
      case FieldDescriptor::CPPTYPE_BOOL:
        return Get(&Reflection::GetBool, &Reflection::GetRepeatedBool);
      case FieldDescriptor::CPPTYPE_ENUM:
        return absl::AsciiStrToLower(Get(&Reflection::GetEnum, &Reflection::GetRepeatedEnum)->name());
      case FieldDescriptor::CPPTYPE_STRING: {
        const std::string text = Get(&Reflection::GetString, &Reflection::GetRepeatedString);
        return field_.type() == FieldDescriptor::TYPE_BYTES ? secure::ToHex(text) : text;
      }
      case FieldDescriptor::CPPTYPE_MESSAGE:
        return ToJson(Submessage());
    }
    return nullptr;
  }

  const Message& Submessage() const {
    return index_ < 0 ? reflection_.GetMessage(message_, &field_)
                      : reflection_.GetRepeatedMessage(message_, &field_, index_);
  }

 private:
  template <typename T>
  T Get(T (Reflection::*one)(const Message&, const FieldDescriptor*) const,
        T (Reflection::*repeated)(const Message&, const FieldDescriptor*, int) const) const {
    return index_ < 0 ? (reflection_.*one)(message_, &field_) : (reflection_.*repeated)(message_, &field_, index_);
  }

  const Message& message_;
  const Reflection& reflection_;
  const FieldDescriptor& field_;
  const int index_;  // -1: the field is not repeated
};

Json ToJson(const Message& message) {
  Json object = Json::object();
  const Reflection& reflection = *message.GetReflection();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor& field = *message.GetDescriptor()->field(i);
    Json& value = object[field.name()];
    if (field.is_repeated()) {
      value = Json::array();
      for (int k = 0; k < reflection.FieldSize(message, &field); ++k) {
        value.push_back(Value(message, field, k).ToJsonValue());
      }
    } else if (field.has_presence() && !reflection.HasField(message, &field)) {
      object.erase(field.name());
    } else {
      value = Value(message, field, -1).ToJsonValue();
    }
  }
  return object;
}

}  // namespace

std::string MessageJson(const Message& message) {
  return ToJson(message).dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace strata::ctl
