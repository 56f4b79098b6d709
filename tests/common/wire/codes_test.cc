#include "common/wire/codes.h"

#include <grpcpp/support/status.h>
#include <gtest/gtest.h>

#include "absl/strings/cord.h"
#include "common/wire/address.h"
#include "common/wire/chunk.h"

namespace strata::wire {
namespace {

TEST(CodesTest, OneToOneWithGrpc) {
  for (int code = 0; code <= 16; ++code) {
    const grpc::Status status(static_cast<grpc::StatusCode>(code), code == 0 ? "" : "why");
    const absl::Status converted = FromGrpc(status);
    EXPECT_EQ(static_cast<int>(converted.code()), code);  // absl numbers its codes as gRPC does
    EXPECT_EQ(ToGrpc<grpc::Status>(converted).error_code(), status.error_code());
    EXPECT_EQ(ToGrpc<grpc::Status>(converted).error_message(), status.error_message());
  }
  EXPECT_EQ(FromWireCode(99), absl::StatusCode::kUnknown);
  EXPECT_EQ(FromWireCode(-1), absl::StatusCode::kUnknown);
}

TEST(CodesTest, LongMessagesAreCutAtACharacter) {
  std::string text(kMaxStatusMessageBytes - 1, 'x');
  text += "\xc3\xa4\xc3\xa4";
  EXPECT_EQ(WireMessage(text), std::string(kMaxStatusMessageBytes - 1, 'x') + " [...]");
  EXPECT_EQ(WireMessage("short"), "short");
}

TEST(CodesTest, TheDelayThatAServerAsksForTravels) {
  absl::Status busy = absl::ResourceExhaustedError("busy");
  busy.SetPayload(kRetryAfterPayload, absl::Cord("1500"));
  const absl::Status received = FromGrpc(ToGrpc<grpc::Status>(busy));
  EXPECT_EQ(received.GetPayload(kRetryAfterPayload), absl::Cord("1500"));
  const grpc::Status junk(grpc::StatusCode::UNAVAILABLE, "x", "retry-after-ms=soon");
  EXPECT_FALSE(FromGrpc(junk).GetPayload(kRetryAfterPayload).has_value());
}

TEST(AddressTest, LoopbackOnlyWithoutTls) {
  for (const char* good : {"localhost:1", "127.0.0.1:0", "127.255.3.4:65535", "[::1]:80"}) {
    EXPECT_TRUE(CheckPlainAddress(good).ok()) << good;
  }
  for (const char* bad :
       {"0.0.0.0:1", "example.org:1", "10.0.0.1:1", "[::]:1", "127.0.0.1.evil.org:1", "127.1:1", "::1:80", "localhost",
        "localhost:", "localhost:65536", ":1", "", "127.0.0.256:1", "localhost:+1"}) {
    EXPECT_EQ(CheckPlainAddress(bad).code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(AddressTest, SiteNames) {
  for (const char* good : {"site-1", "clinic.example.org", "A_b"}) EXPECT_TRUE(CheckSiteName(good).ok()) << good;
  for (const char* bad : {"", ".", "..", "-x", "a/b", "a b", "a\nb", "\xc3\xa4"})
    EXPECT_FALSE(CheckSiteName(bad).ok()) << bad;
  EXPECT_FALSE(CheckSiteName(std::string(65, 'a')).ok());
}

}  // namespace
}  // namespace strata::wire
