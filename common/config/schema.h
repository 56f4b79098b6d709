// The messages of proto/config.proto seen as the keys of a file: the few fields that are written in another form than
// their type says, and enums as lower-case words.
#ifndef STRATA_COMMON_CONFIG_SCHEMA_H_
#define STRATA_COMMON_CONFIG_SCHEMA_H_

#include <string>
#include <string_view>
#include <vector>

#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"

namespace strata::config {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;

// A field that the reader sets itself; not a key.
bool IsInternal(const FieldDescriptor& field);
// The flag beside a list of strings that says "this was one string" (`sites: all`, `target_modules: all-linear`), or
// null.
const FieldDescriptor* OneStringFlag(const FieldDescriptor& field);
// A list that may also be written as one number (`layers_to_transform: 3`).
bool MayBeOneNumber(const FieldDescriptor& field);
// A list of {key, value} messages that is written as a map, in order.
bool IsOrderedMap(const FieldDescriptor& field);
// An integer that is written as a size (`8GiB`).
bool IsSize(const FieldDescriptor& field);

// The keys of a message, in the order of the proto.
std::vector<std::string> KeysOf(const Descriptor& message);
// Dotted paths under `message` of the fields with this name; for keys that stand in the wrong section.
std::vector<std::string> PathsTo(const Descriptor& message, std::string_view key);
// The names of the fields under `message` and in its sections, each perhaps more than once.
std::vector<std::string> NamesIn(const Descriptor& message);
// The words of an enum, without the unspecified one.
std::vector<std::string> WordsOf(const EnumDescriptor& type);

}  // namespace strata::config

#endif  // STRATA_COMMON_CONFIG_SCHEMA_H_
