// Checking one section of a message: faults that name key, value and what was expected.
#ifndef STRATA_COMMON_CONFIG_SECTION_H_
#define STRATA_COMMON_CONFIG_SECTION_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "common/config/faults.h"
#include "common/config/options.h"

namespace strata::config {

// A borrowed view; `faults` outlives it.
class Section {
 public:
  Section(Faults& faults, std::string_view prefix) : faults_(&faults), prefix_(prefix) {}
  Section Sub(std::string_view key) const { return {*faults_, Path(key)}; }

  std::string Path(std::string_view key) const { return JoinKeys(prefix_, key); }
  // The key stands in the file, with a value that could be read.
  bool Given(std::string_view key) const { return faults_->Given(Path(key)); }
  // The key stands in the file, with a value that could not be read: that fault has been reported.
  bool Broken(std::string_view key) const { return faults_->Broken(Path(key)); }
  // A fault at the key, with the text as it is.
  void Fault(std::string_view key, std::string_view message) const { faults_->Add(Path(key), message); }
  // "`key` is FOUND; expected EXPECTED".
  void Refuse(std::string_view key, std::string_view found, std::string_view expected) const;
  // A required key is absent or empty; `what` says what belongs there.
  void Missing(std::string_view key, std::string_view what) const;

  // Refuse unless the value is right.
  void Require(bool right, std::string_view key, double value, std::string_view expected) const;
  void RequireAtLeast(std::string_view key, uint64_t value, uint64_t least) const;
  void RequireWord(std::string_view key, const std::string& value, const std::vector<std::string>& words) const;
  // Longer than zero.
  absl::Duration ReadDuration(std::string_view key, const std::string& text) const;

 private:
  Faults* faults_;
  std::string prefix_;
};

struct Address {
  std::string host;
  uint32_t port = 0;
  bool loopback = false;
};

// host:port, [::1]:port; unix:path counts as loopback.
std::optional<Address> ParseAddress(std::string_view text);
// auto | cpu | cuda | cuda:N
bool IsDevice(std::string_view text);
// Letters, digits, '.', '_', '-'; at most 64, not starting with '.' or '-': fit for file names and command lines.
bool IsName(std::string_view text);

}  // namespace strata::config

#endif  // STRATA_COMMON_CONFIG_SECTION_H_
