#include "deploy/simulator/display.h"

#include <unistd.h>

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "deploy/simulator/sim_report.h"

namespace strata::sim {
namespace {

constexpr char kClearLine[] = "\r\033[K";

}  // namespace

Display::Display(bool quiet) : terminal_(isatty(STDERR_FILENO) == 1), quiet_(quiet) {}

Display::~Display() {
  if (terminal_ && !quiet_) std::fputs(kClearLine, stderr);
}

void Display::Report(const v1::JobReport& report) {
  if (quiet_) return;
  const absl::MutexLock lock(&mutex_);
  for (const v1::RoundReport& round : report.rounds()) {
    if (round.state() != "committed" || round.round() <= told_) continue;
    told_ = round.round();
    step_.clear();
    std::fputs(absl::StrCat(terminal_ ? kClearLine : "", RoundLine(round), "\n").c_str(), stderr);
  }
  rounds_ = ProgressLine(report);
  Redraw();
}

void Display::Step(const std::string& site, const train::TrainProgress& step) {
  if (quiet_ || !terminal_) return;
  const absl::MutexLock lock(&mutex_);
  step_ = absl::StrFormat(", %s step %d of %d, loss %.3f", site, step.step, step.of, step.loss);
  Redraw();
}

void Display::Redraw() {
  if (terminal_) std::fputs(absl::StrCat(kClearLine, rounds_, step_).c_str(), stderr);
}

}  // namespace strata::sim
