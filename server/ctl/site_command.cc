#include <algorithm>
#include <iostream>
#include <string>

#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "common/status/status_macros.h"
#include "server/ctl/commands.h"
#include "server/ctl/message_json.h"

namespace strata::ctl {
namespace {

std::string SiteTable(const v1::ListSitesResponse& sites) {
  if (sites.sites().empty()) return "no site has checked in since the server started\n";
  size_t width = 4;
  for (const v1::SiteInfo& site : sites.sites()) width = std::max(width, site.name().size());
  std::string text =
      absl::StrFormat("%-*s  %-12s  %-19s  %-20s  %s\n", width, "site", "state", "last seen", "software", "detail");
  for (const v1::SiteInfo& site : sites.sites()) {
    const std::string seen =
        absl::FormatTime("%Y-%m-%d %H:%M:%S", absl::FromUnixMillis(site.last_seen_unix_ms()), absl::LocalTimeZone());
    text += absl::StrFormat("%-*s  %-12s  %-19s  %-20s  %s\n", width, site.name(), site.state(), seen, site.software(),
                            site.detail());
  }
  return text;
}

absl::Status List(const CtlContext& context) {
  STRATA_ASSIGN_OR_RETURN(AdminClient client, AdminClient::Connect(context.socket));
  STRATA_ASSIGN_OR_RETURN(const v1::ListSitesResponse sites, client.ListSites());
  std::cout << (context.json() ? MessageJson(sites) + "\n" : SiteTable(sites));
  return absl::OkStatus();
}

}  // namespace

void AddSiteCommand(CLI::App& app, CtlContext& context) {
  CLI::App* site = app.add_subcommand("site", "The sites that take part");
  site->require_subcommand(1)->fallthrough();
  site->add_subcommand("list", "Who is there, who is not eligible and why")->fallthrough()->callback([&context] {
    if (absl::Status status = List(context); !status.ok()) Report(status, context);
  });
}

}  // namespace strata::ctl
