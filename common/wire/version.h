// The protocol's version. A new minor adds fields that the other side may ignore; a new major does not understand the
// old one.
#ifndef STRATA_COMMON_WIRE_VERSION_H_
#define STRATA_COMMON_WIRE_VERSION_H_

#include <cstddef>
#include <cstdint>

namespace strata::wire {

inline constexpr uint32_t kProtocolMajor = 1;
inline constexpr uint32_t kProtocolMinor = 0;

inline constexpr size_t kAssignmentIdBytes = 16;
inline constexpr size_t kDigestBytes = 32;

}  // namespace strata::wire

#endif  // STRATA_COMMON_WIRE_VERSION_H_
