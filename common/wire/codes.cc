#include "common/wire/codes.h"

#include <algorithm>
#include <array>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/types/optional.h"
#include "common/wire/chunk.h"

namespace strata::wire {
namespace {

struct Row {
  absl::StatusCode code;
  int wire;
};

constexpr std::array<Row, 17> kTable = {{
    {absl::StatusCode::kOk, 0},
    {absl::StatusCode::kCancelled, 1},
    {absl::StatusCode::kUnknown, 2},
    {absl::StatusCode::kInvalidArgument, 3},
    {absl::StatusCode::kDeadlineExceeded, 4},
    {absl::StatusCode::kNotFound, 5},
    {absl::StatusCode::kAlreadyExists, 6},
    {absl::StatusCode::kPermissionDenied, 7},
    {absl::StatusCode::kResourceExhausted, 8},
    {absl::StatusCode::kFailedPrecondition, 9},
    {absl::StatusCode::kAborted, 10},
    {absl::StatusCode::kOutOfRange, 11},
    {absl::StatusCode::kUnimplemented, 12},
    {absl::StatusCode::kInternal, 13},
    {absl::StatusCode::kUnavailable, 14},
    {absl::StatusCode::kDataLoss, 15},
    {absl::StatusCode::kUnauthenticated, 16},
}};
constexpr int kUnknownOnWire = 2;
constexpr char kRetryAfter[] = "retry-after-ms=";

}  // namespace

int ToWireCode(absl::StatusCode code) {
  const auto* row = std::find_if(kTable.begin(), kTable.end(), [&](const Row& r) { return r.code == code; });
  return row == kTable.end() ? kUnknownOnWire : row->wire;
}

absl::StatusCode FromWireCode(int code) {
  const auto* row = std::find_if(kTable.begin(), kTable.end(), [&](const Row& r) { return r.wire == code; });
  return row == kTable.end() ? absl::StatusCode::kUnknown : row->code;
}

std::string WireMessage(absl::string_view message) {
  if (message.size() <= kMaxStatusMessageBytes) return std::string(message);
  size_t end = kMaxStatusMessageBytes;
  while (end > 0 && (static_cast<unsigned char>(message[end]) & 0xC0U) == 0x80U) --end;
  return absl::StrCat(message.substr(0, end), " [...]");
}

std::string WireDetails(const absl::Status& status) {
  const absl::optional<absl::Cord> delay = status.GetPayload(kRetryAfterPayload);
  return delay.has_value() ? absl::StrCat(kRetryAfter, std::string(*delay)) : "";
}

absl::Status WithDetails(absl::Status status, absl::string_view details) {
  uint64_t milliseconds = 0;
  if (!status.ok() && absl::ConsumePrefix(&details, kRetryAfter) && absl::SimpleAtoi(details, &milliseconds)) {
    status.SetPayload(kRetryAfterPayload, absl::Cord(absl::StrCat(milliseconds)));
  }
  return status;
}

}  // namespace strata::wire
