// What happened in a simulation: its trace as a digest, and what the server promised to whom.
#ifndef STRATA_TESTS_SIM_JOURNAL_H_
#define STRATA_TESTS_SIM_JOURNAL_H_

#include <cstdint>
#include <cstdio>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/runtime/clock.h"
#include "common/secure/digest.h"

namespace strata::sim {

class Journal {
 public:
  Journal(const runtime::Clock& clock, bool verbose) : clock_(clock), verbose_(verbose) {}

  // One fact, part of the trace.
  void Note(const std::string& who, const std::string& what) {
    const std::string line = absl::StrCat(absl::FormatDuration(clock_.Monotonic()), " ", who, " ", what, "\n");
    trace_.Update(std::as_bytes(std::span(line.data(), line.size())));
    if (verbose_) std::fputs(line.c_str(), stdout);
  }
  // A broken invariant; the first ones are kept.
  void Fail(const std::string& what) {
    Note("VIOLATION", what);
    if (violations_.size() < 10) violations_.push_back(what);
  }
  const std::vector<std::string>& violations() const { return violations_; }
  std::string TraceHash() { return secure::ToHex(trace_.Finish()).substr(0, 16); }

  struct Issued {
    std::string site;
    uint32_t round = 0;
  };
  std::map<std::string, Issued> assignments;  // by id, as sites received them
  struct Promise {
    std::string site, sha256;
    uint32_t round = 0;
  };
  std::map<std::string, Promise> receipts;  // updates that the server said it has, by assignment

 private:
  const runtime::Clock& clock_;
  const bool verbose_;
  secure::Sha256Stream trace_;
  std::vector<std::string> violations_;
};

}  // namespace strata::sim

#endif  // STRATA_TESTS_SIM_JOURNAL_H_
