// Any text as each kind of configuration file: faults, or options that print to a text of the same options.
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/strings/match.h"
#include "common/config/config.h"
#include "tests/fuzz/require.h"

namespace {

using namespace strata::config;  // NOLINT(google-build-using-namespace): ten names, in a program of its own

template <typename Parse, typename Print>
void RoundTrip(std::string_view text, Parse parse, Print print) {
  const auto options = parse(text, "fuzz");
  if (!options.ok()) {
    STRATA_REQUIRE(absl::IsInvalidArgument(options.status()) && absl::StartsWith(options.status().message(), "fuzz:"));
    return;
  }
  const std::string printed = print(*options);
  const auto again = parse(printed, "fuzz");
  STRATA_REQUIRE(again.ok() && print(*again) == printed);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  RoundTrip(text, ParseTrain, PrintTrain);
  RoundTrip(text, ParseJob, PrintJob);
  RoundTrip(text, ParseClient, PrintClient);
  RoundTrip(text, ParseServer, PrintServer);
  RoundTrip(text, ParseSim, PrintSim);
  return 0;
}
