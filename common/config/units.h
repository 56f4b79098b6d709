// How durations, sizes and numbers are written in files.
#ifndef STRATA_COMMON_CONFIG_UNITS_H_
#define STRATA_COMMON_CONFIG_UNITS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/time/time.h"

namespace strata::config {

// 500ms, 30s, 5m, 1h30m, 1.5h: units ms, s, m, h in any combination; finite, not negative.
std::optional<absl::Duration> ParseDuration(std::string_view text);
// Reads back as the same duration to the millisecond.
std::string FormatDuration(absl::Duration duration);
// 8GiB, 512MB, 1048576: units B, kB, KB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, TiB (powers of 1024); bytes
// without one.
std::optional<uint64_t> ParseSize(std::string_view text);
std::string FormatSize(uint64_t bytes);
// Decimal digits only; no leading zero (YAML's octal trap), no sign.
std::optional<uint64_t> ParseUnsigned(std::string_view text);
// Finite decimal numbers, with or without an exponent.
std::optional<double> ParseNumber(std::string_view text);
// The shortest text that reads back as the same value.
std::string FormatNumber(double value);

}  // namespace strata::config

#endif  // STRATA_COMMON_CONFIG_UNITS_H_
