#include <algorithm>
#include <functional>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/config/validate.h"

namespace strata::config {
namespace {

constexpr size_t kLongestSocketPath = 107;  // sockaddr_un

TlsOptions ValidateTls(const v1::TlsConfig& proto, const Section& section) {
  TlsOptions options{.cert = proto.cert(), .key = proto.key(), .ca = proto.ca()};
  if (options.cert.empty() && options.key.empty() && options.ca.empty()) return options;
  if (options.cert.empty()) section.Missing("cert", "the PEM file of this process's certificate");
  if (options.key.empty()) section.Missing("key", "the PEM file of this process's private key");
  if (options.ca.empty()) section.Missing("ca", "the PEM file of the authority that signs the peers");
  return options;
}

void CheckLogLevel(const std::string& level, const Section& section) {
  section.RequireWord("log_level", level, {"debug", "info", "warning", "error"});
}

// Without TLS nothing but this machine may be reached.
void CheckAddress(std::string_view key, const std::string& text, bool tls, const Section& section) {
  const std::optional<Address> address = ParseAddress(text);
  if (!address.has_value()) {
    section.Refuse(key, absl::StrCat("`", text, "`"), "HOST:PORT, such as `127.0.0.1:7433`");
  } else if (!tls && !address->loopback) {
    section.Fault(key, absl::StrCat("`", std::string(key), "` is `", text,
                                    "`, which is not a loopback address; other addresses need `tls: {cert, key, ca}`"));
  }
}

// Also true where some of it is missing, which is a fault of its own.
bool AnyTls(const TlsOptions& tls) { return !tls.cert.empty() || !tls.key.empty() || !tls.ca.empty(); }

SimSitesOptions ValidateSimSites(const v1::SimSitesConfig& proto, const Section& section, uint32_t max_rank) {
  SimSitesOptions options;
  if (proto.count() == 0 && !section.Given("count")) {
    section.Missing("count", "how many sites to simulate");
  } else {
    options.count = proto.count();
    section.RequireAtLeast("count", options.count, 1);
  }
  options.ranks.assign(proto.ranks().begin(), proto.ranks().end());
  for (const uint32_t rank : options.ranks) {
    if (rank < 1 || rank > max_rank) {
      section.Refuse("ranks", absl::StrCat(rank), absl::StrCat("ranks from 1 to ", max_rank, ", the job's `max_rank`"));
    }
  }
  options.data = proto.data();
  if (options.data.empty())
    section.Missing(
        "data",
        "the rows that are shared out among the sites: JSONL (also .zst) or Parquet, a file, a folder or a pattern");
  if (!proto.partition().empty()) options.partition = proto.partition();
  section.RequireWord("partition", options.partition, {"iid", "dirichlet", "key"});
  if (proto.has_concentration()) options.concentration = proto.concentration();
  section.Require(options.concentration > 0, "concentration", options.concentration, "a number greater than 0");
  options.key = proto.key();
  if (options.key.empty() && (options.partition == "key" || options.partition == "dirichlet")) {
    section.Missing("key", absl::StrCat("the row field that `partition: ", options.partition, "` goes by"));
  }
  return options;
}

// A simulation has no labels, one machine trusts itself, and its sites take turns, however long that takes: what a job
// must say elsewhere has a default here.
v1::JobConfig WithSimDefaults(const v1::SimConfig& proto) {
  v1::JobConfig job = proto.job();
  if (job.name().empty()) job.set_name("sim");
  if (job.data().empty()) job.set_data("data");
  if (!job.rounds().has_timeout()) job.mutable_rounds()->set_timeout("720h");
  if (!job.training().has_seed() && proto.has_seed()) job.mutable_training()->set_seed(proto.seed());
  const uint32_t count = std::max(1U, proto.sites().count());
  if (!job.rounds().has_min_sites() && count < RoundsOptions().min_sites) job.mutable_rounds()->set_min_sites(count);
  return job;
}

}  // namespace

ServerOptions ValidateServer(const v1::ServerConfig& proto, const Section& section) {
  ServerOptions options;
  options.state_dir = proto.state_dir();
  if (options.state_dir.empty()) section.Missing("state_dir", "the folder of the server's database and blobs");
  options.tls = ValidateTls(proto.tls(), section.Sub("tls"));
  if (!proto.listen().empty()) options.listen = proto.listen();
  CheckAddress("listen", options.listen, AnyTls(options.tls) || section.Broken("tls"), section);
  options.admin_socket = proto.admin_socket().empty() ? options.state_dir + "/admin.sock" : proto.admin_socket();
  if (options.admin_socket.size() > kLongestSocketPath) {
    section.Refuse("admin_socket", absl::StrCat("`", options.admin_socket, "`"),
                   absl::StrCat("a path of at most ", kLongestSocketPath, " bytes, as Unix sockets allow"));
  }
  if (proto.has_max_update_bytes()) options.max_update_bytes = proto.max_update_bytes();
  section.RequireAtLeast("max_update_bytes", options.max_update_bytes, 1);
  if (proto.has_progress_interval()) {
    options.progress_interval = section.ReadDuration("progress_interval", proto.progress_interval());
  }
  if (proto.has_liveness_timeout()) {
    options.liveness_timeout = section.ReadDuration("liveness_timeout", proto.liveness_timeout());
  }
  if (options.liveness_timeout > absl::ZeroDuration() && options.liveness_timeout <= options.progress_interval) {
    section.Fault(section.Given("liveness_timeout") ? "liveness_timeout" : "progress_interval",
                  absl::StrCat("`liveness_timeout` (", absl::FormatDuration(options.liveness_timeout),
                               ") must be longer than `progress_interval` (",
                               absl::FormatDuration(options.progress_interval), ")"));
  }
  if (!proto.log_level().empty()) options.log_level = proto.log_level();
  CheckLogLevel(options.log_level, section);
  return options;
}

ClientOptions ValidateClient(const v1::ClientConfig& proto, const Section& section) {
  ClientOptions options;
  options.tls = ValidateTls(proto.tls(), section.Sub("tls"));
  options.server = proto.server();
  if (options.server.empty()) {
    section.Missing("server", "HOST:PORT of the server");
  } else {
    CheckAddress("server", options.server, AnyTls(options.tls) || section.Broken("tls"), section);
  }
  options.state_dir = proto.state_dir();
  if (options.state_dir.empty()) section.Missing("state_dir", "the folder in which the client keeps its work");
  options.models.insert(proto.models().begin(), proto.models().end());
  options.data.insert(proto.data().begin(), proto.data().end());
  if (!proto.device().empty()) options.device = proto.device();
  if (!IsDevice(options.device)) {
    section.Refuse("device", absl::StrCat("`", options.device, "`"), "auto, cpu, cuda or cuda:N");
  }
  if (proto.has_max_rank()) options.max_rank = proto.max_rank();
  if (proto.has_rank()) options.rank = proto.rank();
  if (proto.has_alpha()) options.alpha = proto.alpha();
  section.RequireAtLeast("max_rank", options.max_rank.value_or(1), 1);
  section.RequireAtLeast("rank", options.rank.value_or(1), 1);
  section.Require(options.alpha.value_or(1) > 0, "alpha", options.alpha.value_or(1), "a number greater than 0");
  if (options.rank.has_value() && options.max_rank.has_value() && *options.rank > *options.max_rank) {
    section.Refuse("rank", absl::StrCat(*options.rank),
                   absl::StrCat("at most ", *options.max_rank, ", this site's `max_rank`"));
  }
  if (options.alpha.has_value() && !options.rank.has_value()) section.Fault("alpha", "`alpha` needs `rank` beside it");
  options.threads = proto.threads();
  options.trainer_command.assign(proto.trainer().command().begin(), proto.trainer().command().end());
  if (!options.trainer_command.empty() && options.trainer_command[0].empty()) {
    section.Fault("trainer.command", "`command` starts with an empty word; expected the program to run");
  }
  if (!proto.log_level().empty()) options.log_level = proto.log_level();
  CheckLogLevel(options.log_level, section);
  options.name = proto.name();
  if (!options.name.empty() && AnyTls(options.tls)) {
    section.Fault("name", "`name` contradicts `tls`: a site's name is its certificate's");
  } else if (!options.name.empty() && !IsName(options.name)) {
    section.Refuse("name", absl::StrCat("`", options.name, "`"), "up to 64 letters, digits, `.`, `_`, `-`");
  }
  if (proto.has_max_rounds()) options.max_rounds = proto.max_rounds();
  section.RequireAtLeast("max_rounds", options.max_rounds.value_or(1), 1);
  return options;
}

SimOptions ValidateSim(const v1::SimConfig& proto, const Section& section) {
  SimOptions options;
  const Section job = section.Sub("job");
  options.job = ValidateJob(WithSimDefaults(proto), job);
  if (!options.job.sites.empty())
    job.Fault("sites", "a simulation names its sites itself; expected no list of names here");
  if (!proto.has_sites()) {
    section.Missing("sites", "expected at least `sites: {count: N, data: FILE}`");
  } else {
    options.sites = ValidateSimSites(proto.sites(), section.Sub("sites"), options.job.max_rank);
    if (proto.job().rounds().has_min_sites() && proto.sites().count() > 0 &&
        options.job.rounds.min_sites > options.sites.count) {
      job.Refuse("rounds.min_sites", absl::StrCat(options.job.rounds.min_sites),
                 absl::StrCat("at most ", options.sites.count, ", the `count` of sites"));
    }
  }
  if (options.job.rounds.report_goal.value_or(0) > options.sites.count) {
    job.Refuse("rounds.report_goal", absl::StrCat(*options.job.rounds.report_goal),
               absl::StrCat("at most ", options.sites.count, ", the `count` of sites"));
  }
  const bool mixed = std::adjacent_find(options.sites.ranks.begin(), options.sites.ranks.end(),
                                        std::not_equal_to<>()) != options.sites.ranks.end();
  if (options.job.aggregation.method == AggregationMethod::kFedit && mixed) {
    section.Fault("sites.ranks", "different `ranks` contradict `method: fedit`, which averages factors of equal ranks");
  }
  options.model = proto.model();
  if (options.model.empty()) section.Missing("model", "a HF directory, org/name or GGUF file");
  options.out = proto.out().empty() ? "out" : proto.out();
  if (proto.has_seed()) options.seed = proto.seed();
  options.threads = proto.threads();
  options.single_sites = proto.single_sites();
  if (options.single_sites && options.job.evaluation.holdout == 0) {
    section.Fault("single_sites",
                  "`single_sites` needs rows to score on; set `evaluation: {holdout: 0.1}` or the like");
  }
  return options;
}

}  // namespace strata::config
