#include "server/ctl/job_watch.h"

#include "absl/strings/str_cat.h"
#include "server/ctl/job_text.h"

namespace strata::ctl {
namespace {

bool IsOver(const v1::RoundReport& round) { return round.state() == "committed" || round.state() == "retried"; }

// Bytes that do not begin a character are not counted; a wide character may still take two columns.
std::string Fit(const std::string& line, int columns) {
  int used = 0;
  for (size_t i = 0; i < line.size(); ++i) {
    if ((static_cast<unsigned char>(line[i]) & 0xC0U) == 0x80U) continue;
    if (++used > columns) return line.substr(0, i);
  }
  return line;
}

}  // namespace

void JobDisplay::Show(const v1::JobReport& report) {
  Erase();
  PrintChanges(report);
  if (columns_ > 0) Draw(report);
  out_.flush();
}

void JobDisplay::Erase() {
  if (drawn_ > 0) out_ << "\x1b[" << drawn_ << "A\x1b[J";
  drawn_ = 0;
}

void JobDisplay::Print(const std::string& line) { out_ << line << "\n"; }

void JobDisplay::PrintChanges(const v1::JobReport& report) {
  for (const v1::RoundReport& round : report.rounds()) {
    const std::pair<uint32_t, uint32_t> key(round.round(), round.attempt());
    if (ended_.contains(key)) continue;
    const std::string name = absl::StrCat("round ", round.round(), ".", round.attempt());
    if (columns_ == 0) {
      for (const v1::SiteRound& site : round.sites()) {
        std::string& state = states_[absl::StrCat(name, " ", site.site())];
        if (state == site.state()) continue;
        state = site.state();
        Print(absl::StrCat("round ", round.round(), "  ", SiteLine(site)));
      }
      std::string& state = states_[name];
      if (state != round.state() && !IsOver(round)) Print(RoundLine(round));
      state = round.state();
    }
    if (!IsOver(round)) continue;
    ended_.insert(key);
    Print(RoundLine(round));
    if (columns_ == 0) continue;
    for (const v1::SiteRound& site : round.sites()) Print(absl::StrCat("  ", SiteLine(site)));
  }
  if (HasEnded(report.summary().state())) {
    const std::optional<double> loss = FindMetric(report.final_evaluation(), "loss");
    Print(JobLine(report) + (loss ? absl::StrCat("  held-out loss ", *loss) : ""));
  }
}

void JobDisplay::Draw(const v1::JobReport& report) {
  if (HasEnded(report.summary().state())) return;
  std::vector<std::string> lines = {JobLine(report)};
  for (const v1::RoundReport& round : report.rounds()) {
    if (IsOver(round)) continue;
    lines.push_back(RoundLine(round));
    for (const v1::SiteRound& site : round.sites()) lines.push_back(absl::StrCat("  ", SiteLine(site)));
  }
  for (const std::string& line : lines) Print(Fit(line, columns_));
  drawn_ = lines.size();
}

}  // namespace strata::ctl
