#include "common/config/units.h"

#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include "absl/strings/string_view.h"

namespace strata::config {
namespace {

struct Unit {
  std::string_view name;
  uint64_t bytes;
};

// Largest first: the first that divides a size is the one to print. Of two of the same value the first is printed.
constexpr std::array<Unit, 10> kUnits = {{{"TiB", uint64_t{1} << 40},
                                          {"TB", 1'000'000'000'000},
                                          {"GiB", uint64_t{1} << 30},
                                          {"GB", 1'000'000'000},
                                          {"MiB", uint64_t{1} << 20},
                                          {"MB", 1'000'000},
                                          {"KiB", uint64_t{1} << 10},
                                          {"kB", 1'000},
                                          {"KB", 1'000},
                                          {"B", 1}}};

constexpr std::string_view kDigits = "0123456789";

}  // namespace

std::optional<absl::Duration> ParseDuration(std::string_view text) {
  // Narrower than absl's grammar: no sign, no "inf", no bare 0, no units below a millisecond.
  if (text.empty() || text.find_first_not_of("0123456789.hms") != std::string_view::npos) return std::nullopt;
  if (kDigits.find(text.back()) != std::string_view::npos) return std::nullopt;
  absl::Duration duration;
  if (!absl::ParseDuration(absl::string_view(text.data(), text.size()), &duration)) return std::nullopt;
  if (duration == absl::InfiniteDuration()) return std::nullopt;
  return duration;
}

std::string FormatDuration(absl::Duration duration) {
  return absl::FormatDuration(absl::Trunc(duration, absl::Milliseconds(1))) +
         (duration == absl::ZeroDuration() ? "s" : "");
}

std::optional<uint64_t> ParseUnsigned(std::string_view text) {
  if (text.empty() || text.find_first_not_of(kDigits) != std::string_view::npos) return std::nullopt;
  if (text.size() > 1 && text[0] == '0') return std::nullopt;
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<uint64_t> ParseSize(std::string_view text) {
  const size_t digits = std::min(text.find_first_not_of(kDigits), text.size());
  const std::optional<uint64_t> count = ParseUnsigned(text.substr(0, digits));
  std::string_view name = text.substr(digits);
  while (name.starts_with(' ')) name.remove_prefix(1);
  if (!count.has_value()) return std::nullopt;
  if (name.empty()) return count;
  for (const Unit& unit : kUnits) {
    if (unit.name != name) continue;
    if (*count > std::numeric_limits<uint64_t>::max() / unit.bytes) return std::nullopt;
    return *count * unit.bytes;
  }
  return std::nullopt;
}

std::string FormatSize(uint64_t bytes) {
  for (const Unit& unit : kUnits) {
    if (bytes >= unit.bytes && bytes % unit.bytes == 0) return std::to_string(bytes / unit.bytes).append(unit.name);
  }
  return "0B";
}

std::optional<double> ParseNumber(std::string_view text) {
  if (text.starts_with('+') && !text.starts_with("+-")) text.remove_prefix(1);  // from_chars takes no plus
  if (text.empty() || text.find_first_not_of("0123456789.eE+-") != std::string_view::npos) return std::nullopt;
  const std::string_view magnitude = text.starts_with('-') ? text.substr(1) : text;
  if (magnitude.size() > 1 && magnitude[0] == '0' && kDigits.find(magnitude[1]) != std::string_view::npos)
    return std::nullopt;
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) return std::nullopt;
  return value;
}

std::string FormatNumber(double value) {
  std::array<char, 32> buffer;
  const auto [end, error] = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
  return {buffer.data(), end};
}

}  // namespace strata::config
