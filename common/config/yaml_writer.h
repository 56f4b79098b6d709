// Message -> YAML, the reverse of the message reader.
#ifndef STRATA_COMMON_CONFIG_YAML_WRITER_H_
#define STRATA_COMMON_CONFIG_YAML_WRITER_H_

#include <string>
#include <string_view>

#include "google/protobuf/message.h"

namespace strata::config {

// Keys in the order of the proto; empty strings, lists, maps and unset optional fields are left out.
std::string WriteYaml(const google::protobuf::Message& message, int indent = 0);
// A scalar that reads back as this string.
std::string QuoteYaml(std::string_view text);

}  // namespace strata::config

#endif  // STRATA_COMMON_CONFIG_YAML_WRITER_H_
