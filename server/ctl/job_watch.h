// Follows one job to its end: a live display on a terminal, plain lines elsewhere.
#ifndef STRATA_SERVER_CTL_JOB_WATCH_H_
#define STRATA_SERVER_CTL_JOB_WATCH_H_

#include <map>
#include <ostream>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "proto/admin.pb.h"

namespace strata::ctl {

// On a terminal the open round is redrawn in place; what is over stays above it. Elsewhere one line per change of a
// round's or a site's state. Not thread-safe.
class JobDisplay {
 public:
  // `columns`: width of the terminal; 0: no terminal.
  JobDisplay(std::ostream& out, int columns) : out_(out), columns_(columns) {}
  void Show(const v1::JobReport& report);

 private:
  void Erase();
  void Print(const std::string& line);
  void PrintChanges(const v1::JobReport& report);
  void Draw(const v1::JobReport& report);

  std::ostream& out_;
  const int columns_;
  size_t drawn_ = 0;                               // lines below which the cursor stands
  std::set<std::pair<uint32_t, uint32_t>> ended_;  // rounds whose result was printed
  std::map<std::string, std::string> states_;      // last printed state by what it belongs to
};

}  // namespace strata::ctl

#endif  // STRATA_SERVER_CTL_JOB_WATCH_H_
