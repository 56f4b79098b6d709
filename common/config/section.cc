#include "common/config/section.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/config/units.h"

namespace strata::config {
namespace {

std::string LastKey(std::string_view key) {
  const size_t dot = key.rfind('.');
  return std::string(dot == std::string_view::npos ? key : key.substr(dot + 1));
}

}  // namespace

void Section::Refuse(std::string_view key, std::string_view found, std::string_view expected) const {
  Fault(key, absl::StrCat("`", LastKey(key), "` is ", std::string(found), "; expected ", std::string(expected)));
}

void Section::Missing(std::string_view key, std::string_view what) const {
  if (Broken(key)) return;
  const std::string problem =
      Given(key) ? absl::StrCat("`", LastKey(key), "` is empty: ") : absl::StrCat("missing key `", Path(key), "`: ");
  Fault(key, problem + std::string(what));
}

void Section::Require(bool right, std::string_view key, double value, std::string_view expected) const {
  if (!right) Refuse(key, FormatNumber(value), expected);
}

void Section::RequireAtLeast(std::string_view key, uint64_t value, uint64_t least) const {
  if (value < least) Refuse(key, absl::StrCat(value), absl::StrCat("at least ", least));
}

void Section::RequireWord(std::string_view key, const std::string& value, const std::vector<std::string>& words) const {
  if (std::find(words.begin(), words.end(), value) != words.end()) return;
  Refuse(key, absl::StrCat("`", value, "`"),
         absl::StrCat("one of ", absl::StrJoin(words, ", "), "; did you mean `", Nearest(value, words), "`?"));
}

absl::Duration Section::ReadDuration(std::string_view key, const std::string& text) const {
  const std::optional<absl::Duration> duration = ParseDuration(text);
  if (duration.has_value() && *duration > absl::ZeroDuration()) return *duration;
  Refuse(key, absl::StrCat("`", text, "`"), "a duration such as `30s`, `5m` or `1h30m`");
  return absl::ZeroDuration();
}

std::optional<Address> ParseAddress(std::string_view text) {
  if (text.starts_with("unix:")) return Address{.host = std::string(text), .port = 0, .loopback = true};
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return std::nullopt;
  const std::optional<uint64_t> port = ParseUnsigned(text.substr(colon + 1));
  std::string_view host = text.substr(0, colon);
  if (!port.has_value() || *port > 65535) return std::nullopt;
  if (host.starts_with('[') && host.ends_with(']')) {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return std::nullopt;  // IPv6 needs its brackets
  }
  if (host.empty() || host.find_first_of(" \t/") != std::string_view::npos) return std::nullopt;
  const bool digits = host.find_first_not_of("0123456789.") == std::string_view::npos;
  const bool loopback = host == "localhost" || host == "::1" || (digits && host.starts_with("127."));
  return Address{.host = std::string(host), .port = static_cast<uint32_t>(*port), .loopback = loopback};
}

bool IsDevice(std::string_view text) {
  if (text == "auto" || text == "cpu" || text == "cuda") return true;
  return text.starts_with("cuda:") && ParseUnsigned(text.substr(5)).value_or(1000) < 1000;
}

bool IsName(std::string_view text) {
  if (text.empty() || text.size() > 64 || text[0] == '.' || text[0] == '-') return false;
  return std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
  });
}

}  // namespace strata::config
