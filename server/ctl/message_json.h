// Any message as JSON for scripts.
#ifndef STRATA_SERVER_CTL_MESSAGE_JSON_H_
#define STRATA_SERVER_CTL_MESSAGE_JSON_H_

#include <google/protobuf/message.h>

#include <string>

namespace strata::ctl {

// One line: fields by their snake_case names, integers as numbers, enums in lower case, bytes in hex, numbers that are
// not finite as null. Fields with presence are left out when not set, all others always there.
std::string MessageJson(const google::protobuf::Message& message);

}  // namespace strata::ctl

#endif  // STRATA_SERVER_CTL_MESSAGE_JSON_H_
