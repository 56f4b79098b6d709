#include "common/wire/address.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace strata::wire {
namespace {

constexpr int kMaxPort = 65535;
constexpr size_t kMaxSiteName = 64;

bool IsLoopbackV4(absl::string_view host) {
  const std::vector<absl::string_view> parts = absl::StrSplit(host, '.');
  if (parts.size() != 4 || parts[0] != "127") return false;
  return std::all_of(parts.begin(), parts.end(), [](absl::string_view part) {
    int value = 0;
    return part.size() <= 3 && std::all_of(part.begin(), part.end(), absl::ascii_isdigit) &&
           absl::SimpleAtoi(part, &value) && value <= 255;
  });
}

}  // namespace

std::string HostPort::ToString() const {
  const bool v6 = host.find(':') != std::string::npos;
  return v6 ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

absl::StatusOr<HostPort> ParseHostPort(absl::string_view address) {
  const auto fault = [&] {
    return absl::InvalidArgumentError(absl::StrCat("`", address, "` is no address; expected HOST:PORT or [IPV6]:PORT"));
  };
  const size_t colon = address.rfind(':');
  if (colon == absl::string_view::npos) return fault();
  absl::string_view host = address.substr(0, colon);
  const absl::string_view port = address.substr(colon + 1);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != absl::string_view::npos) {
    return fault();
  }
  HostPort result{.host = std::string(host), .port = 0};
  const bool digits = !port.empty() && std::all_of(port.begin(), port.end(), absl::ascii_isdigit);
  if (host.empty() || !digits || !absl::SimpleAtoi(port, &result.port) || result.port > kMaxPort) return fault();
  return result;
}

bool IsLoopback(absl::string_view host) { return host == "localhost" || host == "::1" || IsLoopbackV4(host); }

absl::Status CheckPlainAddress(absl::string_view address) {
  absl::StatusOr<HostPort> parsed = ParseHostPort(address);
  if (!parsed.ok()) return parsed.status();
  if (IsLoopback(parsed->host)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("`", address,
                   "` is no loopback address (localhost, 127.x.x.x, ::1), and without TLS no other is used; give `tls: "
                   "{cert, key, ca}` (deploy/certs.sh makes files for trying things)"));
}

absl::Status CheckSiteName(absl::string_view name) {
  const auto allowed = [](char c) { return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-'; };
  if (!name.empty() && name.size() <= kMaxSiteName && name[0] != '.' && name[0] != '-' &&
      std::all_of(name.begin(), name.end(), allowed)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("`", absl::CHexEscape(name.substr(0, kMaxSiteName)),
                   "` is no site name; expected 1 to 64 of A-Z a-z 0-9 . _ - that do not begin with . or -"));
}

}  // namespace strata::wire
