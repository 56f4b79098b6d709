// Tree -> proto message, by reflection: keys are field names.
#ifndef STRATA_COMMON_CONFIG_MESSAGE_READER_H_
#define STRATA_COMMON_CONFIG_MESSAGE_READER_H_

#include "common/config/faults.h"
#include "common/config/tree.h"
#include "google/protobuf/message.h"

namespace strata::config {

// Fills `message` from `root` and tells `faults` the line of every key. Faults: unknown keys, wrong types. A field
// whose value is at fault stays unset.
void ReadMessage(const Node& root, Faults& faults, google::protobuf::Message& message);

}  // namespace strata::config

#endif  // STRATA_COMMON_CONFIG_MESSAGE_READER_H_
